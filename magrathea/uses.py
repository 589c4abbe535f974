"""The uses of a world by their names: each makes steps with holes, and fills them by `World.fill`.

Steps are tokens (T, N) of one episode from its beginning, as `World.encode_episode` makes them of what was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Int
from torch import Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.layout import Layout
from magrathea.sampler import FillResult, FillSettings
from magrathea.spaces import index_batch, map_leaves, to_array
from magrathea.world import World


@dataclass(frozen=True)
class Filled:
    """Steps of one episode that were filled.

    Attributes:
        observation: (T, *shape); a dict or tuple of such for composite spaces.
        reward: (T,) float32.
        terminated: (T,) bool.
        tokens: (T, N) int64.
        confidence: (T, N) the probability of the likeliest token when a hole was filled; 1 where it was known.
    """

    observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    tokens: Tensor
    confidence: Tensor


def imagine(
    world: World, steps: Int[Tensor, "T N"], actions: Any, *, seed: int = 0, settings: FillSettings | None = None
) -> Filled:
    """The H steps that follow T recorded ones under actions (H, *shape): observations, rewards and endings."""
    acted = torch.from_numpy(world.tokenizers["action"].encode(actions))
    later = torch.zeros(len(acted), world.layout.num_tokens, dtype=torch.long)
    later[:, world.layout.role_span("action")] = acted
    holes = _holes_after(len(steps), masks.forward_dynamics(world.layout), len(later))
    return _filled(world, torch.cat([steps, later]), holes, seed, settings, first=len(steps))


def judge(
    world: World, steps: Int[Tensor, "T N"], *, seed: int = 0, settings: FillSettings | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rewards (T - 1,) and endings (T - 1,) of the steps after the first, whatever was recorded of them."""
    filled = _filled(world, steps, _holes_after(1, masks.judge(world.layout), len(steps) - 1), seed, settings, first=1)
    return filled.reward, filled.terminated


def infer_actions(world: World, observations: Any, *, seed: int = 0, settings: FillSettings | None = None) -> Any:
    """The actions (T - 1, *shape) between observations (T, *shape)."""
    seen = world.encode_episode(observations, None)
    holes = _holes_after(1, masks.inverse_dynamics(world.layout), len(seen) - 1)
    return world.decode_action(_filled(world, seen, holes, seed, settings, first=1).tokens)


def inpaint(
    world: World,
    steps: Int[Tensor, "T N"],
    unknown: str | Sequence[str] | Bool[Tensor, " N"],
    *,
    seed: int = 0,
    settings: FillSettings | None = None,
) -> Any:
    """The last step's observation, of which some parts are unknown: names of slots, or a mask of the step's tokens."""
    hole_mask = unknown if isinstance(unknown, Tensor) else slot_holes(world.layout, unknown)
    hole_mask = hole_mask & ~world.layout.values_mask
    holes = _holes_after(len(steps) - 1, hole_mask, 1)
    return index_batch(_filled(world, steps, holes, seed, settings, first=len(steps) - 1).observation, 0)


def caption(
    world: World,
    observation: Any,
    steps: Int[Tensor, "T N"] | None = None,
    *,
    seed: int = 0,
    settings: FillSettings | None = None,
) -> Any:
    """An observation whose texts are written anew to what else it shows, after recorded steps if there are some."""
    texts = text_slots(world)
    own = _one_observation(world, observation, steps)
    return inpaint(world, own, texts, seed=seed, settings=settings)


def dream_from_text(
    world: World, text: str, *, num: int = 1, seed: int = 0, settings: FillSettings | None = None
) -> Int[Tensor, "num 1 N"]:
    """First observations, as many as asked for, in which the world shows what a text says. A `Session` goes on from
    them (`start=[tokens[0]]`), and `World.decode_observation` shows them."""
    tokens = world.layout.absent_tokens.clone()
    for slot, tokenizer in _text_tokenizers(world, text_slots(world)):
        tokens[world.layout.span(slot)] = torch.from_numpy(tokenizer.encode(np.array(text, dtype=object)))
    holes = all_but_texts(world).expand(num, 1, -1)
    return world.fill(tokens.expand(num, 1, -1), holes, seed=seed, settings=settings).tokens


# -- parts of an observation ------------------------------------------------------------------------------------------
def slot_holes(layout: Layout, names: str | Sequence[str]) -> Bool[Tensor, " N"]:
    """True on the tokens of these slots of an observation; raises MagratheaError for other names."""
    wanted = [names] if isinstance(names, str) else list(names)
    known = [slot.name for slot in layout.of_role("observation") if slot.values_of is None]
    hole_mask = torch.zeros(layout.num_tokens, dtype=torch.bool)
    for name in wanted:
        if name not in known:
            raise MagratheaError(f"The world's observations have no slot '{name}'; name one of: {', '.join(known)}.")
        hole_mask[layout.span(name)] = True
    return hole_mask


def text_slots(world: World) -> list[str]:
    """The slots that hold texts beside others; raises MagratheaError where there are none."""
    texts = [slot.name for slot in world.layout.texts_beside_others]
    if not texts:
        observes_text = any(slot.is_sequence for slot in world.layout.of_role("observation"))
        what = "only texts" if observes_text else "no texts"
        raise MagratheaError(
            f"World '{world.metadata.get('name', '?')}' observes {what}; give one that observes texts beside something "
            "else, such as a level of BabyAI."
        )
    return texts


def all_but_texts(world: World) -> Bool[Tensor, " N"]:
    """True on an observation's tokens that are not of its texts."""
    texts = slot_holes(world.layout, text_slots(world))
    return masks.forward_dynamics(world.layout) & ~masks.judge(world.layout) & ~texts


def _text_tokenizers(world: World, texts: Sequence[str]) -> list[tuple[str, Any]]:
    leaves = world.tokenizers["observation"].leaves
    return [(name, leaves[name.partition("/")[2]]) for name in texts]


def _one_observation(world: World, observation: Any, steps: Tensor | None) -> Int[Tensor, "T N"]:
    """Steps and one more of an observation without an action, whose texts may be anything."""
    space = world.observation_space
    given = map_leaves(
        lambda leaf, part: _any_text(leaf) if isinstance(leaf, spaces.Text) else part, space, observation
    )
    before = None if steps is None else steps[-1:]
    seen = world.encode(None, map_leaves(lambda _, part: to_array(part)[None], space, given), previous=before)
    return seen if steps is None else torch.cat([steps, seen])


def _any_text(space: spaces.Text) -> str:
    return space.min_length * space.characters[0]


# -- filling ----------------------------------------------------------------------------------------------------------
def _holes_after(num_known: int, hole_mask: Bool[Tensor, " N"], num_steps: int) -> Bool[Tensor, "T N"]:
    """Steps without holes, followed by some with these."""
    return torch.cat([torch.zeros(num_known, len(hole_mask), dtype=torch.bool), hole_mask.expand(num_steps, -1)])


def _filled(world: World, steps: Tensor, holes: Tensor, seed: int, settings: FillSettings | None, first: int) -> Filled:
    """The steps of one episode from `first` on, filled."""
    result: FillResult = world.fill(steps[None], holes[None], seed=seed, settings=settings)
    tokens = result.tokens[0, first:]
    return Filled(
        world.decode_observation(tokens),
        world.decode_reward(tokens),
        world.decode_terminated(tokens),
        tokens,
        result.confidence[0, first:],
    )
