"""Messages between the page and the server over one WebSocket.

Client to server: JSON text of at most 4 KB, one of the `ClientMessage` structs with its tag as "type". `MessageDecoder`
validates a message once, where it enters.

Server to client, text: `WorldMessage` once; `SessionMessage` when the session's name, branches, viewers or control lock
change; `ErrorMessage` for a refusal (a "fatal" one ends the connection).
Server to client, binary: one frame,

    4 bytes   H, the length of the header in bytes, unsigned, little-endian
    H bytes   the header: JSON, UTF-8, a `DreamHeader`, `MirrorHeader` or `FuturesHeader` with its tag as "kind"
    the rest  the images that header["parts"] lists, in that order, without gaps

An image is uint8: "picture" has format "rgb8" and shape [height, width, 3]; "uncertainty" has format "grey8" and shape
[rows, columns], 0 = certain, 255 = uniform over the codebook. The sound of a step, "sound", has format "pcm16" and
shape [samples, channels], int16, little-endian, at the sample rate of the `WorldInfo`; it is heard once for each step.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from magrathea.server.store import Branch

MAX_MESSAGE_BYTES = 4096
MAX_SEED = 2**31 - 1
MAX_INTEGER = 2**53  # the largest integer up to which JavaScript's numbers are exact
SPEEDS = (0.25, 0.5, 1, 2, 4, None)  # None: as fast as the model runs

Seed = Annotated[int, Meta(ge=0, le=MAX_SEED)]
Number = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class ProtocolError(ValueError):
    """A message that is refused; its text is the reason sent back."""


# -- client to server -------------------------------------------------------------------------------------------------
class ClientMessage(Struct, tag_field="type", forbid_unknown_fields=True):
    """Base of what a page may send."""


class Press(ClientMessage, tag="press"):
    """A button's key went down."""

    button: Number


class Release(ClientMessage, tag="release"):
    """A button's key went up; None: all keys."""

    button: Number | None


class Axis(ClientMessage, tag="axis"):
    """A slider moved, or a stick; None: it is where it rests."""

    axis: Number
    value: Annotated[float, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)] | None


class Say(ClientMessage, tag="say"):
    """A text of the action was written: a step with it."""

    text: Number
    value: Annotated[str, Meta(max_length=2000)]


class Pause(ClientMessage, tag="pause"):
    """Pause or resume."""

    on: bool


class SingleStep(ClientMessage, tag="step"):
    """One step, then a pause; None takes the chosen or held buttons, or the no-op."""

    button: Number | None = None


class Reset(ClientMessage, tag="reset"):
    """A new branch from a stored start state; None lets the seed choose it."""

    seed: Seed
    start: Number | None = None


class SetSpeed(ClientMessage, tag="speed"):
    """Speed as a multiple of the world's own, one of SPEEDS."""

    value: float | None

    def __post_init__(self) -> None:
        if self.value not in SPEEDS:
            raise ValueError(f"`value` must be 0.25, 0.5, 1, 2, 4 or null, not {self.value:g}")


class Realtime(ClientMessage, tag="realtime"):
    """Whether steps with the no-op go on while no key is down."""

    on: bool


class Mirror(ClientMessage, tag="mirror"):
    """Whether the real environment runs alongside the dream; turning it on resets both."""

    on: bool


class LetAgentPlay(ClientMessage, tag="agent"):
    """Whether the world's agent acts in place of keys, until one is pressed."""

    on: bool


class GoTo(ClientMessage, tag="go_to"):
    """Continue from a step of a branch."""

    branch: Number
    step: Number


class Control(ClientMessage, tag="control"):
    """Request control of the session, or release it (or the request)."""

    on: bool


class Seen(ClientMessage, tag="seen"):
    """The page has drawn this frame, and is done with all before it."""

    frame: Number


AnyClientMessage = (
    Press
    | Release
    | Axis
    | Say
    | Pause
    | SingleStep
    | Reset
    | SetSpeed
    | Realtime
    | Mirror
    | LetAgentPlay
    | GoTo
    | Control
    | Seen
)


