"""Every memory: what a running session computes with it is what training does, and each keeps what it promises."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from rooms import LAYOUT, WINDOW, learn, seen_before, walk
from session_worlds import play_board, wild_world
from test_memory_places import MOVES, layout_of
from test_memory_places import walk as scroll

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.evaluate.recordings import Lived
from magrathea.memory import RetrievalSpec, memory_class
from magrathea.memory.episodic_buffer import NUM_RECALLED, EpisodicSpec
from magrathea.memory.recurrent import DeltaRule
from magrathea.model.config import ModelConfig
from magrathea.model.transformer import MaskedTransformer
from magrathea.session import Session

COMBINED = "places+recurrent:8+retrieval:20"
ALL = ("window", "places", "places:100", "clock", "recurrent", "retrieval", "retrieval-pose", COMBINED)


@pytest.mark.parametrize("memory", ALL)
@torch.inference_mode()
def test_sampling_agrees_with_training(memory: str) -> None:
    """With the ring and without, a step's logits are those that the model learns at the same step of the recording."""
    world, length, window = wild_world(memory), 40, 3
    observation, *rest = play_board(60)
    tokens = world.encode_episode(observation[: length + 1], *(part[:length] for part in rest))
    recording = Lived.of(world, tokens.numpy())
    holes = masks.forward_dynamics(world.layout)[None]
    readout = recording.recall(np.array([[length]])).select_known_action(holes[:, None], world.layout)
    earlier = torch.from_numpy(recording.before(length - window, length - window))[None]
    segment = tokens[None, length - window :]
    trained = world.predict_segment(segment, holes[:, None], window, None, readout, earlier)
    plain = world.predict_segment(segment, holes[:, None], window)
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
    for part in (rule.out, rule.now, rule.next):
        torch.nn.init.normal_(part.weight)
    return rule, encodings


@torch.inference_mode()
def test_positions_replace_one_after_the_other() -> None:
    rule, encodings = delta_rule()
    state, x = torch.randn(2, 8, 49), encodings[:1, 0]
    fade = torch.exp(-torch.nn.functional.softplus(rule.fade(x.mean(1)) + rule.fade_bias))[0, :, None, None]
    expected = fade * state[..., :48]
    situation = state[..., 48] + rule.now(x.mean(1)).view(2, 8)
    keys = torch.nn.functional.normalize(rule.places * situation[:, None], dim=-1).transpose(0, 1)
    values, strength = rule.values(x).view(5, 2, 48), (rule.strength(x) + rule.strength_bias).sigmoid().view(5, 2)
    for key, value, share in zip(keys, values, strength, strict=True):
        for head in range(2):
            held = key[head] @ expected[head]
            expected[head] += share[head] * torch.outer(key[head], value[head] - held)
    written = rule.write(state[None], x)[0]
    assert torch.allclose(written[..., :48], expected, atol=1e-4)
    assert torch.allclose(written[..., 48], rule.before(x.mean(1)).view(2, 8), atol=1e-5)


@torch.inference_mode()
def test_states_of_a_segment_are_those_of_its_steps() -> None:
    rule, encodings = delta_rule()
    is_step = torch.ones(3, 7, dtype=torch.bool)
    is_step[1, :4] = False
    states, state = rule.states(encodings, is_step), rule.empty().expand(3, -1, -1, -1)
    for step in range(7):
        assert torch.allclose(states[:, step], state, atol=1e-5)
        state = torch.where(is_step[:, step, None, None, None], rule.write(state, encodings[:, step]), state)
    assert not states[1, 4].any() and states[0, 4].any()


@torch.inference_mode()
def test_what_followed_is_found_again_before_anything_is_learned() -> None:
    """Of two steps that were followed by different ones, either brings back at each place what came there."""
    torch.manual_seed(0)
    rule = DeltaRule(96, 2, 48, 5)
    torch.nn.init.constant_(rule.strength_bias, 9.0)  # replaces all
    home, river, one, other = torch.randn(4, 1, 5, 96)
    states = rule.states(torch.stack([home, one, river, other, home], dim=1), torch.ones(1, 5, dtype=torch.bool))
    after_home, after_river = (rule.write(states[:, -1], step) for step in (home, river))
    for state, expected, wrong in ((after_home, one, other), (after_river, other, one)):
        keys = rule._at_places(state[..., -1])
        found = (keys @ state[..., :-1]).transpose(-2, -3).flatten(-2)
        near, far = ((found - rule.values(step)).square().mean() for step in (expected, wrong))
        assert near < 0.6 * far


