"""The model: what it attends to, and that training and cached sampling agree."""

from __future__ import annotations

import copy

import pytest
import torch

from magrathea import devices, masks
from magrathea.devices import resolve_device
from magrathea.errors import MagratheaError
from magrathea.interfaces import MemoryReadout
from magrathea.layout import Layout, Slot, group_features, group_tokens, ungroup_tokens
from magrathea.memory import WindowSpec
from magrathea.model.config import ModelConfig, model_size
from magrathea.model.initialization import init_from_features
from magrathea.model.kv_cache import RingKVCache, SegmentKVCache
from magrathea.model.layers import Linear, PrevFrameAttention
from magrathea.model.transformer import MaskedTransformer

LAYOUT = Layout(
    (
        Slot(name="action", role="action", vocab_size=5),
        Slot(name="observation", role="observation", vocab_size=9, grid=(4, 6), group=(2, 3)),
        Slot(name="reward", role="reward", vocab_size=7),
        Slot(name="terminated", role="terminated", vocab_size=2),
    )
)


@pytest.fixture
def model() -> MaskedTransformer:
    torch.manual_seed(0)
    model = MaskedTransformer(LAYOUT, ModelConfig(width=48 * 6, num_layers=2, window=3), WindowSpec).eval()
    for learned in (
        model.head.copy_bias[1],
        model.head.copy_gate[1],
        model.head.prev_frame_attention[1].copy_gate,
    ):  # as if it had learned to copy
        torch.nn.init.normal_(learned.weight, std=0.1)
    torch.nn.init.normal_(model.goal_proj.weight, std=0.05)  # and to act toward a prompt
    return model


