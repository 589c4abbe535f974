"""What is shown of results: headlines, HTML pages and the model card, from Jinja2 templates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from magrathea.evaluate.plots import plot_horizon, plot_memory
from magrathea.evaluate.results import (
    DreamMeasures,
    DriftMeasures,
    DriftResult,
    EvaluationResult,
    Figure,
    Headline,
    MemoryMeasures,
    MemoryResult,
    NextStep,
    Sources,
)
from magrathea.evaluate.revisits import GAP
from magrathea.files import atomic_write
from magrathea.layout import Layout, Slot
from magrathea.world import World

CHANCE = 0.5  # of obedience
MOST_COUNTED = 6  # rises and falls of counters among the headlines; the page has all
TRY = "To try: more --minutes of training, more recorded --steps, or another --policy."
TRY_IMPORTED = (
    "To try: more --minutes of training, or more recordings; 'magrathea import' has options for smaller pictures."
)
SMALLER = 64, 64  # height and width
TRY_SMALLER = f"Or pictures of a smaller size: --env-kwargs '{{\"size\": {list(SMALLER)}}}'."
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
    return figure.interval(lambda value: number(value, unit))


def as_text(figure: Figure, unit: str = "%") -> str:
    """A figure with its interval, or a dash."""
    return figure.text(lambda value: number(value, unit))


def short(figure: Figure, unit: str = "%") -> str:
    """A figure without its interval, or a dash."""
    return "–" if figure.value is None else number(figure.value, unit)


def headline_text(item: Headline) -> str:
    """A headline as one line."""
    comparison = f" ({item.comparison})" if item.comparison else ""
    return f"{item.name}: {as_text(item.figure, item.unit)}{comparison}"


def verdict(dreams: DreamMeasures, has_environment: bool = True, num_pixels: int = 0) -> list[str]:
    """What to know of a world first: where it is no better than repeating the last step or does not obey, and what to
    try, which depends on whether its data come from an environment, and on the size of its pictures; else that neither
    is so."""
    weak, measured = [], []
    for what, figures, (first, second), is_no_better, unit in _against_repeating(dreams):
        known = {step: figures[step] for step in (first, second) if figures.get(step, Figure()).value is not None}
        measured += [f"better than repeating the last {what} after {_listed(known)}"] if known else []
        lost = {step: each for step, each in known.items() if is_no_better(each)}
        if lost:
            texts = ", ".join(as_text(each, unit) for each in lost.values())
            weak.append(f"No better than repeating the last {what} after {_listed(lost)}: {texts}.")
    for kind, curves in dreams.obedience.items():
        figures = curves["obedience"]
        step = next((step for step in ("4", "8", "1") if figures.get(step, Figure()).value is not None), None)
        if step is None:
            continue
        measured.append(f"it follows the actions ({kind}, {short(figures[step])})")
        if (figures[step].low or 0.0) <= CHANCE:
            obedience = f"obedience after {_listed([step])} {as_text(figures[step])}"
            weak.append(f"It may not follow the actions ({kind}): {obedience}.")
    if weak and not has_environment:
        return [*weak, TRY_IMPORTED]
    if weak:
        return [*weak, f"{TRY} {TRY_SMALLER}" if num_pixels > SMALLER[0] * SMALLER[1] else TRY]
    text = "; ".join(measured)
    return [f"{text[0].upper()}{text[1:]}."] if measured else ["There was too little to tell how good this world is."]


def _against_repeating(dreams: DreamMeasures) -> list[tuple[str, Sources, tuple[str, str], Any, str]]:
    """What repeating is measured by: its name, figures, two horizons, when a figure is no better, and its unit. Where
    repeating is right in every choice, nothing can be better."""
    repeated = dreams.right.get("repeat", {})
    choices = {
        step: figure
        for step, figure in dreams.right.get("dream − repeat", {}).items()
        if repeated.get(step, Figure()).value != 1
    }
    not_above = lambda each: (each.value if each.low is None else each.low) <= 0  # noqa: E731
    not_below = lambda each: (each.value if each.high is None else each.high) >= 1  # noqa: E731
    return [
        ("picture", dreams.gain.get("dream", {}), ("1", "4"), not_above, "dB"),
        ("numbers", dreams.error.get("dream over repeat", {}), ("1", "10"), not_below, ""),
        ("choices", choices, ("1", "4"), not_above, "%"),
    ]


def _listed(steps: Iterable[str]) -> str:
    names = list(steps)
    return " and ".join(names) + (" step" if names == ["1"] else " steps")


def evaluation_headlines(layout: Layout, next_step: NextStep, dreams: DreamMeasures) -> list[Headline]:
    """The figures that say most about a world; some may have no value."""
    items = [*_dream_headlines(dreams), *_event_headlines(dreams, next_step)]
    for slot in layout.of_role("observation"):
        if slot.name in next_step.tokens_correct:
            items.append(_tokens_headline(slot, next_step.tokens_correct[slot.name]))
    if next_step.steps_correct:
        for condition in [name for name in STEPS if name in next_step.steps_correct] or ["all"]:
            figures, name = next_step.steps_correct[condition], f"Steps correct in all tokens{STEPS.get(condition, '')}"
            items.append(Headline(name, figures["model"], "%", f"repeat {short(figures['repeat'])}"))
    return items


def _dream_headlines(dreams: DreamMeasures) -> list[Headline]:
    """Of dreams against what was recorded, and of their obedience."""
    items = []
    if dreams.gain:
        best = dreams.gain.get("resampled replay", {})
        for step in ("1", "4", "16"):
            comparison = f"resampled replay {short(best[step], 'dB')}" if step in best else ""
            name = f"Gain over repeating the last picture, after {_listed([step])}"
            items.append(Headline(name, dreams.gain["dream"].get(step, Figure()), "dB", comparison))
        pixels = {name: figures.get("4", Figure()) for name, figures in dreams.changed_pixels.items()}
        comparison = f"repeating 0%; of those that the dream changes {short(pixels['changed in the dream'])}"
        items.append(Headline("Changed pixels right, after 4 steps", pixels["changed"], "%", comparison))
        items.append(Headline("Motion in dreams over that in reality", dreams.motion_energy, "", "1 is right"))
    for step in ("1", "10", "50") if dreams.error else ():
        others = {name: dreams.error[name].get(step, Figure()) for name in ("repeat", "linear")}
        comparison = f"repeating {short(others['repeat'], '')}, linear extrapolation {short(others['linear'], '')}"
        name = f"Error of numbers in standard deviations, after {_listed([step])}"
        items.append(Headline(name, dreams.error["dream"].get(step, Figure()), "", comparison))
    for step in ("1", "4", "16") if dreams.right else ():
        comparison = f"repeating {short(dreams.right['repeat'].get(step, Figure()))}"
        name = f"Choices right, after {_listed([step])}"
        items.append(Headline(name, dreams.right["dream"].get(step, Figure()), "%", comparison))
    for kind, curves in dreams.obedience.items():
        figures = {step: curves["obedience"].get(step, Figure()) for step in ("1", "4", "8")}
        others = ", ".join(f"{short(figures[step])} after {_listed([step])}" for step in ("1", "8"))
        comparison = f"chance 50%; {others}; {figures['4'].count} pairs of futures"
        items.append(Headline(f"Obedience ({kind}), after 4 steps", figures["4"], "%", comparison))
    return items


def _event_headlines(dreams: DreamMeasures, next_step: NextStep) -> list[Headline]:
    """Of events that happened in dreams or in reality; of counters the most frequent."""
    items = []
    counted = [name for name in dreams.events if name.startswith(("rise of ", "fall of "))]
    often = sorted(counted, key=lambda name: -(dreams.events[name]["reality"].value or 0.0))
    for name, sources in dreams.events.items():
        if any(sources[source].value for source in ("dream", "reality")) and name not in often[MOST_COUNTED:]:
            comparison = f"in reality {as_text(sources['reality'])}"
            f1 = next_step.events.get("terminated" if name == "ending" else name, {}).get("f1", Figure())
            comparison += "" if f1.value is None else f"; F1 at the next step {short(f1, '')}"
            items.append(Headline(f"Share of dreamt steps: {name}", sources["dream"], "%", comparison))
    return items


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
        "pictures that change": f"Pictures that change at step {last} as a share of those at step {first}",
        "impossible neighbours": f"Impossible neighbours at step {last} above those at step {first}",
    }
    places = {f"at step {first}": measured.ages[first], f"at step {last}": measured.ages[last]}
    places["in recordings"] = measured.recordings
    items = []
    for name, title in ((name, title) for name, title in titles.items() if name in measured.change):
        comparison = ", ".join(f"{as_text(figures[name])} {where}" for where, figures in places.items())
        items.append(Headline(title, measured.change[name], "%", comparison))
    return [item for item in items if item.figure.value is not None]


def write_evaluation_page(out: Path, result: EvaluationResult) -> Path:
    """Write the plots and `index.html`, into the folder that holds the videos."""
    plots, dreams = [], result.dreams
    for name, curves, unit in (("gain", dreams.gain, "dB"), ("error", dreams.error, "standard deviations")):
        if curves:
            plots.append(f"{name}.png")
            shown = {source: figures for source, figures in curves.items() if " over " not in source}
            plot_horizon(out / plots[-1], shown, f"{name.capitalize()} over the horizon", unit)
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
