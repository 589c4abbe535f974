"""Dreams draw tokens that were recorded at their place, where recordings leave hardly a token unseen, and end where
what they draw says so."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from session_worlds import wild_world
from torch import Generator, Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.sampler import ORDERS, FillSettings, Order, fill
from magrathea.session import Session
from magrathea.support import MAX_NEW, Support, fit_support, join_support
from magrathea.world import World

LAYOUT = Layout(
    (
        Slot(name="action", role="action", vocab_size=4),
        Slot(name="observation", role="observation", vocab_size=6, grid=(3, 3)),
        Slot(name="reward", role="reward", vocab_size=3),
        Slot(name="terminated", role="terminated", vocab_size=2),
    )
)
ENDING = LAYOUT.role_span("terminated").start
NO_STARTS = torch.zeros(0, 2, LAYOUT.num_tokens, dtype=torch.int64)


def episode(*places: int) -> Tensor:
    """Two equal steps (2, N): these tokens at the first places of the observation, 0 at the others."""
    step = torch.zeros(LAYOUT.num_tokens, dtype=torch.int64)
    step[1 : 1 + len(places)] = torch.tensor(places)
    return step.expand(2, -1)


def test_tokens_are_forbidden_where_an_episode_hardly_brings_another() -> None:
    num = round(1 / MAX_NEW) + 10
    episodes = [episode(1, number % 2, min(number, 5)) for number in range(num)]
    allowed = fit_support(LAYOUT, episodes, NO_STARTS)["observation"][0].int().tolist()
    assert allowed[0] == [0, 1, 0, 0, 0, 0]
    assert allowed[1] == [1, 1, 0, 0, 0, 0]
    assert allowed[2] == [1] * 6, "five of its tokens are of one episode each, so that others may be to come"
    assert allowed[3] == [1, 0, 0, 0, 0, 0]
    assert fit_support(LAYOUT, episodes[:20], NO_STARTS) == {}, "few episodes forbid nothing"
    shown = fit_support(LAYOUT, episodes, episode(4)[None])["observation"][0].int().tolist()
    assert shown[0] == [0, 1, 0, 0, 1, 0], "what a start state shows may stay"


def lives(num: int, *last: int) -> list[Tensor]:
    """Episodes whose steps have 1 … 3 at the first place, until they end with one of these."""
    result = [episode(1 + number % 3, 5).clone() for number in range(num)]
    for number, steps in enumerate(result):
        steps[-1, 1], steps[-1, ENDING] = last[number % len(last)], 1
    return result


def test_a_place_whose_tokens_are_never_of_both_tells_whether_a_step_ends() -> None:
    goes_on, ends = fit_support(LAYOUT, lives(80, 0), NO_STARTS)["observation"].int().tolist()
    assert (goes_on[0], ends[0]) == ([0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0])
    assert goes_on[1:] == ends[1:], "what steps of both kinds have tells nothing"
    for episodes in (lives(80, 0, 2), lives(20, 0) + [episode(1)] * 60):  # of both; too few that end
        goes_on, ends = fit_support(LAYOUT, episodes, NO_STARTS)["observation"].int().tolist()
        assert goes_on[0] == ends[0] == [1, 1, 1, 1, 0, 0]


def test_changes_of_the_step_before_and_words_have_no_support() -> None:
    motion = wild_world("motion:window")
    assert fit_support(motion.layout, [motion.starts[0]] * 200, motion.starts[:1]) == {}
    text = Slot(name="observation", role="observation", vocab_size=9, grid=(1, 4), is_sequence=True)
    layout = Layout((LAYOUT.slots[0], text, *LAYOUT.slots[2:]))
    steps = torch.zeros(2, layout.num_tokens, dtype=torch.int64)
    assert fit_support(layout, [steps] * 200, steps[None]) == {}


def test_two_trainings_allow_what_either_has_seen() -> None:
    first, second = (fit_support(LAYOUT, [episode(place)] * 100, NO_STARTS) for place in (1, 3))
    assert join_support(first, second)["observation"][0, 0].int().tolist() == [0, 1, 0, 1, 0, 0]
    assert join_support(first, {}) == {}, "the other forbade nothing"


def supported(tokens: Tensor, support: Support, layout: Layout) -> Tensor:
    """Whether each token of steps (..., N) may be drawn; True outside of the support's slots."""
    result = torch.ones_like(tokens, dtype=torch.bool)
    for name, allowed in support.items():
        span = layout.span(name)
        places, either = torch.arange(allowed.shape[1]), allowed.any(0)
        result[..., span] = either[places, tokens[..., span]]
    return result


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("reach", [None, 1])
@pytest.mark.parametrize("order", ORDERS)
def test_holes_hold_supported_tokens_and_known_ones_stay(order: Order, reach: int | None, temperature: float) -> None:
    rng = Generator().manual_seed(0)
    support = {"observation": (torch.rand(9, 6, generator=rng) < 0.4).expand(2, -1, -1).clone()}
    support["observation"][..., 5] = True
    given = {
        slot.name: 8 * torch.randn(1, slot.num_tokens, slot.vocab_size, generator=rng) for slot in LAYOUT.token_slots
    }
    tokens = torch.zeros(40, LAYOUT.num_tokens, dtype=torch.int64)
    holes = torch.rand(tokens.shape, generator=rng) < 0.7
    settings = FillSettings(order=order, temperature=temperature, balance_reach=reach, min_probability=0)

    def drawn(support: Support | None) -> Tensor:
        generators = [Generator().manual_seed(number) for number in range(len(tokens))]
        return fill(
            lambda now, *_: {name: logits.expand(len(now), -1, -1) for name, logits in given.items()},
            tokens,
            holes,
            LAYOUT,
            settings,
            generators,
            support,
        ).tokens

    assert not supported(drawn(None), support, LAYOUT)[holes].all()
    assert supported(drawn(support), support, LAYOUT)[holes].all()
    assert torch.equal(drawn(support)[~holes], tokens[~holes])
    assert not supported(tokens, support, LAYOUT)[~holes].all(), "some of the known ones are unsupported"