def steps(batch_size: int, num_steps: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    parts = [
        torch.randint(slot.vocab_size, (batch_size, num_steps, slot.num_tokens), generator=rng) for slot in LAYOUT.slots
    ]
    return torch.cat(parts, dim=-1)


def logits_of(model: MaskedTransformer, tokens: torch.Tensor, hole_mask: torch.Tensor, first: int = 0) -> torch.Tensor:
    time = torch.arange(tokens.shape[1]).expand(tokens.shape[:2])
    kv_cache = SegmentKVCache(model.encode_past(tokens, time), model.config.window, first)
    logits = model.predict(tokens[:, first:], hole_mask.expand(tokens[:, first:].shape), time[:, first:], kv_cache)
    return torch.cat([part.flatten(2) for part in logits.values()], dim=-1)


@torch.inference_mode()
def test_attention_is_causal_and_limited_to_the_window(model: MaskedTransformer) -> None:
    tokens, holes = steps(1, 6), masks.forward_dynamics(LAYOUT)
    before = logits_of(model, tokens, holes)
    for changed in range(6):
        other = tokens.clone()
        other[:, changed] = steps(1, 6, seed=1)[:, changed]
        other[:, changed, 0] = (tokens[:, changed, 0] + 1) % 5
        differs = (logits_of(model, other, holes) - before).abs().amax(dim=(0, 2)) > 1e-5
        seen_from = [changed <= step <= changed + model.config.window for step in range(6)]
        assert differs.tolist() == seen_from  # the changed step knows its own action


@torch.inference_mode()
def test_logits_do_not_depend_on_tokens_under_holes(model: MaskedTransformer) -> None:
    tokens, other = steps(1, 1), steps(1, 1, seed=1)
    holes = masks.judge(LAYOUT)
    hidden = torch.where(holes, other, tokens)
    assert torch.equal(logits_of(model, tokens, holes), logits_of(model, hidden, holes))
    shown = torch.where(holes, tokens, other)
    assert not torch.allclose(logits_of(model, tokens, holes), logits_of(model, shown, holes), atol=1e-3)


@torch.inference_mode()
def test_ring_kv_cache_gives_the_logits_of_training(model: MaskedTransformer) -> None:
    """The logits of cached sampling are those of training, also after the ring has wrapped around, at any time."""
    tokens, holes = steps(2, 9), masks.forward_dynamics(LAYOUT)
    trained = logits_of(model, tokens, holes, first=1)
    for begin in (0, 61):
        ring = RingKVCache(model.config, 2, LAYOUT, model.num_encoded, model.past_kv_proj.weight)
        for step in range(9):
            time = torch.full((2, 1), begin + step)
            now = tokens[:, step, None]
            if step:
                logits = model.predict(now, holes.expand(now.shape), time, ring)
                sampled = torch.cat([part.flatten(2) for part in logits.values()], dim=-1)
                assert torch.allclose(sampled[:, 0], trained[:, step - 1], atol=2e-4)
            ring.write(model.encode_past(now, time), [0, 1])


@torch.inference_mode()
def test_histories_of_different_lengths_do_not_mix_in_the_kv_cache(model: MaskedTransformer) -> None:
    tokens, holes = steps(2, 4), masks.forward_dynamics(LAYOUT)
    ring = RingKVCache(model.config, 2, LAYOUT, model.num_encoded, model.past_kv_proj.weight)
    for step in range(3):
        batch_indices = [0, 1] if step == 0 else [1]
        now = tokens[batch_indices, step, None]
        ring.write(model.encode_past(now, torch.full((len(batch_indices), 1), step)), batch_indices)
    time = torch.tensor([[1], [3]])
    logits = model.predict(tokens[:, 3, None], holes.expand(2, 1, -1), time, ring)["observation"]
    for index, history in ((0, 1), (1, 3)):
        alone = torch.cat([tokens[index, :history], tokens[index, 3:4]])[None]
        expected = logits_of(model, alone, holes, first=history)
        assert torch.allclose(logits[index, 0], expected[0, 0, : 24 * 9].reshape(24, 9), atol=2e-4)


@torch.inference_mode()
def test_prompt_changes_the_action_logits(model: MaskedTransformer) -> None:
    tokens, time = steps(1, 3), torch.arange(3)[None]
    past = model.encode_past(tokens, time)
    holes = masks.behaviour_cloning(LAYOUT).expand(1, 1, -1)
    logits = []
    for seed in (5, 6):
        conditioning = model.condition(MemoryReadout(), time[:, 2:], steps(1, 1, seed)[:, 0])
        kv_cache = SegmentKVCache(past, model.config.window, 2, conditioning)
        logits.append(model.predict(tokens[:, 2:], holes, time[:, 2:], kv_cache)["action"])
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_ungroup_tokens_inverts_group_tokens(model: MaskedTransformer) -> None:
    slot, values = LAYOUT.slots[1], torch.arange(24).expand(2, 24)
    grouped = group_tokens(values, slot)
    assert grouped[0, 0].tolist() == [0, 1, 2, 6, 7, 8]  # two rows of three
    assert torch.equal(ungroup_tokens(grouped.unsqueeze(-1), slot).squeeze(-1), values)
    features = torch.stack([values, -values], dim=-1).float()
    side_by_side = group_features(features, slot)
    assert side_by_side[0, 0].tolist() == [0, 0, 1, -1, 2, -2, 6, -6, 7, -7, 8, -8]
    assert torch.equal(ungroup_tokens(side_by_side.unflatten(-1, (6, 2)), slot), features)


def test_loss_counts_only_holes_that_are_not_absent(model: MaskedTransformer) -> None:
    tokens = steps(1, 2)
    holes = masks.judge(LAYOUT).expand(1, 1, -1).clone()
    loss, weight = model(tokens, tokens[:, 1:], holes, first=1)
    tokens[0, 1, LAYOUT.span("reward")] = LAYOUT.slots[2].absent
    less, weight_less = model(tokens, tokens[:, 1:], holes, first=1)
    assert weight == 2 * weight_less and less < loss


@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_weights_of_rare_events_do_not_change_what_is_learned(model: MaskedTransformer, weight: float) -> None:
    """One ending in twenty steps is learned as one in twenty, whatever it weighs."""
    tokens = steps(1, 1).expand(20, 2, -1).clone()
    tokens[:, 1, LAYOUT.span("terminated")] = (torch.arange(20) == 0).long()[:, None]
    holes = LAYOUT.mask_of("terminated").expand(20, 1, -1)
    model.event_weights = {"terminated": torch.tensor([1.0, weight])}
    out = model.requires_grad_(False).head.out[-1].requires_grad_(True)
    optimizer = torch.optim.Adam(out.parameters(), lr=0.03)
    for _ in range(150):
        loss, num_holes = model(tokens[:, :1].expand(-1, 2, -1), tokens[:, 1:], holes, first=1)
        optimizer.zero_grad()
        (loss / num_holes).backward()
        optimizer.step()
    with torch.inference_mode():
        ended = logits_of(model, tokens[:1, :1].expand(-1, 2, -1), holes[:1], first=1)[0, 0].softmax(-1)[1]
    assert float(ended) == pytest.approx(0.05, abs=0.01)


def test_invalid_sizes_say_what_to_do() -> None:
    with pytest.raises(MagratheaError, match="multiple of 48"):
        ModelConfig(width=100)
    with pytest.raises(MagratheaError, match="choose one of debug"):
        model_size("enormous")


def test_bf16_layer_computes_with_its_present_weights() -> None:
    layer = Linear(8, 8).eval()
    x = torch.randn(3, 8, dtype=torch.bfloat16)

    def check_output() -> None:
        expected = x @ layer.weight.detach().to(torch.bfloat16).T
        with torch.inference_mode():
            torch.testing.assert_close(layer(x), expected)
        assert layer(x).requires_grad

    check_output()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1.0, fused=True)
    layer.train()
    check_output()
    for _ in range(2):
        layer(x).float().square().sum().backward()
        optimizer.step()
        check_output()
    layer.eval()
    check_output()
    layer.load_state_dict({"weight": torch.randn(8, 8)})
    check_output()
    layer.load_state_dict({"weight": torch.randn(8, 8)}, assign=True)
    check_output()
    copied = copy.deepcopy(layer)
    torch.nn.init.zeros_(copied.weight)
    with torch.inference_mode():
        assert not copied(x).any() and layer(x).any()


