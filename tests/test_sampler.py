"""The sampler: known tokens stay, the order decides the passes, the dice decide the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.sampler import ORDERS, FillSettings, fill

LAYOUT = Layout(
    (
        Slot(name="action", role="action", vocab_size=3),
        Slot(name="observation", role="observation", vocab_size=6, grid=(2, 3)),
        Slot(name="reward", role="reward", vocab_size=4),
    )
)


def generators(num: int, seed: int = 0) -> list[Generator]:
    return [Generator().manual_seed(seed + row) for row in range(num)]


class Oracle:
    """Logits that depend on what is known; counts how many rows each pass asked for."""

    def __init__(self, certainty: float) -> None:
        self.certainty, self.rows = certainty, []

    def __call__(self, tokens: Tensor, holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        self.rows.append(len(tokens))
        known = (tokens * ~holes).sum(-1)
        logits = {}
        for slot in LAYOUT.slots:
            place = torch.arange(slot.num_tokens)[None, :] + known[:, None]
            logits[slot.name] = self.certainty * torch.nn.functional.one_hot(place % slot.vocab_size, slot.vocab_size)
        return {name: values.float() for name, values in logits.items()}


@given(
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    certainty=st.sampled_from([0.0, 1.0, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
)
@settings(max_examples=80, deadline=None)
def test_known_tokens_never_change(order: str, seed: int, share: float, certainty: float, temperature: float) -> None:
    dice = Generator().manual_seed(seed)
    tokens = torch.stack(
        [torch.randint(slot.vocab_size, (5,), generator=dice) for slot in LAYOUT.slots for _ in range(slot.num_tokens)],
        dim=-1,
    )
    holes = torch.rand(tokens.shape, generator=dice) < share
    how = FillSettings(order=order, temperature=temperature)  # type: ignore[arg-type]
    filled = fill(Oracle(certainty), tokens, holes, LAYOUT, how, generators(5, seed))
    assert torch.equal(filled.tokens[~holes], tokens[~holes])
    assert (filled.confidence[~holes] == 1).all() and (filled.confidence > 0).all()
    for slot in LAYOUT.slots:
        assert (filled.tokens[:, LAYOUT.span(slot.name)] < slot.vocab_size).all()
    assert ((filled.num_passes > 0) == holes.any(-1)).all()
    again = fill(Oracle(certainty), tokens, holes, LAYOUT, how, generators(5, seed))
    assert torch.equal(again.tokens, filled.tokens)


@pytest.mark.parametrize(("order", "passes"), [("one_shot", 1), ("maskgit", 4), ("autoregressive", 8), ("adaptive", 4)])
def test_number_of_passes_of_each_order_with_uniform_logits(order: str, passes: int) -> None:
    holes = torch.ones(2, 8, dtype=torch.bool)
    how = FillSettings(order=order, max_passes=4)  # type: ignore[arg-type]
    filled = fill(Oracle(0.0), torch.zeros(2, 8, dtype=torch.long), holes, LAYOUT, how, generators(2))
    assert filled.num_passes.tolist() == [passes, passes]


def test_confident_step_takes_one_pass_and_is_not_predicted_again() -> None:
    def one_is_sure(tokens: Tensor, holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        asked.append(None if rows is None else rows.tolist())
        numbers = torch.arange(2) if rows is None else rows
        scale = torch.where(numbers == 0, 30.0, 0.0)[:, None, None]
        return {
            slot.name: scale * torch.eye(slot.vocab_size)[:1].expand(len(tokens), slot.num_tokens, -1)
            for slot in LAYOUT.slots
        }

    asked: list[list[int] | None] = []
    holes, patient = torch.ones(2, 8, dtype=torch.bool), FillSettings(max_passes=3, threshold=0.9)
    filled = fill(one_is_sure, torch.zeros(2, 8, dtype=torch.long), holes, LAYOUT, patient, generators(2))
    assert filled.num_passes.tolist() == [1, 3] and asked == [None, [1], [1]]
    assert filled.tokens[0].tolist() == [0] * 8


def test_steps_of_a_batch_are_filled_independently() -> None:
    holes = torch.ones(3, 8, dtype=torch.bool)
    together = fill(Oracle(1.0), torch.zeros(3, 8, dtype=torch.long), holes, LAYOUT, FillSettings(), generators(3, 7))
    alone = fill(Oracle(1.0), torch.zeros(1, 8, dtype=torch.long), holes[:1], LAYOUT, FillSettings(), generators(1, 8))
    assert torch.equal(together.tokens[1], alone.tokens[0])


def test_samples_follow_the_probabilities_above_min_probability() -> None:
    layout = Layout((Slot(name="action", role="action", vocab_size=4),))
    chances = torch.tensor([0.6, 0.3, 0.08, 0.02])

    def predict(tokens: Tensor, holes: Tensor, rows: Tensor | None) -> dict[str, Tensor]:
        return {"action": chances.log().expand(len(tokens), 1, 4)}

    holes, how = torch.ones(4000, 1, dtype=torch.bool), FillSettings(order="one_shot", min_probability=0.1)
    filled = fill(predict, torch.zeros(4000, 1, dtype=torch.long), holes, layout, how, generators(4000))
    counts = torch.bincount(filled.tokens[:, 0], minlength=4) / 4000
    assert counts[3] == 0
    assert counts[:3].tolist() == pytest.approx((chances[:3] / 0.98).tolist(), abs=0.03)


def test_invalid_settings_say_what_to_do() -> None:
    with pytest.raises(MagratheaError, match="order is 'backwards'; give one of adaptive"):
        FillSettings(order="backwards")  # type: ignore[arg-type]
    with pytest.raises(MagratheaError, match="max_passes"):
        FillSettings(max_passes=0)
