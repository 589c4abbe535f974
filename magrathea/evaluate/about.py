"""What an evaluation was of, and how its figures are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from magrathea.data import Dataset
from magrathea.evaluate.recordings import Recording, is_training_dataset
from magrathea.files import atomic_write
from magrathea.world import World


def about(world: World, source: Dataset, recordings: list[Recording], seed: int) -> dict[str, Any]:
    """What was measured, and on what."""
    same = is_training_dataset(world, source)
    return {
        "world": world.metadata.get("name"),
        "environment": source.env_id,
        "parameters": sum(weights.numel() for weights in world.model.parameters()),
        "window": world.config.model.window,
        "fill": world.config.fill.to_config(),
        "episodes": [recording.number for recording in recordings],
        "steps": int(sum(len(recording.tokens) - 1 for recording in recordings)),
        "from": "episodes held out of the training" if same else "another dataset than the training's",
        "seed": seed,
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as file:
        file.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
