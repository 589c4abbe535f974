"""Every memory: sampling agrees with training; and what the recurrence and retrieval promise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from rooms import LAYOUT, WINDOW, learn, seen_before, walk
from session_worlds import play_board, wild_world
from test_memory_spatial_map import MOVES, layout_of
from test_memory_spatial_map import walk as scroll

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.evaluate.recordings import EncodedEpisode
from magrathea.evaluate.segments import teacher_forced_logits
from magrathea.memory import RetrievalSpec, memory_class, of_size
from magrathea.memory.episodic_buffer import NUM_RETRIEVED, EpisodicSpec
from magrathea.memory.recurrent import DeltaRule
from magrathea.model.config import ModelConfig
from magrathea.model.transformer import MaskedTransformer
from magrathea.session import Session

COMBINED = "spatial_map+recurrent:8+retrieval:20"
ALL = ("window", "spatial_map", "spatial_map:100", "cycle_clock", "recurrent", "retrieval", "retrieval-pose", COMBINED)


@pytest.mark.parametrize("memory", ALL)
@torch.inference_mode()
def test_sampling_agrees_with_training(memory: str) -> None:
    """Cached and naive, a step's logits are those of training at the same step of the recording."""
    world, length, window = wild_world(memory), 40, 3
    observation, *rest = play_board(60)
    tokens = world.encode_episode(observation[: length + 1], *(part[:length] for part in rest))
    recording = EncodedEpisode.of(world, tokens.numpy())
    holes = masks.forward_dynamics(world.layout)[None]
    readout = recording.readout_at(np.array([[length]])).select_known_action(holes[:, None], world.layout)
    earlier = torch.from_numpy(recording.before(length - window, length - window))[None]
    segment = tokens[None, length - window :]
    trained = teacher_forced_logits(world, segment, holes[:, None], window, readout, earlier)
    plain = teacher_forced_logits(world, segment, holes[:, None], window)
    for inference in ("cached", "naive"):
        context = Session(world, start=tokens[:length], inference=inference)._context
        context.catch_up([0])
        kv_cache = context.kv_cache([0], context.condition(tokens[length:], holes, [0], None))
        sampled = world.model.predict(tokens[None, length:], holes[None], torch.tensor([[length]]), kv_cache)
        for name, logits in trained.items():
            assert torch.allclose(sampled[name], logits, atol=5e-4), (inference, name)
    assert (memory == "window") == torch.allclose(plain["observation"], trained["observation"], atol=1e-3)


# -- the recurrence ---------------------------------------------------------------------------------------------------
def delta_rule() -> tuple[DeltaRule, torch.Tensor]:
    torch.manual_seed(0)
    rule, encodings = DeltaRule(96, 2, 8, 5), torch.randn(3, 7, 5, 96)
    for part in (rule.out, rule.write_context_proj, rule.read_context_proj):
        torch.nn.init.normal_(part.weight)
    return rule, encodings


@torch.inference_mode()
def test_a_write_replaces_values_position_by_position() -> None:
    rule, encodings = delta_rule()
    state, x = torch.randn(2, 8, 49), encodings[:1, 0]
    decay = torch.exp(-torch.nn.functional.softplus(rule.decay_gate(x.mean(1)) + rule.decay_bias))[0, :, None, None]
    expected = decay * state[..., :48]
    context = state[..., 48] + rule.write_context_proj(x.mean(1)).view(2, 8)
    keys = torch.nn.functional.normalize(rule.position_keys * context[:, None], dim=-1).transpose(0, 1)
    values, strength = rule.values(x).view(5, 2, 48), (rule.write_gate(x) + rule.write_bias).sigmoid().view(5, 2)
    for key, value, share in zip(keys, values, strength, strict=True):
        for head in range(2):
            held = key[head] @ expected[head]
            expected[head] += share[head] * torch.outer(key[head], value[head] - held)
    written = rule.write(state[None], x)[0]
    assert torch.allclose(written[..., :48], expected, atol=1e-4)
    assert torch.allclose(written[..., 48], rule.prev_context_proj(x.mean(1)).view(2, 8), atol=1e-5)


