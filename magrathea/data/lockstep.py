"""Playing episodes in several environments at once, by a policy that acts in all of them together.

B environments, of which each plays one episode after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from magrathea.spaces import index_batch, stack

Acting = Callable[[Any, np.ndarray], Any]  # observations (B, …), which of them begin an episode -> actions (B, …)
ActingMaker = Callable[[int], Acting]  # of a number B of environments


class Playing(Protocol):
    """An episode that is being played: what was observed last, whether it has ended, and its next step."""

    @property
    def observation(self) -> Any: ...

    @property
    def is_done(self) -> bool: ...

    def step(self, action: Any) -> None: ...


P = TypeVar("P", bound=Playing)


def play_in_lockstep(begin: Callable[[int], P | None], acting: ActingMaker, num_envs: int) -> Iterator[tuple[int, P]]:
    """Play episodes until there are none left, one step of every environment at a time; yields each that has ended,
    with the index of its environment.

    Args:
        begin: an environment's next episode, by the environment's index; None where there is none left, but not at
            first.
        acting: makes the policy.
        num_envs: B.
    """
    playing = [begin(index) for index in range(num_envs)]
    observed = [episode.observation for episode in playing if episode is not None]
    act, is_first = acting(num_envs), np.ones(num_envs, bool)
    while any(episode is not None for episode in playing):
        actions, is_first = act(stack(observed), is_first), np.zeros(num_envs, bool)
        for index, episode in enumerate(playing):
            if episode is None:
                continue
            episode.step(index_batch(actions, index))
            if episode.is_done:
                yield index, episode
                playing[index] = episode = begin(index)
                is_first[index] = episode is not None
            if episode is not None:
                observed[index] = episode.observation
