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


def write_contact_sheet(path: Path, columns: list[str], rows: list[tuple[str, list[np.ndarray]]]) -> Path:
    """Write a PNG: a row of pictures (rows, cols, C) uint8 for each (name, pictures), under the columns' names."""
    first = as_rgb(rows[0][1][0])
    height, width = upscale(first, 126).shape[:2]
    margin, left, top = 6, 62, 24
    sheet = Image.new("RGB", (left + len(columns) * (width + margin), top + len(rows) * (height + margin)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((left + column * (width + margin) + 4, 6), name, fill=INK)
    for line, (name, pictures) in enumerate(rows):
        draw.text((4, top + line * (height + margin) + 4), name, fill=INK)
        for column, picture in enumerate(pictures):
            place = left + column * (width + margin), top + line * (height + margin)
            sheet.paste(Image.fromarray(upscale(as_rgb(picture), 126)), place)
    sheet.save(path)
    return path