def test_learning_reaches_back_through_the_steps_before() -> None:
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
def kind_of(memory: str) -> EpisodicSpec:
    """A memory of walks over maps."""
    return memory_class(memory).fit(layout_of(len(MOVES), 6), [scroll(np.random.default_rng(0), 1500)[0]])


@pytest.mark.parametrize("memory", ["retrieval", "retrieval-pose"])
def test_what_is_recalled_has_left_the_window_and_is_not_twice_the_same(memory: str) -> None:
    steps, _ = scroll(np.random.default_rng(1), 300)
    sources = kind_of(memory).read_episode(steps, 4).sources.numpy()
    now = np.arange(len(steps))[:, None, None]
    assert sources.shape == (len(steps), 2, NUM_RECALLED)
    assert (sources < np.maximum(now - 4, 0)).all() and (sources[100:] >= 0).mean() > 0.7
    both = sources[(sources >= 0).all(-1)]
    assert (both[:, 0] != both[:, 1]).all()


def test_a_pose_finds_the_step_that_was_made_there() -> None:
    """What comes into view was mostly seen from the nearest pose before."""
    steps, where = scroll(np.random.default_rng(1), 400)
    sources = kind_of("retrieval-pose").read_episode(steps, 4).sources[:, 1, 0].numpy()
    nearest = [
        min((abs(where[now] - where[:begin]).sum(1)), default=99) for now, begin in enumerate(np.arange(401) - 4)
    ]
    found = [abs(where[now] - where[source]).sum() if source >= 0 else 99 for now, source in enumerate(sources)]
    asked = [now for now in range(50, 401) if nearest[now] <= 4]
    assert np.mean([found[now] <= nearest[now] + 1 for now in asked]) > 0.9


def test_looks_find_the_rooms_beside() -> None:
    """Of a ring of rooms that one has been round once, the next is one of the two that are read."""
    episodes = [walk(seed) for seed in range(8)]
    sources = RetrievalSpec.fit(LAYOUT, episodes).read_episode(episodes[0], WINDOW).sources[:, 1]
    rooms = episodes[0][:, 1]
    asked = [now for now in torch.nonzero(seen_before(episodes[0]))[:, 0].tolist() if now > 20]
    assert len(asked) > 3
    assert np.mean([bool((rooms[sources[now]] == rooms[now]).any()) for now in asked]) > 0.9


@pytest.mark.parametrize("memory", ["retrieval:16", "retrieval-pose:16"])
def test_a_trail_is_no_longer_than_it_may_be(memory: str) -> None:
    trail = kind_of(memory).trail(4)
    for step in scroll(np.random.default_rng(1), 300)[0].numpy():
        trail.see(step)
    assert trail.num_entries == 16 == len(np.unique(trail.entries["number"]))
    number = trail.entries["number"]
    assert number.max() == 300 - 4 and len(trail.find(0)) <= NUM_RECALLED
    state = trail.state_dict()
    assert sum(tensor.nbytes for tensor in state.values()) <= 20 * 2048
    again = kind_of(memory).trail(4)
    again.load_state_dict(state)
    assert again.find(1) == trail.find(1) and again.find(None) == trail.find(None)


# -- names ------------------------------------------------------------------------------------------------------------
def test_names_say_what_a_memory_is() -> None:
    assert memory_class("retrieval:16").size == 16 and RetrievalSpec.size > 16
    assert memory_class("places+recurrent").outputs(LAYOUT).names() == ["observation", "state"]
    for name, message in {
        "nothing+places": "Unknown memory 'nothing'",
        "window:3": "no such size",
        "retrieval:0": "no such size",
    }.items():
        with pytest.raises(MagratheaError, match=message):
            memory_class(name)
    with pytest.raises(MagratheaError, match="both give 'steps'"):
        memory_class("retrieval+retrieval-pose").outputs(LAYOUT)


# -- what it comes to -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("memory", ["retrieval", "recurrent"])
def test_a_world_learns_to_use_what_is_recalled(memory: str) -> None:
    """In rooms that only a memory can tell, one guesses a quarter of the colours without one."""
    assert learn(memory, 800, enough=0.5) > 0.45
