"""What is shown of results: headlines, HTML pages and the model card, from Jinja2 templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from magrathea.evaluate.plots import plot_horizon, plot_memory
from magrathea.evaluate.results import (
    DriftMeasures,
    DriftResult,
    EvaluationResult,
    Figure,
    Headline,
    ImageQuality,
    MemoryMeasures,
    MemoryResult,
    NextStep,
    Sources,
)
from magrathea.evaluate.revisits import GAP
from magrathea.files import atomic_write
from magrathea.layout import Layout, Slot
from magrathea.world import World

HORIZON = "16"  # dreamt steps, of the PSNR among the headlines
# groups of cells, the first of which a world has is its headline
GROUPS = {"visible and still": "seen before, still", "visible before": "seen before", "unchanged": "that do not change"}
# conditions on steps whose shares are headlines; where there are none, that of all steps is
STEPS = {"nothing new": ", nothing new in view", "nothing never seen": ", nothing in view that was never seen"}


def number(value: float, unit: str = "%") -> str:
    """A value as text: "%" of a share, "dB", or "" for a plain number."""
    if unit == "%":
        return f"{100 * value:.1f}%" if abs(value) < 0.995 or value >= 1 else f"{100 * value:.2f}%"
    if unit:
        return f"{value:.2f} {unit}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def interval(figure: Figure, unit: str = "%") -> str:
    """A figure's interval, or nothing."""
    if figure.value is None or figure.low is None or figure.high is None:
        return ""
    return f"{number(figure.low, unit)} … {number(figure.high, unit)}"


def as_text(figure: Figure, unit: str = "%") -> str:
    """A figure with its interval, or a dash."""
    ends = interval(figure, unit)
    return short(figure, unit) + (f" ({ends})" if ends else "")


def short(figure: Figure, unit: str = "%") -> str:
    """A figure without its interval, or a dash."""
    return "–" if figure.value is None else number(figure.value, unit)


def headline_text(item: Headline) -> str:
    """A headline as one line."""
    comparison = f" ({item.comparison})" if item.comparison else ""
    return f"{item.name}: {as_text(item.figure, item.unit)}{comparison}"


def evaluation_headlines(
    layout: Layout,
    next_step: NextStep,
    controllability: dict[str, dict[str, Sources]],
    images: ImageQuality | None,
    goals: Sources,
) -> list[Headline]:
    """The figures that say most about a world, best known first."""
    items = [_tokens_headline(slot, next_step.tokens_correct[slot.name]) for slot in layout.of_role("observation")]
    conditions = [name for name in STEPS if name in next_step.steps_correct] or ["all"]
    for condition in conditions:
        figures, name = next_step.steps_correct[condition], f"Steps correct in all tokens{STEPS.get(condition, '')}"
        items.append(Headline(name, figures["model"], "%", f"repeat {short(figures['repeat'])}"))
    figures = controllability["picture changed"]["1…64"]
    comparison = f"{short(figures['dream'])} on dreams, {short(figures['real'])} on real frames"
    if "resampled replay / real" in figures:
        comparison += f"; resampled replay {short(figures['resampled replay / real'])}"
    items.append(
        Headline("Controllability of dreams, relative to real frames", figures["dream / real"], "%", comparison)
    )
    items += [] if images is None else _image_headlines(images)
    others = ", ".join(f"{name} {short(figure)}" for name, figure in goals.items() if name != "goal")
    name = "Acts toward a picture 8 steps ahead (experimental): actions as recorded"
    items.append(Headline(name, goals["goal"], "%", others))
    items.append(Headline("Expected calibration error", next(iter(next_step.calibration_error.values())), "%"))
    return [item for item in items if item.figure.value is not None]


def _tokens_headline(slot: Slot, conditions: dict[str, dict[str, Sources]]) -> Headline:
    """Of the cells that a world can know best; of the only token, where there is one."""
    if slot.num_tokens == 1:
        figures, name = conditions["all"]["all"], f"Next step: token of {slot.name} correct"
        return Headline(name, figures["model"], "%", f"repeat {short(figures['repeat'])}")
    condition = "daylight" if "daylight" in conditions else "all"
    group = next(group for group in GROUPS if group in conditions[condition])
    figures = conditions[condition][group]
    name = f"Next step: tokens correct on cells {GROUPS[group]}"
    name += ("" if condition == "all" else f", in {condition}") + (f" ({slot.name})" if "/" in slot.name else "")
    comparison = f"repeat {short(figures['repeat'])}"
    return Headline(name, figures["model"], "%", comparison)