class MessageDecoder:
    """Reads the messages to a world with so many buttons, sliders, stored start states and texts."""

    def __init__(self, num_buttons: int, num_axes: int, num_starts: int, num_texts: int = 0) -> None:
        self._counts = {"button": num_buttons, "axis": num_axes, "start": num_starts, "text": num_texts}
        self._decoder = msgspec.json.Decoder(AnyClientMessage)

    def decode(self, data: str | bytes) -> AnyClientMessage:
        """One validated message; raises ProtocolError with a reason in one line."""
        if not isinstance(data, str):
            raise ProtocolError("Binary messages are not accepted; send JSON text.")
        encoded = data.encode("utf-8", "surrogatepass")
        if len(encoded) > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"Message is larger than {MAX_MESSAGE_BYTES} bytes.")
        try:
            message = self._decoder.decode(encoded)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ProtocolError(f"Message refused: {error}"[:200]) from None
        for name, count in self._counts.items():
            value = getattr(message, name, None)
            if value is not None and value >= count:
                wanted = f"must be from 0 to {count - 1}, not {value}" if count else "is nothing that this world has"
                raise ProtocolError(f"Message refused: `{name}` {wanted}.")
        return message


# -- server to client, text -------------------------------------------------------------------------------------------
class ButtonInfo(Struct):
    """A button of a world; `keys` are values of KeyboardEvent.key on a US keyboard, which the page finds by place."""

    index: int
    name: str
    keys: list[str]


class AxisInfo(Struct):
    """A slider of a world, for a number of its actions, which rests where it is `neutral`."""

    index: int
    name: str
    low: float
    high: float
    neutral: float


class TextInputInfo(Struct):
    """A text of a world's actions, with its name, "" for the only part of an action."""

    index: int
    name: str
    max_length: int


class SoundInfo(Struct):
    """The sound of a world's frames: samples per second, and channels."""

    sample_rate: int
    channels: int


class RoundInfo(Struct):
    """What a round of an agent's learning measured: the mean return of the same policy in dreams and in reality."""

    real_steps: int
    dream_return: float
    real_return: float


class AgentInfo(Struct):
    """What the page shows of a world's agent. `learned` are the rounds of its learning, and `measured` the figures of
    its card, None where they were not measured."""

    learned: list[RoundInfo] = []
    measured: RoundInfo | None = None
    has_card: bool = False


class WorldInfo(Struct):
    """What the page shows of a world. `has_noop`: whether it has an action while no button is held; `is_text`: whether
    its observations are words alone; `counters`: names of the numbers that its frames have; `sound`: None where they
    have none; `agent`: None where it has none."""

    id: str
    name: str
    description: str
    env_id: str
    license: str
    fps: float
    buttons: list[ButtonInfo]
    axes: list[AxisInfo]
    texts: list[TextInputInfo]
    is_text: bool
    has_noop: bool
    num_starts: int
    has_card: bool
    counters: list[str] = []
    sound: SoundInfo | None = None
    agent: AgentInfo | None = None


class WorldMessage(Struct, tag_field="type", tag="world"):
    """The first message of a connection: the world and the session's id."""

    session: str
    world: WorldInfo


class SessionMessage(Struct, tag_field="type", tag="session"):
    """A session's name, branches and viewers. `branch` is the one being played, `requests` the number of viewers who
    wait for control; `in_control` and `requested` are about the viewer who gets the message."""

    id: str
    name: str
    branch: int
    branches: Sequence[Branch]
    viewers: int
    requests: int
    free: bool
    in_control: bool
    requested: bool


class ErrorMessage(Struct, tag_field="type", tag="error"):
    """A refusal; after a fatal one the connection is closed."""

    reason: str
    fatal: bool = False


# -- server to client, binary -----------------------------------------------------------------------------------------
class MirrorStatus(Struct):
    """State of the real environment; `behind` is the number of actions that it has still to take."""

    state: str = "off"
    reason: str = ""
    behind: int = 0


class TextPart(Struct):
    """A text of an observation or an action, with its name, "" for the only part."""

    name: str
    text: str


class TranscriptStep(Struct):
    """The texts of a step: of its action and of its observation."""

    step: int
    said: list[TextPart]
    seen: list[TextPart]


Format = Literal["rgb8", "grey8", "pcm16"]


class Part(Struct):
    """An image or a sound of a frame; `size` in bytes."""

    name: str
    format: Format
    shape: tuple[int, ...]
    size: int