@pytest.mark.slow
def test_training_in_bf16_follows_float32(model: MaskedTransformer) -> None:
    """bf16 is the compute type on GPUs and on some CPUs."""
    losses = {}
    tokens, holes = steps(4, 6), masks.forward_dynamics(LAYOUT).expand(4, 6, -1)
    for dtype in (torch.float32, torch.bfloat16):
        learner = copy.deepcopy(model)
        learner.compute_dtype = dtype
        for copies in (
            learner.head.copy_bias[1],
            learner.head.copy_gate[1],
            learner.head.prev_frame_attention[1].copy_gate,
        ):
            torch.nn.init.zeros_(copies.weight)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
        for _ in range(40):
            loss, num_holes = learner(tokens, tokens, holes)
            optimizer.zero_grad()
            (loss / num_holes).backward()
            optimizer.step()
            losses.setdefault(dtype, []).append((loss / num_holes).item())
    assert losses[torch.float32][-1] < losses[torch.float32][0] / 2
    assert losses[torch.bfloat16][:10] == pytest.approx(losses[torch.float32][:10], rel=0.05)
    assert losses[torch.bfloat16][-1] < losses[torch.bfloat16][0] / 2


@pytest.mark.parametrize(
    ("tiles", "avx512_bf16", "amd", "expected"),
    [
        (True, True, False, torch.bfloat16),
        (False, True, True, torch.bfloat16),
        (False, True, False, torch.float32),
        (False, False, True, torch.float32),
    ],
)
def test_compute_dtype_of_a_device(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, avx512_bf16: bool, amd: bool, expected: torch.dtype
) -> None:
    assert resolve_device(torch.device("cuda"))[1] is torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(devices, "_is_amd", lambda: amd)
    assert resolve_device("cpu") == (torch.device("cpu"), expected)


