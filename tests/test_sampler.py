"""The sampler: known tokens stay, the order determines the passes, and samples follow the generators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from magrathea.draws import draw_balanced
from magrathea.errors import MagratheaError
from magrathea.layout import Layout, Slot
from magrathea.sampler import ORDERS, FillSettings, Order, fill

LAYOUT = Layout(
    (
        Slot(name="action", role="action", vocab_size=3),
        Slot(name="observation", role="observation", vocab_size=6, grid=(2, 3)),
        Slot(name="reward", role="reward", vocab_size=4),
    )
)


def generators(num: int, seed: int = 0) -> list[Generator]:
    return [Generator().manual_seed(seed + index) for index in range(num)]


class CountingPredictor:
    """Logits that depend on the known tokens; records the batch size of each pass."""

    def __init__(self, certainty: float) -> None:
        self.certainty, self.batch_sizes = certainty, []

    def __call__(self, tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        self.batch_sizes.append(len(tokens))
        known = (tokens * ~hole_mask).sum(-1)
        logits = {}
        for slot in LAYOUT.slots:
            likeliest = torch.arange(slot.num_tokens)[None, :] + known[:, None]
            logits[slot.name] = self.certainty * torch.nn.functional.one_hot(
                likeliest % slot.vocab_size, slot.vocab_size
            )
        return {name: values.float() for name, values in logits.items()}


def test_left_to_right_fills_an_even_share_of_the_next_tokens_in_each_pass() -> None:
    seen: list[list[bool]] = []

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        seen.append(hole_mask[0].tolist())
        return CountingPredictor(3.0)(tokens, hole_mask, chosen)

    tokens, holes = torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool)
    order = FillSettings(order="left_to_right", max_passes=3)
    assert fill(predict, tokens, holes, LAYOUT, order, generators(1)).num_passes.tolist() == [3]
    assert [sum(mask) for mask in seen] == [8, 5, 2]
    assert all(mask == sorted(mask) for mask in seen)


def test_a_text_takes_no_passes_beyond_its_end() -> None:
    layout = Layout(
        (
            Slot(name="observation", role="observation", vocab_size=6, grid=(1, 9), is_sequence=True),
            Slot(name="reward", role="reward", vocab_size=4),
        )
    )

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        place = torch.arange(9)
        likeliest = torch.where(place == 3, 0, 1 + place % 5).expand(len(tokens), 9)  # it ends after three tokens
        observed = 9 * torch.nn.functional.one_hot(likeliest, 6).float()
        return {"observation": observed, "reward": torch.zeros(len(tokens), 1, 4)}

    tokens, holes = torch.zeros(1, 10, dtype=torch.long), torch.ones(1, 10, dtype=torch.bool)
    order = FillSettings(order="autoregressive", temperature=0)
    found = fill(predict, tokens, holes, layout, order, generators(1))
    assert found.tokens[0, :9].tolist() == [1, 2, 3, 0, 0, 0, 0, 0, 0] and found.num_passes.tolist() == [5]


@pytest.mark.parametrize("order", ["one_shot", "autoregressive"])
def test_the_distribution_of_a_reward_is_that_of_the_pass_that_fills_it(order: Order) -> None:
    """Of each step of the batch by itself; there is none where the reward is known."""
    tokens, holes = torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.bool)
    holes[1, :5] = False
    given: list[Tensor] = []

    def predict(now: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        logits = CountingPredictor(2.0)(now, hole_mask, chosen)
        given.append(logits["reward"][:, 0].softmax(-1))
        return logits

    filled = fill(predict, tokens, holes, LAYOUT, FillSettings(order=order), generators(2))
    assert filled.reward_probabilities is not None
    of_pass = [0, 0] if order == "one_shot" else [7, 2]
    for index, number in enumerate(of_pass):
        assert torch.equal(filled.reward_probabilities[index], given[number][min(index, len(given[number]) - 1)])
    holes[0, 7] = False
    assert fill(predict, tokens, holes, LAYOUT, FillSettings(order=order), generators(2)).reward_probabilities is None


@given(
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    certainty=st.sampled_from([0.0, 1.0, 3.0, 30.0]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
)
@settings(max_examples=80, deadline=None)
def test_known_tokens_never_change(order: str, seed: int, share: float, certainty: float, temperature: float) -> None:
    generator = Generator().manual_seed(seed)
    tokens = torch.stack(
        [
            torch.randint(slot.vocab_size, (5,), generator=generator)
            for slot in LAYOUT.slots
            for _ in range(slot.num_tokens)
        ],
        dim=-1,
    )
    hole_mask = torch.rand(tokens.shape, generator=generator) < share
    fill_settings = FillSettings(order=order, temperature=temperature)  # type: ignore[arg-type]
    filled = fill(CountingPredictor(certainty), tokens, hole_mask, LAYOUT, fill_settings, generators(5, seed))
    assert torch.equal(filled.tokens[~hole_mask], tokens[~hole_mask])
    assert (filled.confidence[~hole_mask] == 1).all() and (filled.confidence > 0).all()
    for slot in LAYOUT.slots:
        assert (filled.tokens[:, LAYOUT.span(slot.name)] < slot.vocab_size).all()
    assert ((filled.num_passes > 0) == hole_mask.any(-1)).all()
    again = fill(CountingPredictor(certainty), tokens, hole_mask, LAYOUT, fill_settings, generators(5, seed))
    assert torch.equal(again.tokens, filled.tokens)


@pytest.mark.parametrize(("order", "passes"), [("one_shot", 1), ("maskgit", 4), ("autoregressive", 8), ("adaptive", 4)])
def test_number_of_passes_of_each_order_with_uniform_logits(order: str, passes: int) -> None:
    hole_mask = torch.ones(2, 8, dtype=torch.bool)
    fill_settings = FillSettings(order=order, max_passes=4)  # type: ignore[arg-type]
    filled = fill(
        CountingPredictor(0.0), torch.zeros(2, 8, dtype=torch.long), hole_mask, LAYOUT, fill_settings, generators(2)
    )
    assert filled.num_passes.tolist() == [passes, passes]


def test_confident_step_takes_one_pass_and_is_not_predicted_again() -> None:
    def confident_in_the_first(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        predicted.append(None if chosen is None else chosen.tolist())
        batch_indices = torch.arange(2) if chosen is None else chosen
        scale = torch.where(batch_indices == 0, 30.0, 0.0)[:, None, None]
        return {
            slot.name: scale * torch.eye(slot.vocab_size)[:1].expand(len(tokens), slot.num_tokens, -1)
            for slot in LAYOUT.slots
        }

    predicted: list[list[int] | None] = []
    hole_mask, fill_settings = torch.ones(2, 8, dtype=torch.bool), FillSettings(max_passes=3, threshold=0.9)
    filled = fill(
        confident_in_the_first, torch.zeros(2, 8, dtype=torch.long), hole_mask, LAYOUT, fill_settings, generators(2)
    )
    assert filled.num_passes.tolist() == [1, 3] and predicted == [None, [1], [1]]
    assert filled.tokens[0].tolist() == [0] * 8


def test_steps_of_a_batch_are_filled_independently() -> None:
    hole_mask = torch.ones(3, 8, dtype=torch.bool)
    batch = fill(
        CountingPredictor(1.0), torch.zeros(3, 8, dtype=torch.long), hole_mask, LAYOUT, FillSettings(), generators(3, 7)
    )
    alone = fill(
        CountingPredictor(1.0),
        torch.zeros(1, 8, dtype=torch.long),
        hole_mask[:1],
        LAYOUT,
        FillSettings(),
        generators(1, 8),
    )
    assert torch.equal(batch.tokens[1], alone.tokens[0])


def test_samples_follow_the_probabilities_above_min_probability() -> None:
    layout = Layout((Slot(name="action", role="action", vocab_size=4),))
    probabilities = torch.tensor([0.6, 0.3, 0.08, 0.02])

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        return {"action": probabilities.log().expand(len(tokens), 1, 4)}

    hole_mask, fill_settings = (
        torch.ones(4000, 1, dtype=torch.bool),
        FillSettings(order="one_shot", min_probability=0.1),
    )
    filled = fill(predict, torch.zeros(4000, 1, dtype=torch.long), hole_mask, layout, fill_settings, generators(4000))
    counts = torch.bincount(filled.tokens[:, 0], minlength=4) / 4000
    assert counts[3] == 0
    assert counts[:3].tolist() == pytest.approx((probabilities[:3] / 0.98).tolist(), abs=0.03)


def test_rewards_and_endings_have_a_floor_of_their_own() -> None:
    layout = Layout(
        (Slot(name="observation", role="observation", vocab_size=2), Slot(name="reward", role="reward", vocab_size=2))
    )
    rare = torch.tensor([0.97, 0.03]).log()

    def rates(**floors: float) -> list[float]:
        def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
            return {name: rare.expand(len(tokens), 1, 2) for name in ("observation", "reward")}

        settings, holes = FillSettings(order="one_shot", **floors), torch.ones(4000, 2, dtype=torch.bool)
        filled = fill(predict, torch.zeros(4000, 2, dtype=torch.long), holes, layout, settings, generators(4000))
        return filled.tokens.float().mean(0).tolist()

    assert rates(min_probability=0.1) == [0, 0]
    assert rates(min_probability=0.1, event_min_probability=0.0) == [0, pytest.approx(0.03, abs=0.01)]
    assert FillSettings(**FillSettings(event_min_probability=0.0).to_config()).event_min_probability == 0.0
    assert "event_min_probability" not in FillSettings().to_config()


def test_a_sound_of_many_rare_codes_is_heard_beside_a_picture_that_is_without_the_rare() -> None:
    picture = Slot(name="observation/eye", role="observation", vocab_size=21, grid=(3, 3))
    values = Slot(name="observation/eye/values", role="observation", vocab_size=256, values_of=picture.name)
    layout = Layout((picture, values, Slot(name="observation/ear", role="observation", vocab_size=21)))
    logits = torch.tensor([0.7] + 20 * [0.015]).log()  # token 0 is silence, or what was there

    def share_of_others(**floors: float) -> list[float]:
        def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
            return {slot.name: logits.expand(len(tokens), slot.num_tokens, 21) for slot in layout.token_slots}

        settings, holes = FillSettings(order="one_shot", **floors), ~layout.values_mask.repeat(4000, 1)
        filled = fill(predict, torch.zeros(4000, 11, dtype=torch.long), holes, layout, settings, generators(4000))
        return [float((filled.tokens[:, layout.span(slot.name)] > 0).float().mean()) for slot in layout.token_slots]

    assert share_of_others(min_probability=0.2) == [0, 0]
    assert share_of_others(min_probability=0.02, values_min_probability=0.2) == [0, pytest.approx(0.3, abs=0.03)]
    assert "values_min_probability" not in FillSettings().to_config()


def test_whether_there_is_a_sound_is_decided_before_which() -> None:
    ear = Slot(name="observation", role="observation", vocab_size=201, nothing=0)
    layout = Layout((ear,))

    def drawn(logits: Tensor, **settings: float) -> Tensor:
        fill_settings, holes = FillSettings(order="one_shot", **settings), torch.ones(4000, 1, dtype=torch.bool)
        predict = lambda tokens, *_: {ear.name: logits.expand(len(tokens), 1, 201)}  # noqa: E731
        return fill(predict, 0 * holes.long(), holes, layout, fill_settings, generators(4000)).tokens[:, 0]

    floors, codes = {"min_probability": 0.1}, torch.full((201,), 0.0035)  # each much rarer than silence
    codes[0], codes[7] = 0.3, 0.0036
    tokens = drawn(codes.log(), **floors)
    assert (tokens > 0).float().mean() == pytest.approx(0.7, abs=0.03)
    assert tokens.unique().tolist() == [0, 7]
    likeliest = torch.tensor([0.3, 0.3, *199 * [0.4 / 199]]).log() + torch.eye(201)[1] * 0.01
    assert (drawn(likeliest, temperature=0.0) == 1).all()
    assert (drawn(torch.tensor([0.6, *200 * [0.002]]).log(), temperature=0.0) == 0).all()
    assert (drawn(torch.tensor([0.99, *200 * [0.00005]]).log(), **floors) == 0).all()
    assert (drawn(torch.tensor([0.01, *200 * [0.00495]]).log(), **floors) > 0).all()


@pytest.mark.parametrize("order", ORDERS)
def test_uncertain_rewards_and_endings_follow_what_was_drawn(order: Order) -> None:
    slots = [Slot(name=name, role=name, vocab_size=2) for name in ("observation", "reward", "terminated")]
    layout = Layout(tuple(slots))

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        """One of two places is reached; only there is a reward, and the end."""
        place, unknown = tokens[:, :1], hole_mask[:, :1]
        sure = torch.nn.functional.one_hot(place, 2) * 20.0
        events = torch.where(unknown[..., None], torch.zeros(1, 1, 2), sure)
        return {"observation": torch.zeros(len(tokens), 1, 2), "reward": events, "terminated": events}

    settings, holes = FillSettings(order=order, event_threshold=0.99), torch.ones(200, 3, dtype=torch.bool)
    filled = fill(predict, torch.zeros(200, 3, dtype=torch.long), holes, layout, settings, generators(200)).tokens
    assert 60 < filled[:, 0].sum() < 140
    assert torch.equal(filled[:, 1], filled[:, 0]) and torch.equal(filled[:, 2], filled[:, 0])


def test_rewards_agree_with_endings_that_the_rest_leaves_open() -> None:
    slots = [Slot(name=name, role=name, vocab_size=2) for name in ("observation", "reward", "terminated")]
    layout = Layout(tuple(slots))

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        """Whether it ends is open whatever is observed; the reward comes with the end."""
        even = torch.zeros(len(tokens), 1, 2)
        with_end = torch.nn.functional.one_hot(tokens[:, 2:], 2) * 20.0
        reward = torch.where(hole_mask[:, 2:, None], even, with_end)
        return {"observation": even, "reward": reward, "terminated": even}

    settings, holes = FillSettings(order="one_shot", event_threshold=0.99), torch.ones(200, 3, dtype=torch.bool)
    filled = fill(predict, torch.zeros(200, 3, dtype=torch.long), holes, layout, settings, generators(200))
    assert 60 < filled.tokens[:, 2].sum() < 140
    assert torch.equal(filled.tokens[:, 1], filled.tokens[:, 2]) and filled.num_passes.tolist() == [3] * 200


def test_rewards_and_endings_that_are_certain_cost_no_further_pass() -> None:
    layout = Layout(
        (Slot(name="observation", role="observation", vocab_size=2), Slot(name="reward", role="reward", vocab_size=2))
    )

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        sure = torch.tensor([20.0, 0.0]).expand(len(tokens), 1, 2)
        return {"observation": torch.zeros(len(tokens), 1, 2), "reward": sure}

    settings, holes = FillSettings(order="one_shot", event_threshold=0.99), torch.ones(20, 2, dtype=torch.bool)
    filled = fill(predict, torch.zeros(20, 2, dtype=torch.long), holes, layout, settings, generators(20))
    assert filled.num_passes.tolist() == [1] * 20


def test_cells_of_a_picture_decide_together_with_the_same_probabilities() -> None:
    layout = Layout((Slot(name="observation", role="observation", vocab_size=2, grid=(6, 9)),))
    logits = torch.tensor([0.7, 0.3]).log()

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        return {"observation": logits.expand(len(tokens), 54, 2)}

    def pictures(num: int, first_seed: int = 0, shared_noise: float | None = None) -> Tensor:
        settings = FillSettings(order="one_shot", shared_noise=shared_noise)
        tokens, holes = torch.zeros(num, 54, dtype=torch.long), torch.ones(num, 54, dtype=torch.bool)
        return fill(predict, tokens, holes, layout, settings, generators(num, first_seed)).tokens

    def correlation(pictures: Tensor, one: int, other: int) -> float:
        return float(torch.corrcoef(pictures[:, [one, other]].float().T)[0, 1])

    apart, alike, neighbours = pictures(3000), pictures(3000, 0, 0.6), pictures(3000, 0, 0.0)
    for drawn in (apart, alike, neighbours):
        assert drawn.float().mean(0).tolist() == pytest.approx([0.3] * 54, abs=0.05)
    assert abs(correlation(apart, 0, 1)) < 0.1 and abs(correlation(neighbours, 0, 53)) < 0.1
    assert correlation(neighbours, 0, 1) > 0.6 and correlation(alike, 0, 1) > 0.7
    assert 0.3 < correlation(alike, 0, 53) < 0.5
    assert torch.equal(pictures(5, 7, 0.6)[2], pictures(1, 9, 0.6)[0]), "whatever else is in the batch"


def walkers(num: int, balance_reach: int | None, first_seed: int = 0) -> Tensor:
    """Pictures of 5 x 7 cells with 0 for grass, 1 for a creature in the middle, which stays or walks to one of four
    cells, and 2 for a plant that grows in a corner."""
    layout = Layout((Slot(name="observation", role="observation", vocab_size=3, grid=(5, 7)),))
    probabilities = torch.tensor([1.0, 0, 0]).repeat(35, 1)
    probabilities[17] = torch.tensor([0.6, 0.4, 0])
    probabilities[[10, 16, 18, 24]] = torch.tensor([0.85, 0.15, 0])
    probabilities[0] = torch.tensor([0.7, 0, 0.3])

    def predict(tokens: Tensor, hole_mask: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
        return {"observation": (probabilities + 1e-9).log().expand(len(tokens), 35, 3)}

    settings = FillSettings(order="one_shot", min_probability=0, balance_reach=balance_reach)
    tokens, holes = torch.zeros(num, 35, dtype=torch.long), torch.ones(num, 35, dtype=torch.bool)
    return fill(predict, tokens, holes, layout, settings, generators(num, first_seed)).tokens


def test_balanced_draws_neither_lose_nor_multiply_what_moves() -> None:
    apart, balanced = walkers(2000, None), walkers(2000, 2)
    assert not ((apart == 1).sum(-1) == 1).float().mean() > 0.6, "the cells draw for themselves"
    assert ((balanced == 1).sum(-1) == 1).all()


def test_balanced_draws_keep_the_probability_of_each_token() -> None:
    drawn = walkers(8000, 2)
    assert float((drawn[:, 17] == 1).float().mean()) == pytest.approx(0.4, abs=0.03)
    for cell in (10, 16, 18, 24):
        assert float((drawn[:, cell] == 1).float().mean()) == pytest.approx(0.15, abs=0.02)
    assert float((drawn[:, 0] == 2).float().mean()) == pytest.approx(0.3, abs=0.03)
    torch.manual_seed(0)
    is_open = torch.ones(20_000, 12, dtype=torch.bool)
    weights = torch.rand(12, 5) ** 4  # all cells are in doubt, among all tokens
    drawn = draw_balanced(weights.expand(20_000, 12, 5), is_open, torch.rand(20_000, 12), (3, 4), 1)
    shares = F.one_hot(drawn, 5).float()
    expected = weights / weights.sum(-1, keepdim=True)
    assert torch.allclose(shares.mean(0), expected, atol=0.02)
    independent = (expected * (1 - expected)).sum(0).sqrt()
    assert (shares.sum(1).std(0) < independent).all(), "the number of each varies less"


def test_balanced_draws_depend_on_nothing_else_in_the_batch() -> None:
    assert torch.equal(walkers(40, 2, 7)[30], walkers(1, 2, 37)[0])


def test_known_cells_take_no_part_in_balanced_draws() -> None:
    weights, is_open = torch.tensor([0.5, 0.5]).expand(200, 9, 2), torch.ones(200, 9, dtype=torch.bool)
    is_open[:, 4] = False
    drawn = draw_balanced(weights, is_open, torch.rand(200, 9), (3, 3), 1)
    assert set((drawn * is_open).sum(-1).tolist()) <= {3, 4, 5}, "half of the open cells, as nearly as neighbours allow"


def test_invalid_settings_say_what_to_do() -> None:
    with pytest.raises(MagratheaError, match="order is 'backwards'; give one of adaptive"):
        FillSettings(order="backwards")  # type: ignore[arg-type]
    with pytest.raises(MagratheaError, match="max_passes"):
        FillSettings(max_passes=0)
