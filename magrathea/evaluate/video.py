"""Videos (mp4 through PyAV) and contact sheets of a dream beside reality."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from magrathea.evaluate.pictures import as_rgb, upscale

GAP = 8  # pixels between the two pictures
CAPTION = 22  # pixels above them
BACKGROUND = (17, 20, 28)
INK = (214, 219, 230)


def side_by_side(real: np.ndarray, dream: np.ndarray) -> np.ndarray:
    """real, dream (T, rows, cols, C) uint8 -> (T, even, even, 3), captioned `real` and `dream`."""
    real, dream = upscale(as_rgb(real)), upscale(as_rgb(dream))
    num_frames, rows, cols = real.shape[:3]
    height, width = CAPTION + rows, 2 * cols + GAP
    background = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    draw = ImageDraw.Draw(background)
    draw.text((4, 5), "real", fill=INK)
    draw.text((cols + GAP + 4, 5), "dream", fill=INK)
    canvas = np.broadcast_to(np.asarray(background), (num_frames, background.height, background.width, 3)).copy()
    canvas[:, CAPTION : CAPTION + rows, :cols] = real
    canvas[:, CAPTION : CAPTION + rows, cols + GAP : 2 * cols + GAP] = dream
    return canvas


def write_video(path: Path, frames: np.ndarray, fps: float) -> Path:
    """Write frames (T, even rows, even cols, 3) uint8 as an H.264 mp4 that browsers play."""
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


def write_contact_sheet(path: Path, rows: list[tuple[str, np.ndarray, np.ndarray]], steps: list[int]) -> Path:
    """Write a PNG: for each (name, real, dream) a row of real frames above its dream at the given horizons.

    real, dream: (T, rows, cols, C) uint8, where index h - 1 is horizon h.
    """
    size = upscale(as_rgb(rows[0][1][:1]), 126).shape[1:3]
    margin, left = 6, 62
    sheet = Image.new(
        "RGB", (left + len(steps) * (size[1] + margin), 24 + len(rows) * (2 * size[0] + 3 * margin)), BACKGROUND
    )
    draw = ImageDraw.Draw(sheet)
    for column, step in enumerate(steps):
        draw.text((left + column * (size[1] + margin) + 4, 6), f"step {step}", fill=INK)
    for index, (name, real, dream) in enumerate(rows):
        for line, (caption, frames) in enumerate((("real", real), ("dream", dream))):
            top = 24 + index * (2 * size[0] + 3 * margin) + line * (size[0] + margin // 2)
            draw.text((4, top + 4), caption if line else f"{name}\n{caption}", fill=INK)
            for column, step in enumerate(steps):
                if step <= len(frames):
                    picture = Image.fromarray(upscale(as_rgb(frames[step - 1]), 126))
                    sheet.paste(picture, (left + column * (size[1] + margin), top))
    sheet.save(path)
    return path
