"""Frames of the dream: what one step shows, as a picture, an image of the uncertainty and a few figures."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import optree
import torch
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont

from magrathea.errors import MagratheaError
from magrathea.plugins import environment_plugin, load_reference
from magrathea.server.action_inputs import ActionInputs
from magrathea.server.engine import StepOutput
from magrathea.server.protocol import DreamHeader, Frame, FutureInfo, FuturesHeader, TextPart, TranscriptStep
from magrathea.sounds import Sound, sound_of
from magrathea.spaces import (
    COUNTERS,
    find_picture,
    has_counters,
    index_batch,
    leaf_spaces_of,
    picture_of,
    space_tree,
)

CLIP_SECONDS, CLIP_SIDE = 10.0, 256  # of a clip, and pixels that its longer side has at least
CLIP_PIXELS = 2**25  # of all frames of a clip at most; older frames are left out
FUTURE_SIDE = 96  # pixels that the longer side of a future's pictures has at most
BAR_HEIGHT, BAR_WIDTH = 48, 8  # pixels, where a space without a picture is drawn as bars
WORDS_SIZE, FONT_SIZE, MARGIN = (720, 440), 18, 18  # pixels, where a space of texts alone is drawn as words


def texts_of(space: gymnasium.Space, value: Any) -> list[TextPart]:
    """The texts of a value, by the names of their parts."""
    leaves = zip(leaf_spaces_of(space), optree.tree_structure(space_tree(space)).flatten_up_to(value), strict=True)
    return [TextPart(key, str(part)) for (key, leaf), part in leaves if isinstance(leaf, spaces.Text)]


def is_text(space: gymnasium.Space) -> bool:
    """Whether all parts of a space are texts."""
    return all(isinstance(leaf, spaces.Text) for _, leaf in leaf_spaces_of(space))


def transcript(world: Any, tokens: Any, first: int) -> list[TranscriptStep]:
    """What was said and seen in steps (T, N), of which the first has this number; an absent action says nothing."""
    tokens = torch.as_tensor(tokens)
    absent = world.layout.absent_tokens[world.layout.role_span("action")]
    seen, steps = world.decode_observation(tokens), []
    for index in range(len(tokens)):
        acted = bool((tokens[index, world.layout.role_span("action")] != absent).any())
        said = (
            texts_of(world.action_space, index_batch(world.decode_action(tokens[index : index + 1]), 0))
            if acted
            else []
        )
        steps.append(TranscriptStep(first + index, said, texts_of(world.observation_space, index_batch(seen, index))))
    return steps


class Renderer:
    """Turns observations of one space into pictures; a space without a picture is drawn as bars, texts alone as words.

    Attributes:
        status: says of a picture what its environment's plug-in has to say of it, "" for nothing.
    """

    def __init__(self, space: gymnasium.Space, env_id: str = "") -> None:
        self.space = space
        plugin = environment_plugin(env_id)
        reference = plugin.picture_status if plugin else None
        self.status = load_reference(reference) if reference else lambda _: ""
        path = find_picture(space)
        self.slot = None if path is None else "/".join(map(str, ("observation", *path)))  # that holds the picture

    def render(self, observation: Any) -> np.ndarray:
        """One observation, without a batch dimension, as uint8 (H, W, 3)."""
        if self.slot is None:
            parts = zip(leaf_spaces_of(self.space), optree.tree_leaves(observation), strict=True)
            numbers = [
                np.ravel(np.asarray(gymnasium.spaces.flatten(leaf, part)))
                for (_, leaf), part in parts
                if not isinstance(leaf, spaces.Text | Sound)
            ]
            return _bars(np.concatenate(numbers)) if numbers else _words(texts_of(self.space, observation))
        return picture_of(self.space, observation)

    def counters(self, observation: Any) -> list[int]:
        """The counters of one observation, [] where the space has none."""
        return [int(value) for value in observation[COUNTERS]] if has_counters(self.space) else []

    def sound(self, observation: Any) -> np.ndarray | None:
        """The sound of one observation as int16 (samples, channels); None where the space has none."""
        found = sound_of(self.space, observation)
        return None if found is None else pcm(found[1])

    def png(self, world: Any, tokens: Any) -> bytes:
        """The observation of a step's tokens (1, N) as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self.render(index_batch(world.decode_observation(tokens), 0))).save(buffer, "PNG")
        return buffer.getvalue()


def pcm(waveform: np.ndarray) -> np.ndarray:
    """A waveform (channels, samples) within ±1 as int16 (samples, channels)."""
    return np.ascontiguousarray(np.round(np.clip(waveform.T, -1, 1) * 32767).astype("<i2"))


def clip_mp4(pictures: Sequence[np.ndarray], sounds: Sequence[np.ndarray], sample_rate: int, fps: float) -> bytes:
    """Pictures (height, width, 3) uint8, fps of them a second, and the sounds (samples, channels) int16 of each, as an
    MP4 file; small pictures are magnified.

    Raises:
        MagratheaError: where the package that writes videos is not installed.
    """
    try:
        from magrathea.evaluate.images import write_video
    except ImportError as error:
        raise MagratheaError(
            f"A clip with sound needs the package '{error.name}'; install it with 'pip install magrathea[train]'."
        ) from error
    frames = np.stack(list(pictures[-_most_frames(pictures[0]) :]))
    scale = _clip_scale(pictures[0])
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    frames = np.pad(frames, [(0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)], mode="edge")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames, fps, (np.concatenate(sounds[-len(frames) :]), sample_rate))
        return path.read_bytes()


