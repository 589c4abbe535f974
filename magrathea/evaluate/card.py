"""A world's model card: what it is, how it was made, and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magrathea.evaluate.page import number
from magrathea.files import atomic_write
from magrathea.world import World


def write_card(folder: Path, world: World, metrics: dict[str, Any]) -> None:
    """Write the README.md of a world's folder from the metrics of `evaluate`, atomically."""
    with atomic_write(folder / "README.md") as file:
        file.write_text(card(world, metrics))


def card(world: World, metrics: dict[str, Any]) -> str:
    """The model card as Markdown."""
    metadata, about = world.metadata, metrics["about"]
    training = metadata.get("training", {})
    rows = "\n".join(_row(item) for item in metrics["headlines"])
    codes = "".join(
        f"- Tokenizer of `{slot}`: {report['psnr']} dB on held-out frames, {report['codebook_used']:.0%} of its codes "
        f"used.\n"
        for slot, report in training.get("tokenizer", {}).items()
    )
    stages = f"- In stages: {training['stages']}.\n" if "stages" in training else ""
    return f"""# {metadata.get("name", "A world")}

{metadata.get("description", "")}

A world of `{metadata.get("env_id", "?")}`, learned by Magrathea's masked model.

- {about["parameters"] / 1e6:.1f} million parameters, a window of {about["window"]} steps, \
{world.layout.num_tokens} tokens a step.
- Trained for {training.get("updates", "?")} updates ({training.get("minutes", "?")} minutes, \
{training.get("steps_seen", "?")} steps shown), by the recipe in `config.json`.
{stages}{codes}
## Measured

On {len(about["episodes"])} episodes ({about["steps"]:,} steps), {about["from"]}; 95% bootstrap intervals over episodes.

| what | figure | interval | beside |
| --- | ---: | --- | --- |
{rows}

Printed by `magrathea eval`; all figures are in its `metrics.json`.
"""


def _row(item: dict[str, Any]) -> str:
    figure, unit = item["figure"], item["unit"]
    interval = "" if figure["low"] is None else f"{number(figure['low'], unit)} … {number(figure['high'], unit)}"
    return f"| {item['name']} | {number(figure['value'], unit)} | {interval} | {item['beside']} |"