def test_missing_device_is_refused() -> None:
    with pytest.raises(MagratheaError, match="has no device 'cuda:77'"):
        resolve_device("cuda:77")
    with pytest.raises(MagratheaError, match="device is 'gpu'; give auto, cpu, cuda or cuda:N"):
        resolve_device("gpu")


@torch.no_grad()
def test_similar_token_features_give_similar_initial_weights(model: MaskedTransformer) -> None:
    slot = LAYOUT.picture
    token_features = torch.randn(slot.vocab_size, 20, generator=torch.Generator().manual_seed(1))
    token_features[1] = token_features[0]
    init_from_features(model, slot, token_features)
    index = LAYOUT.slots.index(slot)
    for table in (model.embedding.tokens[index].weight, model.head.out[index].weight):
        cosines = torch.nn.functional.cosine_similarity(table[0], table[1:])
        assert cosines[0] > 0.25 and cosines[0] > cosines[1:].max() + 0.1
        assert 0.5 < table.norm(dim=1)[: slot.vocab_size].max() / table.norm(dim=1).median() < 2


def test_prev_frame_attention_learns_to_copy_from_another_position() -> None:
    torch.manual_seed(0)
    attention, features = PrevFrameAttention(LAYOUT.picture, 16), torch.randn(24, 16).expand(32, -1, -1)
    optimizer = torch.optim.AdamW(attention.parameters(), lr=1e-2)
    assert not attention(features, torch.randn(32, 24, 16)).any()  # its gates are initialized to 0
    for _ in range(300):
        previous = torch.randn(32, 24, 16)
        loss = (attention(features, previous)[:, 3] - previous[:, 10]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


TEXTS = Layout(
    (
        Slot(name="action", role="action", vocab_size=9, grid=(1, 3), is_sequence=True),
        Slot(name="observation", role="observation", vocab_size=9, grid=(1, 6), is_sequence=True),
        Slot(name="reward", role="reward", vocab_size=2),
        Slot(name="terminated", role="terminated", vocab_size=2),
    )
)


@torch.inference_mode()
def test_texts_are_told_what_the_action_says_once_that_is_learned() -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=48, num_layers=1, window=2, sequence_context=True)
    told, untold = (MaskedTransformer(TEXTS, each, WindowSpec).eval() for each in (config, ModelConfig(**OLD_TEXTS)))
    untold.load_state_dict({name: told.state_dict()[name] for name in untold.state_dict()})
    tokens = torch.randint(2, (2, 3, TEXTS.num_tokens))
    hole_mask = masks.forward_dynamics(TEXTS)
    assert torch.equal(logits_of(told, tokens, hole_mask, 1), logits_of(untold, tokens, hole_mask, 1))
    for part in told.action_contexts:
        torch.nn.init.normal_(part.out.weight)
        torch.nn.init.normal_(part.query)
    x = torch.randn(2, 1, TEXTS.num_positions, 48)
    changed = told._add_action(x, told.action_contexts[:1]) - x
    assert (changed[:, :, 3:9] - changed[:, :, 3:4]).abs().max() < 1e-6 < changed[:, :, 3].abs().min()
    assert not changed[:, :, :3].any() and not changed[:, :, 9:].any()
    assert not torch.equal(changed[0], changed[1])


OLD_TEXTS = {"width": 48, "num_layers": 1, "num_memory_layers": 1, "window": 2, "mlp_ratio": 2, "memory": "window"}


def test_worlds_of_words_of_earlier_versions_have_no_such_weights_and_the_same_config() -> None:
    assert "sequence_context" not in ModelConfig(**OLD_TEXTS).to_config()
    assert model_size("tiny").to_config()["sequence_context"] is True
    model = MaskedTransformer(TEXTS, ModelConfig(**OLD_TEXTS), WindowSpec)
    assert not any("action_contexts" in name for name in model.state_dict())
    pictures = MaskedTransformer(LAYOUT, ModelConfig(width=48, num_layers=1, sequence_context=True), WindowSpec)
    assert not any("action_contexts" in name for name in pictures.state_dict())
