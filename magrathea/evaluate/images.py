"""Pictures: PSNR, SSIM and sharpness, videos (mp4 through PyAV) and contact sheets."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from magrathea.spaces import to_rgb

PSNR_CAP = 20 * float(np.log10(255.0))  # 48.1 dB: an error of one grey level, the least that a uint8 picture can show
CHUNK = 256  # pictures that are compared at once
GAP = 8  # pixels between pictures of a video
CAPTION = 22  # pixels above them
BACKGROUND = (17, 20, 28)
INK = (214, 219, 230)


def psnr(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """pictures, real (…, rows, columns, C) uint8 -> PSNR (…) in dB, at most `PSNR_CAP`."""

    def measure(one: Tensor, other: Tensor) -> Tensor:
        return peak_signal_noise_ratio(one, other, data_range=255.0, reduction="none", dim=(1, 2, 3))

    return np.minimum(_compare(measure, pictures, real), PSNR_CAP)


def ssim(pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """pictures, real (…, rows, columns, C) uint8 -> SSIM (…), with an 11x11 Gaussian window."""

    def measure(one: Tensor, other: Tensor) -> Tensor:
        return torch.as_tensor(structural_similarity_index_measure(one, other, data_range=255.0, reduction="none"))

    return _compare(measure, pictures, real)


def _compare(measure: Callable[[Tensor, Tensor], Tensor], pictures: np.ndarray, real: np.ndarray) -> np.ndarray:
    """A measure of pairs of pictures (n, C, rows, columns) float32, in chunks."""
    shape = pictures.shape[:-3]
    flat = [np.moveaxis(array.reshape(-1, *array.shape[-3:]), -1, 1) for array in (pictures, real)]
    values = []
    for begin in range(0, len(flat[0]), CHUNK):
        pair = (torch.from_numpy(array[begin : begin + CHUNK].astype(np.float32)) for array in flat)
        values.append(measure(*pair).reshape(-1).numpy())
    return np.concatenate(values).reshape(shape).astype(np.float64) if values else np.zeros(shape)


def sharpness(pictures: np.ndarray) -> np.ndarray:
    """pictures (…, rows, columns, C) uint8 -> (…) mean absolute difference of neighbouring pixels, in grey levels."""
    grey = pictures.astype(np.float32).mean(axis=-1)
    vertical = np.abs(np.diff(grey, axis=-2)).mean(axis=(-2, -1))
    horizontal = np.abs(np.diff(grey, axis=-1)).mean(axis=(-2, -1))
    return (vertical + horizontal) / 2


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


def write_video(path: Path, frames: np.ndarray, fps: float) -> Path:
    """Write frames (T, even rows, even columns, 3) uint8 as an H.264 mp4 that browsers play."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1"}
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


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