@torch.inference_mode()
def test_states_of_a_segment_equal_single_writes() -> None:
    rule, encodings = delta_rule()
    is_step = torch.ones(3, 7, dtype=torch.bool)
    is_step[1, :4] = False
    states, state = rule.states(encodings, is_step), rule.empty().expand(3, -1, -1, -1)
    for step in range(7):
        assert torch.allclose(states[:, step], state, atol=1e-5)
        state = torch.where(is_step[:, step, None, None, None], rule.write(state, encodings[:, step]), state)
    assert not states[1, 4].any() and states[0, 4].any()


@torch.inference_mode()
def test_what_followed_a_step_is_found_before_training() -> None:
    """After either of two steps, the values at each position are nearer to the step that followed it."""
    torch.manual_seed(0)
    rule = DeltaRule(96, 2, 48, 5)
    torch.nn.init.constant_(rule.write_bias, 9.0)  # replaces all
    home, river, one, other = torch.randn(4, 1, 5, 96)
    states = rule.states(torch.stack([home, one, river, other, home], dim=1), torch.ones(1, 5, dtype=torch.bool))
    after_home, after_river = (rule.write(states[:, -1], step) for step in (home, river))
    for state, expected, wrong in ((after_home, one, other), (after_river, other, one)):
        keys = rule._keys(state[..., -1])
        found = (keys @ state[..., :-1]).transpose(-2, -3).flatten(-2)
        near, far = ((found - rule.values(step)).square().mean() for step in (expected, wrong))
        assert near < 0.6 * far


def test_gradients_reach_all_earlier_steps() -> None:
    torch.manual_seed(0)
    model = MaskedTransformer(
        LAYOUT, ModelConfig(width=48, num_layers=2, window=WINDOW, memory="recurrent"), memory_class("recurrent")
    )
    torch.nn.init.normal_(model.recurrence.out.weight)
    tokens, gradients = walk(0)[None], []
    model.memory_layers[0].register_full_backward_hook(lambda layer, inputs, outputs: gradients.append(outputs[0]))
    holes = masks.forward_dynamics(LAYOUT).expand(1, 1, -1)
    model(tokens[:, 20:23], tokens[:, 22:23], holes, first=2, earlier=tokens[:, :20])[0].backward()
    assert any(grad.shape[1] == 20 and (grad.abs().sum((0, 2, 3)) > 0).all() for grad in gradients)


# -- past steps -------------------------------------------------------------------------------------------------------
@cache
def spec_of(memory: str) -> EpisodicSpec:
    """A memory that is fitted to walks over maps."""
    return memory_class(memory).fit(layout_of(len(MOVES), 6), [scroll(np.random.default_rng(0), 1500)[0]])


@pytest.mark.parametrize("memory", ["retrieval", "retrieval-pose"])
def test_retrieved_steps_have_left_the_window_and_differ(memory: str) -> None:
    steps, _ = scroll(np.random.default_rng(1), 300)
    sources = spec_of(memory).read_episode(steps, 4).sources.numpy()
    now = np.arange(len(steps))[:, None, None]
    assert sources.shape == (len(steps), 2, NUM_RETRIEVED)
    assert (sources < np.maximum(now - 4, 0)).all() and (sources[100:] >= 0).mean() > 0.7
    both = sources[(sources >= 0).all(-1)]
    assert (both[:, 0] != both[:, 1]).all()


