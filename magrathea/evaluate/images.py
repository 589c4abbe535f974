"""Pictures: squared error and PSNR, videos (mp4 through PyAV) and contact sheets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from magrathea.spaces import to_rgb

PSNR_CAP = 20 * float(np.log10(255.0))  # 48.1 dB: an error of one grey level, the least that a uint8 picture can show
GAP = 8  # pixels between pictures of a video
CAPTION = 22  # pixels above them
BACKGROUND = (17, 20, 28)
INK = (214, 219, 230)
CLIP_RATES = (8000, 16000, 22050, 32000, 44100, 48000)  # samples per second of a video's sound


def squared_error(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """pictures, real (…, rows, columns, C) uint8 -> (…) mean squared error of pixels in 0…1."""
    difference = pictures.astype(np.float32) - real
    np.square(difference, out=difference)
    return difference.mean(axis=(-3, -2, -1), dtype=np.float64) / 255**2


def psnr(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """pictures, real (…, rows, columns, C) uint8 -> PSNR (…) in dB, at most `PSNR_CAP`."""
    return -10 * np.log10(np.maximum(squared_error(pictures, real), 10 ** (-PSNR_CAP / 10)))


def upscale(pictures: np.ndarray, smallest: int = 252) -> np.ndarray:
    """pictures (…, rows, columns, 1, 3 or 4) -> (…, 3), enlarged by the whole factor that brings rows to `smallest`."""
    factor = max(1, round(smallest / pictures.shape[-3]))
    return to_rgb(pictures).repeat(factor, axis=-3).repeat(factor, axis=-2)


def side_by_side(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """real, dream (T, rows, columns, C) uint8 -> (T, even, even, 3), captioned `real` and `dream`."""
    real, dream = upscale(real), upscale(dream)
    num_frames, rows, columns = real.shape[:3]
    height, width = CAPTION + rows, 2 * columns + GAP
    background = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    draw = ImageDraw.Draw(background)
    draw.text((4, 5), "real", fill=INK)
    draw.text((columns + GAP + 4, 5), "dream", fill=INK)
    canvas = np.broadcast_to(np.asarray(background), (num_frames, background.height, background.width, 3)).copy()
    canvas[:, CAPTION : CAPTION + rows, :columns] = real
    canvas[:, CAPTION : CAPTION + rows, columns + GAP : 2 * columns + GAP] = dream
    return canvas


def write_video(path: Path, frames: np.ndarray, fps: float, sound: tuple[np.ndarray, int] | None = None) -> Path:
    """Write frames (T, even rows, even columns, 3) uint8, and perhaps sound (samples, channels) int16 with its rate, as
    an H.264 mp4 that browsers play."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1"}
        heard = None if sound is None else _add_sound(container, *sound)
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        if sound is not None:
            _write_sound(container, heard, *sound)
    return path


def _add_sound(container: Any, samples: np.ndarray, sample_rate: int) -> Any:
    """The stream of a container for sound (samples, channels)."""
    rate = min(CLIP_RATES, key=lambda each: abs(each - sample_rate))
    return container.add_stream("aac", rate=rate, layout="mono" if samples.shape[1] == 1 else "stereo")


def _write_sound(container: Any, stream: Any, samples: np.ndarray, sample_rate: int) -> None:
    """Encode sound (samples, channels) int16, of which two channels are kept."""
    kept = np.ascontiguousarray(samples[:, :2]).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(kept, format="s16", layout=stream.layout.name)
    frame.sample_rate, frame.pts = sample_rate, 0
    resampler = av.AudioResampler(format=stream.format.name, layout=stream.layout.name, rate=stream.rate)
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        for packet in stream.encode(part):
            container.mux(packet)
    for packet in stream.encode():
        container.mux(packet)


def write_contact_sheet(path: Path, columns: list[str], rows: list[tuple[str, list[np.ndarray]]]) -> Path:
    """Write a PNG: a line of pictures (rows, columns, C) uint8 for each (name, pictures), under the columns' names."""
    height, width = upscale(rows[0][1][0], 126).shape[:2]
    margin, left, top = 6, 62, 24
    sheet = Image.new("RGB", (left + len(columns) * (width + margin), top + len(rows) * (height + margin)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((left + column * (width + margin) + 4, 6), name, fill=INK)
    for line, (name, pictures) in enumerate(rows):
        draw.text((4, top + line * (height + margin) + 4), name, fill=INK)
        for column, picture in enumerate(pictures):
            place = left + column * (width + margin), top + line * (height + margin)
            sheet.paste(Image.fromarray(upscale(picture, 126)), place)
    sheet.save(path)
    return path
