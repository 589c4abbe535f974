"""Every mask against a grid drawn by hand: '.' is known, 'o' is a hole."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot, group_for

LAYOUT = Layout(
    (
        Slot(name="action", role="action", vocab_size=5),
        Slot(name="observation/image", role="observation", vocab_size=9, grid=(2, 3)),
        Slot(name="observation/compass", role="observation", vocab_size=4),
        Slot(name="reward", role="reward", vocab_size=7),
        Slot(name="terminated", role="terminated", vocab_size=2),
    )
)

#                       action image  compass reward terminated
DRAWN = {
    "forward_dynamics": ". oooooo o o o",
    "inverse_dynamics": "o ...... . o o",
    "behaviour_cloning": "o oooooo o o o",
    "judge": ". ...... . o o",
    "goal_prompt": "o ...... . o o",
    "return_prompt": "o oooooo o . o",
}
MAY_HOLD = {  # '?' may be a hole
    "forward_in_progress": ". ?????? ? ? ?",
    "inpaint": ". ?????? ? . .",
    "random_holes": "? ?????? ? ? ?",
}


def drawing_of(hole_mask: torch.Tensor) -> str:
    signs = "".join("o" if hole else "." for hole in hole_mask.tolist())
    return " ".join((signs[0], signs[1:7], signs[7], signs[8], signs[9]))


def test_parts_of_an_observation_are_unknown_as_a_whole() -> None:
    drawn = [drawing_of(mask) for mask in masks.whole_parts(LAYOUT, (300,), torch.Generator().manual_seed(0))]
    assert set(drawn) == {". oooooo . o o", ". ...... o o o", ". oooooo o o o"}
    assert min(map(drawn.count, set(drawn))) > 60


def test_any_number_of_parts_is_unknown_as_often_as_any_other() -> None:
    names = [f"observation/{letter}" for letter in "abcde"]
    layout = Layout((*LAYOUT.of_role("action"), *(Slot(name=name, role="observation", vocab_size=4) for name in names),
                     *LAYOUT.of_role("reward", "terminated")))  # fmt: skip
    drawn = masks.whole_parts(layout, (2000,), Generator().manual_seed(0), 0.1)
    unknown = torch.stack([drawn[:, layout.span(name)].all(-1) for name in names], dim=-1)
    shares = torch.bincount(unknown.sum(-1), minlength=6) / len(drawn)
    assert shares.tolist() == pytest.approx([0, *[0.9 / 4] * 4, 0.1], abs=0.03)
    alone = unknown[unknown.sum(-1) == 4]
    assert (~alone).float().mean(0).tolist() == pytest.approx([0.2] * 5, abs=0.06)  # each is the only one known


def test_what_is_filled_in_order_has_its_holes_at_the_end() -> None:
    drawn = {drawing_of(mask) for mask in masks.forward_in_order(LAYOUT, (200,), torch.Generator().manual_seed(0))}
    assert {". oooooo o o o", ". ...ooo o o o", ". ...... . . o"} <= drawn
    assert all("o" not in drawing.replace(" ", "").strip(".").strip("o") for drawing in drawn)
    assert drawing_of(masks.forward_in_order(LAYOUT, (), torch.Generator(), 0.5)) == ". ....oo o o o"


@pytest.mark.parametrize("name", DRAWN)
def test_fixed_mask_equals_its_drawing(name: str) -> None:
    assert drawing_of(getattr(masks, name)(LAYOUT)) == DRAWN[name]


@pytest.mark.parametrize("name", MAY_HOLD)
def test_random_mask_stays_within_its_slots(name: str) -> None:
    use = getattr(masks, name)
    drawn = use(LAYOUT, (400,), Generator().manual_seed(0), 0.25)
    may_be_hole = torch.tensor([sign == "?" for sign in MAY_HOLD[name].replace(" ", "")])
    assert not drawn[:, ~may_be_hole].any()
    assert drawn[:, may_be_hole].float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert drawing_of(use(LAYOUT, (1,), Generator(), 1.0)[0]) == MAY_HOLD[name].replace("?", "o")


@pytest.mark.parametrize("name", MAY_HOLD)
def test_random_mask_draws_its_ratio_if_not_given(name: str) -> None:
    shares = getattr(masks, name)(LAYOUT, (500,), Generator().manual_seed(0)).float().mean(-1)
    assert shares.min() < 0.1 and shares.std() > 0.1


def test_mixture_draws_each_use_as_often_as_its_weight() -> None:
    drawn = masks.mixture(LAYOUT, (50, 40), Generator().manual_seed(1))
    assert drawn.shape == (50, 40, 10)
    judged = (drawn == masks.judge(LAYOUT)).all(-1).float().mean().item()
    forward = (drawn == masks.forward_dynamics(LAYOUT)).all(-1).float().mean().item()
    assert judged == pytest.approx(masks.MIXTURE["judge"], abs=0.02)
    assert forward == pytest.approx(masks.MIXTURE["forward_dynamics"], abs=0.04)
    for mixture in (masks.MIXTURE, masks.DREAM_MIXTURE):
        assert sum(mixture.values()) == pytest.approx(1) and mixture.keys() == masks.MIXTURE.keys()


def test_weight_of_a_use_can_be_changed() -> None:
    weights = masks.weights_of({"judge": 9.0})
    assert weights == masks.MIXTURE | {"judge": 9.0}
    drawn = masks.mixture(LAYOUT, (50, 40), Generator().manual_seed(1), weights)
    judged = (drawn == masks.judge(LAYOUT)).all(-1).float().mean().item()
    assert judged == pytest.approx(9 / sum(weights.values()), abs=0.02)
    with pytest.raises(MagratheaError, match="All uses have the weight 0"):
        masks.weights_of(dict.fromkeys(masks.MIXTURE, 0))


def test_mixture_depends_on_the_generator_only() -> None:
    first, again, other = (masks.mixture(LAYOUT, (8, 8), Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_layout_spans_and_config() -> None:
    assert LAYOUT.num_tokens == 10 and LAYOUT.span("observation/compass") == slice(7, 8)
    assert Layout.from_config(LAYOUT.to_config()) == LAYOUT
    with pytest.raises(MagratheaError, match="no slot 'sound'"):
        LAYOUT.span("sound")
    with pytest.raises(MagratheaError, match="two slots"):
        Layout((LAYOUT.slots[0], LAYOUT.slots[0]))


def test_token_groups_of_a_grid() -> None:
    assert group_for((9, 9)) == (1, 3) and group_for((8, 8)) == (1, 2) and group_for((4, 4)) == (1, 1)
    assert group_for((7, 7)) == (1, 3) and group_for((16, 16)) == (2, 2)
    slot = Slot(name="x", role="observation", vocab_size=2, grid=(7, 7), group=(1, 3))
    assert slot.position_grid == (7, 3) and slot.num_tokens == 49 and slot.num_positions == 21


def test_of_parts_in_progress_some_holes_are_filled_in_some_of_the_steps() -> None:
    drawn = masks.whole_parts_in_progress(LAYOUT, (400,), torch.Generator().manual_seed(0))
    seen = [LAYOUT.span(slot.name) for slot in LAYOUT.of_role("observation") if slot.num_tokens > 1]
    partly = torch.stack([drawn[:, span].any(-1) & ~drawn[:, span].all(-1) for span in seen]).any(0)
    assert 0.1 < partly.float().mean() < 0.4 and not drawn[:, LAYOUT.role_span("action")].any()