def _image_headlines(images: ImageQuality) -> list[Headline]:
    items = []
    for condition, gains in images.psnr_gain.items():
        values = {name: curve.get(HORIZON, Figure()) for name, curve in images.psnr[condition].items()}
        gain = {name: curve.get(HORIZON, Figure()) for name, curve in gains.items()}
        parts = [f"{name} {short(values[name], 'dB')}" for name in ("dream", "repeat", "reconstruction")]
        parts += [f"{name} +{short(gain[name], 'dB')}" for name in ("resampled replay", "oracle bound") if name in gain]
        where = "" if condition == "all" else f", {condition}"
        items.append(Headline(f"PSNR above repeating, at step {HORIZON}{where}", gain["dream"], "dB", ", ".join(parts)))
    return items


def memory_headlines(measured: MemoryMeasures) -> list[Headline]:
    """The figures that say most about a memory."""
    items = []
    if measured.recall:
        ranges = next(iter(measured.recall.values())).ranges
        chance = f"never seen before {as_text(ranges['never seen']['model'])}"
        items += [Headline(f"Recall, {name}", figures["model"], "%", chance) for name, figures in ranges.items()][:-1]
    if measured.self_consistency:
        ranges = {cells: recall.ranges["beyond the window"] for cells, recall in measured.self_consistency.items()}
        comparison = f"landmarks {as_text(ranges['landmarks']['dream'])}"
        items.append(Headline("Self-consistency of dreams, beyond the window", ranges["all"]["dream"], "%", comparison))
    if GAP in measured.revisits:
        repeat = f"repeating the last picture {as_text(measured.revisits[GAP]['repeat'], 'dB')}"
        items.append(Headline("PSNR at revisited poses above new ones", measured.revisits[GAP]["model"], "dB", repeat))
    return [item for item in items if item.figure.value is not None]


def drift_headlines(measured: DriftMeasures) -> list[Headline]:
    """What changes from the first age to the last."""
    first, last = measured.first, measured.last
    if first is None or last is None:
        return []
    titles = {
        "controllability": f"Controllability at step {last} as a share of that at step {first}",
        "impossible neighbours": f"Impossible neighbours at step {last} above those at step {first}",
    }
    places = {f"at step {first}": measured.ages[first], f"at step {last}": measured.ages[last]}
    places["in recordings"] = measured.recordings
    items = []
    for name, title in titles.items():
        comparison = ", ".join(f"{as_text(figures[name])} {where}" for where, figures in places.items())
        items.append(Headline(title, measured.change[name], "%", comparison))
    return [item for item in items if item.figure.value is not None]


def write_evaluation_page(out: Path, result: EvaluationResult) -> Path:
    """Write the plots and `index.html`, into the folder that holds the videos."""
    plots = []
    for metric, unit in (("psnr", "dB"), ("ssim", "SSIM")):
        for condition, curves in getattr(result.images, metric, {}).items():
            plots.append(f"{metric}-{condition}.png")
            title = f"{metric.upper()} over the horizon, {condition} frames"
            plot_horizon(out / plots[-1], curves, title, unit)
    return _write_page(out / "index.html", "evaluation.html", result, plots)


def write_memory_page(out: Path, result: MemoryResult) -> Path:
    """Write `memory.html`, and a plot where there is recall."""
    if result.memory.recall:
        plot_memory(out / "memory.png", result.memory)
    return _write_page(out / "memory.html", "memory.html", result, ["memory.png"] if result.memory.recall else [])


def write_drift_page(out: Path, result: DriftResult) -> Path:
    """Write `drift.html`, with the contact sheet of dreams if there is one."""
    sheets = [name for name in ("long-dreams.png",) if (out / name).exists()]
    return _write_page(out / "drift.html", "drift.html", result, sheets)


def write_card(folder: Path, world: World, result: EvaluationResult) -> Path:
    """Write the model card, README.md, into a world's folder."""
    text = TEMPLATES.get_template("card.md").render(world=world, metadata=world.metadata, result=result)
    with atomic_write(folder / "README.md") as file:
        file.write_text(text + "\n", "utf-8")
    return folder / "README.md"


TEMPLATES = Environment(
    loader=PackageLoader("magrathea.evaluate"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"number": number, "interval": interval}


def _write_page(path: Path, template: str, result: Any, plots: list[str]) -> Path:
    """Render a result into a page, atomically."""
    with atomic_write(path) as file:
        text = TEMPLATES.get_template(template).render(result=result, about=result.about, plots=plots)
        file.write_text(text + "\n", "utf-8")
    return path
