"""Dreams as Gymnasium environments: ``gymnasium.make("magrathea/Dream-v0", world=...)`` and ``gymnasium.make_vec``.

Importing this package registers the id; PyTorch is imported only once an environment is made.
"""

from typing import TYPE_CHECKING, Any

from magrathea.envs.registration import DREAM_ID, register_dream

if TYPE_CHECKING:
    from magrathea.envs.dream import DreamEnv
    from magrathea.envs.vector import DreamVectorEnv

register_dream()

__all__ = ["DREAM_ID", "DreamEnv", "DreamVectorEnv", "register_dream"]


def __getattr__(name: str) -> Any:
    if name == "DreamEnv":
        from magrathea.envs.dream import DreamEnv

        return DreamEnv
    if name == "DreamVectorEnv":
        from magrathea.envs.vector import DreamVectorEnv

        return DreamVectorEnv
    raise AttributeError(f"module 'magrathea.envs' has no attribute '{name}'")