class Header(Struct, kw_only=True, tag_field="kind"):
    """What all kinds of frame say. `dropped` counts frames that this viewer did not get; `said` and `seen` are the
    texts of the step's action and observation, `counters` those that the environment reports beside its observation."""

    frame: int = 0
    step: int = 0
    reward: float = 0.0
    total_reward: float = 0.0
    terminated: bool = False
    mirror: MirrorStatus = msgspec.field(default_factory=MirrorStatus)
    counters: list[int] = []
    dropped: int = 0
    parts: list[Part] = []
    said: list[TextPart] = []
    seen: list[TextPart] = []


class DreamHeader(Header, kw_only=True, tag="dream"):
    """A frame of the dream. `rate` is in steps per second; `buttons` led to it, `next_buttons` are chosen for a single
    step; `status` is what the environment's plug-in says of the picture. `agent`: whether the agent plays, and `value`
    what it expected before the step: the discounted rewards to follow."""

    state: str = "starting"
    reason: str = ""
    status: str = ""
    branch: int = 0
    buttons: list[int] = []
    next_buttons: list[int] = []
    num_passes: int = 0
    rate: float = 0.0
    model_ms: float = 0.0
    seed: int = 0
    start: int | None = None
    speed: float | None = 1
    realtime: bool = False
    agent: bool = False
    value: float | None = None


class MirrorHeader(Header, kw_only=True, tag="mirror"):
    """A frame of the real environment."""


class FutureInfo(Struct):
    """A future: the words of its first action, its discounted rewards with the value of where it leads, and whether the
    episode ends in it."""

    action: str
    total: float
    ends: bool


class FuturesHeader(Header, kw_only=True, tag="futures"):
    """The best futures that the agent imagined from a step. The picture of each, "future0" and so on, is those of its
    steps one below the other, `num_pictures` of them."""

    futures: list[FutureInfo] = []
    num_pictures: list[int] = []


@dataclass(frozen=True)
class Frame:
    """A frame before it is packed: its header, and its images (uint8) and its sound (int16) by name."""

    header: Any  # DreamHeader, MirrorHeader or FuturesHeader
    parts: dict[str, np.ndarray]

    @property
    def kind(self) -> str:
        """ "dream", "mirror" or "futures"."""
        return self.header.__struct_config__.tag


def encode_frame(frame: Frame, dropped: int = 0) -> bytes:
    """Pack a frame for one viewer. Raises TypeError if a part is neither an image of uint8 nor a sound of int16."""
    listed, blobs = [], []
    for name, array in frame.parts.items():
        if array.dtype not in (np.uint8, np.int16) or array.ndim > (3 if array.dtype == np.uint8 else 2):
            raise TypeError(f"Part '{name}' of a frame must be uint8, or int16 of a sound, not {array.dtype}.")
        listed.append(Part(name, _format_of(array), array.shape, array.nbytes))
        blobs.append(array.tobytes())
    header = msgspec.json.encode(msgspec.structs.replace(frame.header, dropped=dropped, parts=listed))
    return b"".join([struct.pack("<I", len(header)), header, *blobs])


def _format_of(array: np.ndarray) -> Format:
    if array.dtype == np.int16:
        return "pcm16"
    return "rgb8" if array.ndim == 3 else "grey8"


def decode_frame(data: bytes) -> Frame:
    """Unpack a frame; raises ProtocolError if it is truncated or inconsistent."""
    if len(data) < 4:
        raise ProtocolError("Frame is shorter than its length field.")
    (length,) = struct.unpack_from("<I", data)
    try:
        header = msgspec.json.decode(data[4 : 4 + length], type=DreamHeader | MirrorHeader | FuturesHeader)
        offset, parts = 4 + length, {}
        for part in header.parts:
            dtype = np.dtype("<i2" if part.format == "pcm16" else np.uint8)
            parts[part.name] = np.frombuffer(data, dtype, part.size // dtype.itemsize, offset).reshape(part.shape)
            offset += part.size
    except ValueError as error:
        raise ProtocolError(f"Frame cannot be read: {error}.") from None
    if offset != len(data):
        raise ProtocolError(f"Frame has {len(data)} bytes, but its header says {offset}.")
    return Frame(header, parts)
