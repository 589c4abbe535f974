"""One held-out step, and what a world fills it with from each of its parts: a row for each part that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from magrathea.evaluate.plots import BLUE, DPI, FAINT_INK, INK
from magrathea.evaluate.slots import is_picture
from magrathea.sounds import Sound
from magrathea.tokenizers.sound_measures import QUIET, log_mels

CELL = (1.5, 1.15)  # inches
MEL_WINDOW = 256  # samples


def draw_any_to_any(
    path: Path, spaces: dict[str, gymnasium.Space], real: dict[str, Any], filled: dict[str, dict[str, Any]]
) -> None:
    """Draw a grid: the recorded parts, by their keys, and below them for each known part, framed, what the others are
    filled with."""
    rows = {"recorded": real} | {f"from {source}": {**parts, source: real[source]} for source, parts in filled.items()}
    canvas = Canvas(figsize=(CELL[0] * len(spaces) + 0.9, CELL[1] * len(rows) + 0.3), layout="constrained")
    brightest = {
        key: max(int(np.max(parts[key])) for parts in rows.values()) if is_picture(space) else 0
        for key, space in spaces.items()
    }
    grid = canvas.subplots(len(rows), len(spaces), squeeze=False)
    for cells, (name, parts) in zip(grid, rows.items(), strict=True):
        cells[0].set_ylabel(name, fontsize=9, color=INK)
        for axes, (key, space) in zip(cells, spaces.items(), strict=True):
            axes.set(xticks=[], yticks=[])
            draw_part(axes, space, parts[key], brightest[key])
            for side in axes.spines.values():
                side.set(visible=name == f"from {key}", color=BLUE, linewidth=3)
    for axes, key in zip(grid[0], spaces, strict=True):
        axes.set_title(key, fontsize=10, color=INK)
    canvas.savefig(path, dpi=DPI)


def draw_part(axes: Axes, space: gymnasium.Space, value: Any, brightest: int) -> None:
    """Draw a value: a picture, of which a grey one is white at `brightest`; a sound as its mel spectra, one channel
    above the other; all else in words."""
    if isinstance(space, Sound):
        waves = torch.from_numpy(space.waveform(np.asarray(value)).astype(np.float32))
        spectra = log_mels(waves, MEL_WINDOW, space.sample_rate).flip(-2).flatten(0, 1)
        axes.imshow(spectra.numpy(), aspect="auto", cmap="magma", vmin=float(np.log10(QUIET)), vmax=0)
    elif is_picture(space):
        axes.imshow(np.asarray(value).squeeze(), cmap="gray", vmin=0, vmax=max(1, brightest))
    else:
        words = np.array(value).ravel()
        shown = "\n".join(f"{word:.2f}" if isinstance(word, np.floating) else str(word) for word in words[:6])
        axes.text(0.5, 0.5, shown, ha="center", va="center", fontsize=8, color=FAINT_INK, transform=axes.transAxes)
