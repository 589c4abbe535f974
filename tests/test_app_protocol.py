"""What the page and the server say to each other: nothing malformed gets through, frames survive the wire."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magrathea.server.controls import MAX_PENDING, REPEAT_DELAY, Controls
from magrathea.server.protocol import (
    Frame,
    ProtocolError,
    RateLimit,
    decode_frame,
    encode_frame,
    messages,
    parse_message,
)

SCHEMA = messages(num_actions=7, num_starts=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["action", "on", "value", "seed", "start", "frame", "extra"])


@pytest.mark.parametrize(
    "message",
    [
        {"type": "press", "action": 0},
        {"type": "press", "action": 6},
        {"type": "release", "action": None},
        {"type": "pause", "on": True},
        {"type": "step"},
        {"type": "step", "action": 3},
        {"type": "reset", "seed": 2**31 - 1, "start": 3},
        {"type": "reset", "seed": 0},
        {"type": "speed", "value": 0.25},
        {"type": "speed", "value": None},
        {"type": "realtime", "on": False},
        {"type": "reality", "on": True},
        {"type": "seen", "frame": 12},
    ],
)
def test_good_messages_pass(message: dict) -> None:
    assert parse_message(json.dumps(message), SCHEMA) == message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[" * 4000, "not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "unknown type null; known: press, release"),
        ('{"type": "fly"}', 'unknown type "fly"'),
        ('{"type": ["press"]}', "unknown type"),
        ('{"type": "press"}', "needs the field 'action': an integer from 0 to 6"),
        ('{"type": "press", "action": 7}', "'action' of 'press' must be an integer from 0 to 6, not 7"),
        ('{"type": "press", "action": true}', "not true"),
        ('{"type": "press", "action": 1.0}', "not 1.0"),
        ('{"type": "press", "action": 1, "sudo": 1}', 'has no field "sudo"'),
        ('{"type": "pause", "on": 1}', "must be true or false"),
        ('{"type": "reset", "seed": -1}', "'seed' of 'reset'"),
        ('{"type": "reset", "seed": 1, "start": 4}', "'start' of 'reset' must be null or an integer from 0 to 3"),
        ('{"type": "speed", "value": 3}', "0.25, 0.5, 1, 2, 4 or null"),
        ('{"type": "speed", "value": NaN}', "must be"),
        (json.dumps({"type": "press", "action": "é" * 3000}), "larger than 4096 bytes"),
        (b"\x00", "binary"),
    ],
)
def test_bad_messages_are_refused_with_a_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_message(text, SCHEMA)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | JSON.map(json.dumps) | st.binary(max_size=20))
def test_anything_is_either_refused_or_known(text: str | bytes) -> None:
    try:
        message = parse_message(text, SCHEMA)
    except ProtocolError:
        return
    assert message["type"] in SCHEMA


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SCHEMA)), st.dictionaries(NAMES, JSON, max_size=3))
def test_near_misses_are_either_refused_or_in_range(kind: str, fields: dict) -> None:
    text = json.dumps({"type": kind, **fields})
    try:
        message = parse_message(text, SCHEMA)
    except ProtocolError:
        return
    assert set(message) - {"type"} <= set(SCHEMA[kind])
    action = message.get("action")
    assert action is None or (type(action) is int and 0 <= action < 7)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 20), st.integers(1, 20), st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5))
)
def test_frames_survive_the_wire(height: int, width: int, header: dict) -> None:
    header.pop("parts", None)
    generator = np.random.default_rng(0)
    parts = {
        "picture": generator.integers(0, 256, (height, width, 3), np.uint8),
        "uncertainty": generator.integers(0, 256, (3, 2), np.uint8),
    }
    frame = decode_frame(encode_frame(Frame(header, parts)))
    assert frame.header == header
    assert all((frame.parts[name] == array).all() for name, array in parts.items())


def test_cut_frames_are_refused() -> None:
    data = encode_frame(Frame({"kind": "dream"}, {"picture": np.zeros((2, 2, 3), np.uint8)}), dropped=3)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_frame(data[:length])
    with pytest.raises(ProtocolError, match="bytes"):
        decode_frame(data + b"0")


def test_the_rate_limit_lets_bursts_pass_and_refills() -> None:
    now = [0.0]
    limit = RateLimit(per_second=10, clock=lambda: now[0])
    assert [limit.allow() for _ in range(12)] == [True] * 10 + [False] * 2
    now[0] = 0.25
    assert [limit.allow() for _ in range(3)] == [True, True, False]


def test_a_tap_between_two_ticks_is_not_lost() -> None:
    controls = Controls(noop=0, realtime=True)
    controls.press(3, now=0.0)
    controls.release(3)
    assert [controls.take(0.1), controls.take(0.2)] == [3, 0]


def test_the_latest_key_wins_and_the_one_below_comes_back() -> None:
    controls = Controls(noop=0, realtime=True)
    controls.press(1, 0.0)
    assert [controls.take(0.1), controls.take(0.2)] == [1, 1]
    controls.press(2, 0.25)
    assert [controls.take(0.3), controls.take(0.4)] == [2, 2]
    controls.release(2)
    assert controls.take(0.5) == 1
    controls.release(None)
    assert controls.take(0.6) == 0


def test_without_a_key_a_turn_based_world_waits() -> None:
    controls = Controls(noop=None, realtime=False)
    assert controls.take(0.0) is None and controls.ready_in(0.0) == float("inf")
    controls.press(4, 0.0)
    assert controls.take(0.0) == 4
    assert controls.take(0.1) is None and controls.ready_in(0.1) == pytest.approx(REPEAT_DELAY - 0.1)
    assert controls.take(REPEAT_DELAY) == 4


def test_old_taps_do_not_pile_up() -> None:
    controls = Controls(noop=0, realtime=True)
    for action in range(10):
        controls.press(action, 0.0)
        controls.release(action)
    assert [controls.take(1.0) for _ in range(MAX_PENDING + 1)] == [6, 7, 8, 9, 0]


def test_a_single_step_takes_the_armed_action_then_the_noop() -> None:
    controls = Controls(noop=0, realtime=True)
    controls.arm(5)
    controls.arm(6)
    assert [controls.single(), controls.single()] == [6, 0]
    assert Controls(noop=None, realtime=False).single() is None