def test_pose_retrieval_finds_the_step_from_the_nearest_pose() -> None:
    """What comes into view was mostly seen from the nearest pose before."""
    steps, where = scroll(np.random.default_rng(1), 400)
    sources = spec_of("retrieval-pose").read_episode(steps, 4).sources[:, 1, 0].numpy()
    nearest = [
        min((abs(where[now] - where[:begin]).sum(1)), default=99) for now, begin in enumerate(np.arange(401) - 4)
    ]
    found = [abs(where[now] - where[source]).sum() if source >= 0 else 99 for now, source in enumerate(sources)]
    queried = [now for now in range(50, 401) if nearest[now] <= 4]
    assert np.mean([found[now] <= nearest[now] + 1 for now in queried]) > 0.9


def test_content_retrieval_finds_the_next_room() -> None:
    """In a ring of rooms that was gone round once, the next room is one of the two that are retrieved."""
    episodes = [walk(seed) for seed in range(8)]
    sources = RetrievalSpec.fit(LAYOUT, episodes).read_episode(episodes[0], WINDOW).sources[:, 1]
    rooms = episodes[0][:, 1]
    queried = [now for now in torch.nonzero(seen_before(episodes[0]))[:, 0].tolist() if now > 20]
    assert len(queried) > 3
    assert np.mean([bool((rooms[sources[now]] == rooms[now]).any()) for now in queried]) > 0.9


@pytest.mark.parametrize("memory", ["retrieval:16", "retrieval-pose:16"])
def test_a_buffer_keeps_at_most_its_size(memory: str) -> None:
    buffer = spec_of(memory).new_buffer(4)
    for step in scroll(np.random.default_rng(1), 300)[0].numpy():
        buffer.append(step)
    assert buffer.num_entries == 16 == len(np.unique(buffer.entries["number"]))
    number = buffer.entries["number"]
    assert number.max() == 300 - 4 and len(buffer.retrieve(0)) <= NUM_RETRIEVED
    state = buffer.state_dict()
    assert sum(tensor.nbytes for tensor in state.values()) <= 20 * 2048
    again = spec_of(memory).new_buffer(4)
    again.load_state_dict(state)
    assert again.retrieve(1) == buffer.retrieve(1) and again.retrieve(None) == buffer.retrieve(None)


# -- names ------------------------------------------------------------------------------------------------------------
def test_names_of_memories() -> None:
    assert memory_class("retrieval:16").size == 16 and RetrievalSpec.size > 16
    assert memory_class("spatial_map+recurrent").outputs(LAYOUT).names() == ["observation", "state"]
    for name, message in {
        "nothing+spatial_map": "Unknown memory 'nothing'",
        "window:3": "no such size",
        "retrieval:0": "no such size",
    }.items():
        with pytest.raises(MagratheaError, match=message):
            memory_class(name)
    with pytest.raises(MagratheaError, match="both give 'steps'"):
        memory_class("retrieval+retrieval-pose").outputs(LAYOUT)


def test_first_names_are_still_read() -> None:
    """The stored tensors of a combination are prefixed with the names as they are written."""
    assert memory_class("places") is memory_class("spatial_map")
    assert memory_class("clock") is memory_class("cycle_clock")
    steps = [scroll(np.random.default_rng(0), 1500)[0]]
    for name, prefix in {"places+retrieval": "places/", "spatial_map:9+retrieval": "spatial_map/"}.items():
        kind, layout = memory_class(name), layout_of(len(MOVES), 6)
        tensors = kind.fit(layout, steps).tensors()
        assert {key.split("/")[0] + "/" for key in tensors} == {prefix, "retrieval/"}
        loaded = kind.from_tensors(layout, tensors).tensors()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_only_sizes_that_are_not_learned_can_be_changed() -> None:
    assert of_size("places:9+clock+recurrent:8", 100) == "places:100+clock+recurrent:8"
    with pytest.raises(MagratheaError, match="no size that could be changed"):
        of_size("window+recurrent", 100)


# -- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("memory", ["retrieval", "recurrent"])
def test_a_model_learns_to_use_a_memory(memory: str) -> None:
    """Of colours that only a memory can know, a model without one predicts a quarter."""
    assert learn(memory, 800, enough=0.5) > 0.45
