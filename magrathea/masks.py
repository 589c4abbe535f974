"""Every use of a world is a pattern of holes.

Each function takes a layout and returns a hole mask: a boolean tensor whose last dimension is the N tokens of a step,
True where a token is a hole to be filled. Past steps are always known. Functions of a random pattern also take the
leading shape of the masks wanted and a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import BoolTensor, Generator, Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Role


def _holes(layout: Layout, *roles: Role) -> BoolTensor:
    """(N,) True on the slots of these roles."""
    mask = torch.zeros(layout.num_tokens, dtype=torch.bool)
    for slot in layout.of_role(*roles):
        mask[layout.span(slot.name)] = True
    return mask  # type: ignore[return-value]


def _sprinkle(mask: Tensor, shape: tuple[int, ...], generator: Generator, ratio: float | None) -> BoolTensor:
    """(*shape, N) each True of `mask` stays a hole with probability `ratio`, drawn anew for each mask if not given."""
    share = torch.rand(*shape, 1, generator=generator) if ratio is None else torch.full((*shape, 1), ratio)
    return mask & (torch.rand(*shape, mask.shape[-1], generator=generator) < share)  # type: ignore[return-value]


def forward_dynamics(layout: Layout) -> BoolTensor:
    """Imagine the next step: the action is known; what comes back is not. (N,)"""
    return _holes(layout, "observation", "reward", "terminated")


def forward_in_progress(
    layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None
) -> BoolTensor:
    """Forward dynamics half-way through its filling: some of the holes are filled already. (*shape, N)"""
    return _sprinkle(forward_dynamics(layout), shape, generator, ratio)


def inverse_dynamics(layout: Layout) -> BoolTensor:
    """Infer the action from what was seen before and after it; reward and ending are not shown. (N,)"""
    return _holes(layout, "action", "reward", "terminated")


def behaviour_cloning(layout: Layout) -> BoolTensor:
    """Act like the data: nothing of the step is known; the action is the slot to fill. (N,)"""
    return _holes(layout, "action", "observation", "reward", "terminated")


def judge(layout: Layout) -> BoolTensor:
    """Reward model: what was done and seen is known; its reward and whether it was the end are not. (N,)"""
    return _holes(layout, "reward", "terminated")


def inpaint(layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None) -> BoolTensor:
    """Repair a sensor: part of the observation is missing, the rest of the step is known. (*shape, N)"""
    return _sprinkle(_holes(layout, "observation"), shape, generator, ratio)


def random_holes(
    layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None
) -> BoolTensor:
    """Mask-model pre-training: any token may be a hole. (*shape, N)"""
    return _sprinkle(behaviour_cloning(layout), shape, generator, ratio)


def goal_prompt(layout: Layout) -> BoolTensor:
    """What is absent from the prompt when one acts toward a goal: all of a step but its observation. (N,)"""
    return ~_holes(layout, "observation")  # type: ignore[return-value]


def return_prompt(layout: Layout) -> BoolTensor:
    """What is absent from the prompt when one acts toward a return: all of a step but its reward. (N,)"""
    return ~_holes(layout, "reward")  # type: ignore[return-value]


FIXED: dict[str, Callable[[Layout], BoolTensor]] = {
    "forward_dynamics": forward_dynamics,
    "inverse_dynamics": inverse_dynamics,
    "behaviour_cloning": behaviour_cloning,
    "judge": judge,
}
RANDOM: dict[str, Callable[..., BoolTensor]] = {
    "forward_in_progress": forward_in_progress,
    "inpaint": inpaint,
    "random_holes": random_holes,
}
MIXTURE: dict[str, float] = {
    "forward_dynamics": 0.5,
    "forward_in_progress": 0.14,
    "inverse_dynamics": 0.12,
    "behaviour_cloning": 0.06,
    "judge": 0.06,
    "inpaint": 0.06,
    "random_holes": 0.06,
}


def weights_of(uses: Mapping[str, float]) -> dict[str, float]:
    """The weights of all uses, with those that differ from `MIXTURE`; raises MagratheaError for what is no use, and for
    a weight below 0."""
    for name, weight in uses.items():
        if name not in MIXTURE:
            raise MagratheaError(f"There is no use of a world named '{name}'; name one of: {', '.join(MIXTURE)}.")
        if not isinstance(weight, int | float) or not weight >= 0:
            raise MagratheaError(f"The weight of the use '{name}' is {weight!r}; give a number from 0.")
    weights = MIXTURE | dict(uses)
    if not any(weights.values()):
        raise MagratheaError("All uses have the weight 0; give one of them more.")
    return weights


def mixture(
    layout: Layout, shape: tuple[int, ...], generator: Generator, weights: Mapping[str, float] = MIXTURE
) -> BoolTensor:
    """Training's holes: for each step one use, drawn with the weights. (*shape, N)"""
    names = list(weights)
    chances = torch.tensor([weights[name] for name in names])
    num_masks = int(torch.tensor(shape).prod())
    choice = torch.multinomial(chances, num_masks, replacement=True, generator=generator).reshape(*shape, 1)
    mask = torch.zeros(*shape, layout.num_tokens, dtype=torch.bool)
    for index, name in enumerate(names):
        use = FIXED[name](layout) if name in FIXED else RANDOM[name](layout, shape, generator)
        mask = torch.where(choice == index, use, mask)
    return mask  # type: ignore[return-value]
