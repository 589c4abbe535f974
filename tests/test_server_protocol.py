"""Messages between the page and the server: invalid ones are refused, frames are encoded and decoded."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magrathea.server import protocol
from magrathea.server.protocol import (
    DreamHeader,
    Frame,
    MessageDecoder,
    MirrorHeader,
    MirrorStatus,
    ProtocolError,
    decode_frame,
    encode_frame,
)

DECODER = MessageDecoder(num_buttons=7, num_axes=2, num_starts=4, num_texts=1)
KINDS = ["press", "release", "pause", "step", "reset", "speed", "realtime", "mirror", "go_to", "control", "seen", "say"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["button", "on", "value", "seed", "start", "frame", "branch", "step", "text", "extra"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "press", "button": 0}', protocol.Press(0)),
        ('{"type": "press", "button": 6}', protocol.Press(6)),
        ('{"type": "release", "button": null}', protocol.Release(None)),
        ('{"type": "pause", "on": true}', protocol.Pause(True)),
        ('{"type": "step"}', protocol.SingleStep(None)),
        ('{"type": "step", "button": 3}', protocol.SingleStep(3)),
        ('{"type": "reset", "seed": 2147483647, "start": 3}', protocol.Reset(2**31 - 1, 3)),
        ('{"type": "reset", "seed": 0}', protocol.Reset(0)),
        ('{"type": "speed", "value": 0.25}', protocol.SetSpeed(0.25)),
        ('{"type": "speed", "value": null}', protocol.SetSpeed(None)),
        ('{"type": "realtime", "on": false}', protocol.Realtime(False)),
        ('{"type": "mirror", "on": true}', protocol.Mirror(True)),
        ('{"type": "go_to", "branch": 3, "step": 120}', protocol.GoTo(3, 120)),
        ('{"type": "control", "on": true}', protocol.Control(True)),
        ('{"type": "seen", "frame": 12}', protocol.Seen(12)),
        ('{"type": "say", "text": 0, "value": "go east → 😀"}', protocol.Say(0, "go east → 😀")),
    ],
)
def test_valid_messages_are_decoded(text: str, message: protocol.ClientMessage) -> None:
    assert DECODER.decode(text) == message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "truncated"),
        ("hello", "malformed"),
        ("[" * 4000, "Expected `object`"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `type`"),
        ('{"type": "fly"}', "Invalid value 'fly'"),
        ('{"type": ["press"]}', "`$.type`"),
        ('{"type": "press"}', "missing required field `button`"),
        ('{"type": "press", "button": 7}', "`button` must be from 0 to 6, not 7"),
        ('{"type": "press", "button": -1}', "Expected `int` >= 0 - at `$.button`"),
        ('{"type": "press", "button": true}', "got `bool`"),
        ('{"type": "press", "button": 1.0}', "got `float`"),
        ('{"type": "press", "button": 1, "sudo": 1}', "unknown field `sudo`"),
        ('{"type": "pause", "on": 1}', "Expected `bool`"),
        ('{"type": "reset", "seed": -1}', "`$.seed`"),
        ('{"type": "reset", "seed": 2147483648}', "`$.seed`"),
        ('{"type": "reset", "seed": 1, "start": 4}', "`start` must be from 0 to 3, not 4"),
        ('{"type": "speed", "value": 3}', "0.25, 0.5, 1, 2, 4 or null, not 3"),
        ('{"type": "speed", "value": true}', "got `bool`"),
        ('{"type": "speed", "value": NaN}', "malformed"),
        ('{"type": "press", "button": "\ud800"}', "Message refused"),
        (json.dumps({"type": "press", "button": "é" * 3000}), "larger than 4096 bytes"),
        (b"\x00", "Binary"),
    ],
)
def test_invalid_messages_are_refused_with_a_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        DECODER.decode(text)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 200


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200) | JSON.map(json.dumps) | st.binary(max_size=20))
def test_any_input_is_refused_or_a_known_message(text: str | bytes) -> None:
    try:
        message = DECODER.decode(text)
    except ProtocolError:
        return
    assert isinstance(message, protocol.ClientMessage)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.dictionaries(NAMES, JSON, max_size=3))
def test_similar_messages_are_refused_or_in_range(kind: str, fields: dict) -> None:
    try:
        message = DECODER.decode(json.dumps({"type": kind, **fields}))
    except ProtocolError:
        return
    assert message.__struct_config__.tag == kind and set(fields) <= set(message.__struct_fields__)
    button = getattr(message, "button", None)
    assert button is None or (type(button) is int and 0 <= button < 7)


HEADERS = st.builds(
    DreamHeader, state=st.text(max_size=9), frame=st.integers(0, 2**40), mirror=st.builds(MirrorStatus)
) | st.builds(MirrorHeader, reward=st.floats(-9, 9), mirror=st.builds(MirrorStatus, behind=st.integers(0, 500)))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), HEADERS)
def test_frames_are_encoded_and_decoded(height: int, width: int, header: DreamHeader | MirrorHeader) -> None:
    generator = np.random.default_rng(0)
    parts = {
        "picture": generator.integers(0, 256, (height, width, 3), np.uint8),
        "uncertainty": generator.integers(0, 256, (3, 2), np.uint8),
        "sound": generator.integers(-(2**15), 2**15, (7 * width, 2)).astype(np.int16),
    }
    frame = decode_frame(encode_frame(Frame(header, parts), dropped=2))
    assert frame.header.dropped == 2 and [part.name for part in frame.header.parts] == list(parts)
    assert [part.format for part in frame.header.parts] == ["rgb8", "grey8", "pcm16"]
    assert msgspec.structs.replace(frame.header, dropped=0, parts=[]) == header
    assert all((frame.parts[name] == array).all() for name, array in parts.items())


@pytest.mark.parametrize("part", [np.zeros((4, 2), np.float32), np.zeros((4, 4, 3), np.int16), np.zeros(3, np.int64)])
def test_parts_are_pictures_or_sound(part: np.ndarray) -> None:
    with pytest.raises(TypeError, match="must be uint8, or int16"):
        encode_frame(Frame(MirrorHeader(), {"picture": part}))


def test_truncated_frames_are_refused() -> None:
    parts = {"picture": np.zeros((2, 2, 3), np.uint8), "sound": np.zeros((3, 1), np.int16)}
    data = encode_frame(Frame(MirrorHeader(), parts), dropped=3)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            decode_frame(data[:length])
    with pytest.raises(ProtocolError, match="bytes"):
        decode_frame(data + b"0")
    with pytest.raises(ProtocolError, match="cannot be read"):
        decode_frame(data.replace(b"pcm16", b"pcm24"))