@pytest.mark.parametrize("event_threshold", [None, 0.99])
@pytest.mark.parametrize("order", ORDERS)
def test_dreams_end_if_a_place_says_so(order: Order, event_threshold: float | None) -> None:
    support = fit_support(LAYOUT, lives(80, 0), NO_STARTS)
    settings = FillSettings(order=order, event_threshold=event_threshold, min_probability=0)

    def filled(tokens: Tensor, holes: Tensor) -> Tensor:
        return fill(
            lambda now, *_: {
                slot.name: torch.zeros(len(now), slot.num_tokens, slot.vocab_size) for slot in LAYOUT.token_slots
            },
            tokens,
            holes,
            LAYOUT,
            settings,
            [Generator().manual_seed(number) for number in range(len(tokens))],
            support,
        ).tokens

    tokens = episode(0)[:1].repeat(200, 1)
    dreamt = filled(tokens, masks.forward_dynamics(LAYOUT).expand_as(tokens))
    assert torch.equal(dreamt[:, ENDING] == 1, dreamt[:, 1] == 0)
    assert 0.1 < dreamt[:, ENDING].float().mean() < 0.9
    judged = filled(tokens, LAYOUT.mask_of("reward", "terminated").expand_as(tokens))
    assert judged[:, ENDING].all(), "the place is known"
    tokens[100:, ENDING] = 1
    given = filled(tokens, LAYOUT.mask_of("observation", "reward").expand_as(tokens))
    assert (given[:100, 1] > 0).all() and (given[100:, 1] == 0).all(), "the ending is known"
    for known in (4, LAYOUT.slots[1].absent):  # never recorded; not observed
        tokens[:, 1] = known
        judged = filled(tokens, LAYOUT.mask_of("reward", "terminated").expand_as(tokens))
        assert (judged[:, 1] == known).all() and 0.2 < judged[:, ENDING].float().mean() < 0.8


@pytest.fixture
def limited() -> World:
    """The wild world, which may draw half of its tiles at each place."""
    world = copy.deepcopy(wild_world("spatial_map"))
    slot = world.layout.picture
    allowed = torch.rand(slot.num_tokens, slot.vocab_size, generator=Generator().manual_seed(1)) < 0.5
    allowed[:, 0] = True
    world.support = {slot.name: torch.stack([allowed, allowed])}
    world.__dict__.pop("fingerprint", None)
    return world


def dream(session: Session, num_steps: int = 12) -> Tensor:
    return torch.stack([session.step(np.array([step % 5, 2])).tokens for step in range(num_steps)], dim=1)


def test_dreams_draw_from_the_support_whatever_they_start_from(limited: World) -> None:
    starts = limited.starts[:2]
    assert not supported(starts, limited.support, limited.layout).all()
    cached, naive = (dream(Session(limited, 2, seed=3, start=starts, inference=kind)) for kind in ("cached", "naive"))
    assert torch.equal(cached, naive)
    assert supported(cached, limited.support, limited.layout).all()
    free = dream(Session(wild_world("spatial_map"), 2, seed=3, start=starts))
    assert not supported(free, limited.support, limited.layout).all()
    holes = masks.forward_dynamics(limited.layout).expand(3, -1).clone()
    holes[:2] = False
    filled = limited.fill(starts, holes, seed=1).tokens
    assert torch.equal(filled[:, :2], starts[:, :2])
    assert supported(filled[:, 2], limited.support, limited.layout).all()


def test_a_world_keeps_its_support_and_sessions_go_on(limited: World, tmp_path: Path) -> None:
    loaded = World.from_pretrained(limited.save_pretrained(tmp_path / "world", torch.float32))
    name = limited.layout.picture.name
    assert torch.equal(loaded.support[name], limited.support[name])
    assert loaded.fingerprint == limited.fingerprint != wild_world("spatial_map").fingerprint
    session = Session(limited, 2, seed=4)
    dream(session)
    restored = Session.from_bytes(session.to_bytes(), loaded)
    assert torch.equal(dream(restored), dream(session))


def test_a_world_without_support_is_as_before(tmp_path: Path) -> None:
    folder = wild_world().save_pretrained(tmp_path / "world", torch.float32)
    assert list(load_file(folder / "starts.safetensors")) == ["starts"]
    loaded = World.from_pretrained(folder)
    assert loaded.support == {} and loaded.fingerprint == wild_world().fingerprint


@pytest.mark.parametrize("damage", ["name", "shape", "dtype", "nothing allowed"])
def test_a_support_that_does_not_fit_is_refused(damage: str, limited: World, tmp_path: Path) -> None:
    file = limited.save_pretrained(tmp_path / "world") / "starts.safetensors"
    tensors, name = load_file(file), f"support/{limited.layout.picture.name}"
    allowed = tensors.pop(name)
    if damage == "name":
        tensors["support/observation/other"] = allowed
    elif damage == "shape":
        tensors[name] = allowed[:, :-1].contiguous()
    elif damage == "dtype":
        tensors[name] = allowed.float()
    else:
        tensors[name] = allowed & (torch.arange(allowed.shape[1]) > 0)[:, None]
    save_file(tensors, file)
    with pytest.raises(MagratheaError, match=r"its support of .* does not fit its layout"):
        World.from_pretrained(file.parent)
