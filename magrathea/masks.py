"""Hole masks: each use of a world is a pattern of tokens to fill.

Each function takes a layout and returns a hole mask: a boolean tensor whose last dimension is the N tokens of a step,
True where a token is a hole to be filled. Past steps are always known. Values, which tokens decode to, are never holes.
Functions of a random pattern also take the leading shape of the masks wanted and a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Role


def _holes(layout: Layout, *roles: Role) -> Bool[Tensor, " N"]:
    """True on the tokens of these roles; values follow from their tokens, and are no holes."""
    return layout.mask_of(*roles) & ~layout.values_mask


def _keep_some(
    hole_mask: Bool[Tensor, " N"], shape: tuple[int, ...], generator: Generator, ratio: float | None
) -> Bool[Tensor, "*steps N"]:
    """Each hole of `hole_mask` stays a hole with probability `ratio`, drawn anew for each step if not given."""
    share = torch.rand(*shape, 1, generator=generator) if ratio is None else torch.full((*shape, 1), ratio)
    holes = hole_mask.nonzero().squeeze(-1)
    result = torch.zeros(*shape, len(hole_mask), dtype=torch.bool)
    result[..., holes] = torch.rand(*shape, len(holes), generator=generator) < share
    return result


def forward_dynamics(layout: Layout) -> Bool[Tensor, " N"]:
    """Predict the next step: the action is known; observation, reward and ending are holes."""
    return _holes(layout, "observation", "reward", "terminated")


def forward_in_progress(
    layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None
) -> Bool[Tensor, "*steps N"]:
    """Forward dynamics between two passes: some of the holes are already filled."""
    return _keep_some(forward_dynamics(layout), shape, generator, ratio)


def forward_in_order(
    layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None
) -> Bool[Tensor, "*steps N"]:
    """Forward dynamics filled in the layout's order, as texts are from left to right: of the tokens that are to be
    filled the first are known, and a share of `ratio` is not, drawn anew for each step if not given."""
    hole_mask = forward_dynamics(layout)
    holes = hole_mask.nonzero().squeeze(-1)
    share = torch.rand(*shape, 1, generator=generator) if ratio is None else torch.full((*shape, 1), ratio)
    result = torch.zeros(*shape, len(hole_mask), dtype=torch.bool)
    result[..., holes] = torch.arange(len(holes)) >= ((1 - share) * len(holes)).floor()
    return result


def inverse_dynamics(layout: Layout) -> Bool[Tensor, " N"]:
    """Infer the action from the observations before and after it; reward and ending are holes too."""
    return _holes(layout, "action", "reward", "terminated")


def behaviour_cloning(layout: Layout) -> Bool[Tensor, " N"]:
    """Act like the data: all tokens of the step are holes, of which the action is to be filled."""
    return _holes(layout, "action", "observation", "reward", "terminated")


def judge(layout: Layout) -> Bool[Tensor, " N"]:
    """Reward model: action and observation are known; reward and ending are holes."""
    return _holes(layout, "reward", "terminated")


def inpaint(
    layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None
) -> Bool[Tensor, "*steps N"]:
    """Inpainting: part of the observation is missing, the rest of the step is known."""
    return _keep_some(_holes(layout, "observation"), shape, generator, ratio)


def whole_parts(
    layout: Layout, shape: tuple[int, ...], generator: Generator, all_unknown_prob: float = 0.5
) -> Bool[Tensor, "*steps N"]:
    """Any parts of an observation from any others, as its sound from its picture: all of them are wholly unknown with a
    probability of `all_unknown_prob`, else from one of them to all but one, each number as often; reward and ending are
    unknown too."""
    slots = [slot for slot in layout.of_role("observation") if slot.values_of is None]
    result = _holes(layout, "reward", "terminated").repeat(*shape, 1)
    all_unknown = torch.rand(shape, generator=generator) < all_unknown_prob
    num_unknown = torch.randint(1, max(2, len(slots)), shape, generator=generator).masked_fill(all_unknown, len(slots))
    order = torch.rand(*shape, len(slots), generator=generator).argsort(-1)
    unknown = order < num_unknown[..., None]
    for index, slot in enumerate(slots):
        result[..., layout.span(slot.name)] = unknown[..., index, None]
    return result


def whole_parts_in_progress(
    layout: Layout, shape: tuple[int, ...], generator: Generator, all_unknown_prob: float = 0.1
) -> Bool[Tensor, "*steps N"]:
    """`whole_parts` between two passes: in half of the steps some of the holes are already filled."""
    hole_mask = whole_parts(layout, shape, generator, all_unknown_prob)
    share = 2 * torch.rand(*shape, 1, generator=generator)
    return hole_mask & (torch.rand(hole_mask.shape, generator=generator) < share)


def random_holes(
    layout: Layout, shape: tuple[int, ...], generator: Generator, ratio: float | None = None
) -> Bool[Tensor, "*steps N"]:
    """Masked-model pre-training: any token may be a hole."""
    return _keep_some(behaviour_cloning(layout), shape, generator, ratio)


def goal_prompt(layout: Layout) -> Bool[Tensor, " N"]:
    """Absent tokens of a prompt toward a goal: all of a step but its observation."""
    return ~layout.mask_of("observation")


def return_prompt(layout: Layout) -> Bool[Tensor, " N"]:
    """Absent tokens of a prompt toward a return: all of a step but its reward."""
    return ~layout.mask_of("reward")


FIXED: dict[str, Callable[[Layout], Tensor]] = {
    "forward_dynamics": forward_dynamics,
    "inverse_dynamics": inverse_dynamics,
    "behaviour_cloning": behaviour_cloning,
    "judge": judge,
}
RANDOM: dict[str, Callable[..., Tensor]] = {
    "forward_in_progress": forward_in_progress,
    "forward_in_order": forward_in_order,
    "inpaint": inpaint,
    "random_holes": random_holes,
    "whole_parts": whole_parts,
}
MIXTURE: dict[str, float] = {
    "forward_dynamics": 0.5,
    "forward_in_progress": 0.14,
    "inverse_dynamics": 0.12,
    "behaviour_cloning": 0.06,
    "judge": 0.06,
    "inpaint": 0.06,
    "random_holes": 0.06,
    "forward_in_order": 0.0,
    "whole_parts": 0.0,
}


DREAM_MIXTURE: dict[str, float] = {
    "forward_dynamics": 0.55,
    "forward_in_progress": 0.3,
    "inverse_dynamics": 0.06,
    "behaviour_cloning": 0.02,
    "judge": 0.03,
    "inpaint": 0.02,
    "random_holes": 0.02,
    "forward_in_order": 0.0,
    "whole_parts": 0.0,
}
"""`MIXTURE` for worlds whose slots have values, of which a step's prediction is the hardest to learn."""


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
) -> Bool[Tensor, "*steps N"]:
    """Hole masks for training: each step gets one use, drawn by the weights."""
    names = list(weights)
    probabilities = torch.tensor([weights[name] for name in names])
    num_masks = int(torch.tensor(shape).prod())
    choice = torch.multinomial(probabilities, num_masks, replacement=True, generator=generator).reshape(*shape, 1)
    hole_mask = torch.zeros(*shape, layout.num_tokens, dtype=torch.bool)
    for index, name in enumerate(names):
        here = choice.squeeze(-1) == index
        num_here = int(here.sum())
        if num_here:
            hole_mask[here] = FIXED[name](layout) if name in FIXED else RANDOM[name](layout, (num_here,), generator)
    return hole_mask