def _clip_scale(picture: np.ndarray) -> int:
    return max(1, round(CLIP_SIDE / max(picture.shape[:2])))


def _most_frames(picture: np.ndarray) -> int:
    height, width = picture.shape[:2]
    return max(1, CLIP_PIXELS // (height * width * _clip_scale(picture) ** 2))


def clip_gif(pictures: Sequence[np.ndarray], fps: float) -> bytes:
    """Pictures (height, width, 3) uint8, fps of them a second, as an animated GIF; small ones are magnified."""
    height, width = pictures[0].shape[:2]
    scale, most = _clip_scale(pictures[0]), _most_frames(pictures[0])
    frames = [
        Image.fromarray(p).resize((width * scale, height * scale), Image.Resampling.NEAREST) for p in pictures[-most:]
    ]
    buffer = io.BytesIO()
    duration = max(20, round(1000 / fps))  # browsers show shorter ones slowly
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return buffer.getvalue()


def _bars(values: np.ndarray) -> np.ndarray:
    heights = np.tanh(np.nan_to_num(values.ravel()[:64].astype(np.float64)))
    picture = np.full((BAR_HEIGHT, BAR_WIDTH * max(1, len(heights)), 3), 24, np.uint8)
    middle = BAR_HEIGHT // 2
    for index, height in enumerate(heights):
        end = middle - round(height * (middle - 2))
        columns = slice(index * BAR_WIDTH + 1, (index + 1) * BAR_WIDTH - 1)
        picture[min(middle, end) : max(middle, end) + 1, columns] = (232, 184, 107)
    return picture


def _words(texts: Sequence[TextPart]) -> np.ndarray:
    picture = Image.new("RGB", WORDS_SIZE, (11, 13, 16))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    lines = []
    for line in "\n".join(part.text for part in texts).splitlines():
        words = ""
        for word in line.split(" "):
            longer = f"{words} {word}".strip()
            if words and draw.textlength(longer, font) > WORDS_SIZE[0] - 2 * MARGIN:
                lines.append(words)
                longer = word
            words = longer
        lines.append(words)
    draw.multiline_text((MARGIN, MARGIN), "\n".join(lines), (236, 232, 225), font)
    return np.asarray(picture)


def step_frame(output: StepOutput, buttons: Sequence[int], said: list[TextPart], renderer: Renderer) -> Frame:
    """The frame of a step that was taken while these buttons were held, whose action has these texts."""
    result, index = output.result, output.index
    reward = float(result.reward[index])
    observation = index_batch(result.observation, index)
    picture = renderer.render(observation)
    header = DreamHeader(
        buttons=list(buttons),
        status=renderer.status(picture),
        reward=round(reward, 4) if math.isfinite(reward) else 0.0,
        terminated=bool(result.terminated[index]),
        num_passes=int(result.num_passes[index]),
        said=said,
        seen=texts_of(renderer.space, observation),
        counters=renderer.counters(observation),
    )
    parts, sound = {"picture": picture}, renderer.sound(observation)
    if sound is not None:
        parts["sound"] = sound
    uncertainty = result.uncertainty.get(renderer.slot) if renderer.slot else None
    if uncertainty is not None:
        clipped = np.clip(np.asarray(uncertainty[index], dtype=np.float32), 0, 1)
        parts["uncertainty"] = np.rint(255 * clipped).astype(np.uint8)
    return Frame(header, parts)


def futures_frame(world: Any, futures: Sequence[Any], inputs: ActionInputs, renderer: Renderer, step: int) -> Frame:
    """The frame of futures of a world that were imagined from a step."""
    header, parts = FuturesHeader(step=step), {}
    for index, future in enumerate(futures):
        seen = world.decode_observation(future.tokens)
        pictures = [_small(renderer.render(index_batch(seen, n))) for n in range(len(future.tokens))]
        parts[f"future{index}"] = np.concatenate(pictures)
        header.futures.append(FutureInfo(inputs.words(future.action), round(future.total, 4), future.ends))
        header.num_pictures.append(len(pictures))
    return Frame(header, parts)


def _small(picture: np.ndarray) -> np.ndarray:
    factor = -(-max(picture.shape[:2]) // FUTURE_SIDE)
    return picture if factor == 1 else np.asarray(Image.fromarray(picture).reduce(factor))


def restored_frame(world: Any, tokens: Any, is_start: bool, renderer: Renderer) -> Frame:
    """The frame of the step, tokens (N,), at which a session starts or is restored."""
    terminated = not is_start and bool(world.decode_terminated(tokens[None])[0])
    observation = index_batch(world.decode_observation(tokens[None]), 0)
    picture = renderer.render(observation)
    header = DreamHeader(
        terminated=terminated,
        status=renderer.status(picture),
        seen=texts_of(renderer.space, observation),
        counters=renderer.counters(observation),
    )
    return Frame(header, {"picture": picture})
