"""The report page: `index.html`, which shows a metrics dictionary and the pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

STYLE = """
:root { --ink: #1c2333; --faint: #626c80; --line: #e4e7ee; --card: #fff; --page: #f6f7fa; --accent: #3b6ef5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ebf2; --faint: #98a2b8; --line: #2b3244; --card: #181d29; --page: #10141d; --accent: #7da2ff; }
  img.plot { background: #fff; border-radius: 10px; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 80px; }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -.02em; }
h2 { font-size: 19px; margin: 44px 0 10px; letter-spacing: -.01em; }
h3 { font-size: 14px; margin: 20px 0 6px; color: var(--faint); font-weight: 600; }
p { margin: 6px 0 12px; color: var(--faint); max-width: 75ch; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); margin-top: 22px; }
.card, .box { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px 18px; }
.card b { display: block; font-size: 28px; letter-spacing: -.02em; color: var(--accent); }
.card span { display: block; font-size: 13px; } .card small, .interval { color: var(--faint); font-size: 12px; }
.box { overflow-x: auto; padding: 6px 14px; } .box.plot { padding: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 7px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; } th { color: var(--faint); font-weight: 600; font-size: 12px; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
img, video { max-width: 100%; border-radius: 10px; display: block; }
video { width: 100%; background: #11141c; image-rendering: pixelated; }
.scroll { overflow-x: auto; } .scroll img { max-width: none; }
.interval { display: block; } a { color: var(--accent); } img.plot { max-height: 420px; margin: 0 auto; }
"""


def write_page(out: Path, metrics: dict[str, Any], more: Sequence[str] = ()) -> Path:
    """Write `index.html` into the folder that holds the plots and videos; `more` sections come last."""
    sections = [
        heading(metrics["about"], "metrics.json"),
        cards(metrics["headlines"]),
        _dreams(metrics, out),
        _pictures(metrics, out),
        _next_step(metrics["next step"], out),
        _control(metrics["control"]),
        _judgement(metrics),
        _uses(metrics["uses"]),
        *more,
    ]
    return write_sections(out / "index.html", f"{metrics['about']['world']}: evaluation", sections)


def write_sections(path: Path, title: str, sections: list[str]) -> Path:
    """Write a page of sections of HTML."""
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
        f"<main>{''.join(sections)}</main></html>\n"
    )
    return path


def show(figure: dict[str, Any], unit: str = "%") -> str:
    """A figure with its interval as HTML."""
    if figure["value"] is None:
        return f'<span class="interval">{escape(figure.get("note", "–"))}</span>'
    text = number(figure["value"], unit)
    if figure["low"] is None:
        return text
    low, high = (number(figure[end], unit).removesuffix(" dB") for end in ("low", "high"))
    return f'{text}<span class="interval">{low} … {high}</span>'


def number(value: float, unit: str = "%") -> str:
    """A value as text: "%" of a share, "dB", or "" for a plain number."""
    if unit == "%":
        return f"{100 * value:.1f}%" if abs(value) < 0.995 or value >= 1 else f"{100 * value:.2f}%"
    if unit:
        return f"{value:.2f} {unit}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Rows of ready HTML cells under column names."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="box"><table><tr>{head}</tr>{body}</table></div>'


def plot_grid(out: Path, *names: str) -> str:
    """Those of these pictures that there are, side by side."""
    found = [name for name in names if (out / name).exists()]
    return (
        '<div class="grid">'
        + "".join(
            f'<div class="box" style="padding:10px"><img class="plot" src="{name}" alt="{escape(name)}"></div>'
            for name in found
        )
        + "</div>"
    )


def heading(about: dict[str, Any], data: str) -> str:
    """The world's name, what was measured on, and a link to the file of all figures."""
    return (
        f"<h1>{escape(str(about['world']))}</h1><p>A world of {escape(str(about['environment']))}, "
        f"{about['parameters'] / 1e6:.1f} million parameters, measured on {len(about['episodes'])} episodes "
        f"({about['steps']:,} steps; {escape(about['from'])}). Intervals are 95% bootstrap intervals over episodes. "
        f'All figures: <a href="{data}">{data}</a>.</p>'
    )


def cards(items: list[dict[str, Any]]) -> str:
    """Headlines as cards."""
    shown = []
    for item in items:
        figure, unit = item["figure"], item["unit"]
        interval = "" if figure["low"] is None else f"{number(figure['low'], unit)} … {number(figure['high'], unit)}"
        shown.append(
            f'<div class="card"><b>{number(figure["value"], unit)}</b><span>{escape(item["name"])}</span>'
            f"<small>{interval}{'<br>' if interval and item['beside'] else ''}{escape(item['beside'])}</small></div>"
        )
    return f'<div class="cards">{"".join(shown)}</div>'


def _dreams(metrics: dict[str, Any], out: Path) -> str:
    if not metrics.get("videos"):
        return ""
    videos = "".join(
        f'<video src="{name}" controls loop muted autoplay playsinline></video>' for name in metrics["videos"]
    )
    sheet = '<div class="scroll"><img src="dreams.png" alt="dreams beside reality"></div>'
    return (
        "<h2>Dreams beside reality</h2><p>Both start from the same real steps and take the same actions; the dream "
        f'sees nothing else of the recording.</p><div class="grid">{videos}</div><h3>By step</h3>{sheet}'
    )


def _pictures(metrics: dict[str, Any], out: Path) -> str:
    pictures = metrics.get("pictures")
    if not pictures:
        return "<h2>Over the horizon</h2>" + plot_grid(out, "tokens.png")
    tables = []
    for metric, unit in (("psnr", "dB"), ("ssim", "")):
        for condition, curves in pictures[metric].items():
            horizons = [h for h in ("1", "2", "4", "8", "16", "32", "64") if h in curves["dream"]]
            rows = [
                [escape(source), *(show(curve.get(h, {"value": None}), unit) for h in horizons)]
                for source, curve in curves.items()
            ]
            where = "all frames" if condition == "all" else f"{condition} only"
            measured = f"{metric.upper()} in dB" if unit else metric.upper()
            tables.append(f"<h3>{measured}, {where}</h3>" + table(["step", *horizons], rows))
    note = (
        "<p>Open-loop dreams under the recording's actions. PSNR is averaged over frames and capped at 48.1 dB, an "
        "error of one grey level. A dream that takes another, equally likely turn than the recording loses PSNR; so "
        "does “reality again”, the real environment under the same actions with other chances.</p>"
    )
    plots = plot_grid(out, *(f"psnr-{condition}.png" for condition in pictures["psnr"]), "ssim-all.png", "tokens.png")
    return "<h2>Over the horizon</h2>" + note + plots + "".join(tables)


def _next_step(measured: dict[str, Any], out: Path) -> str:
    parts = [
        "<h2>The next step</h2><p>The likeliest token of every hole, all predicted at once, given the real steps. "
        "“To rendering” also counts tokens whose picture is as near to the real one as the right token's, within four "
        "grey levels or the night's own noise. “Copy” takes the token that showed the same place when last seen: "
        "a perfect memory of the map, which is wrong only where the tokens themselves are not steady.</p>"
    ]
    for slot, conditions in measured["accuracy"].items():
        rows = []
        for condition, groups in conditions.items():
            for group, figures in groups.items():
                if figures["model"]["value"] is not None:
                    rows.append(
                        [
                            escape(f"{condition}: {group}"),
                            show(figures["model"]),
                            show(figures["rendering"]),
                            show(figures.get("copy", {"value": None})),
                            show(figures["repeat"]),
                            f"{figures['model']['count']:,}",
                        ]
                    )
        columns = ["steps: cells", "model", "to rendering", "copy", "repeat", "tokens"]
        parts.append(f"<h3>Tokens right, slot {escape(slot)}</h3>" + table(columns, rows))
    rows = [
        [escape(name), show(figures["model"]), show(figures["repeat"]), f"{figures['model']['count']:,}"]
        for name, figures in measured["exact"].items()
    ]
    columns = ["steps", "model", "repeat", "number"]
    parts.append("<h3>Steps right in all tokens of the observation</h3>" + table(columns, rows))
    return "".join(parts) + plot_grid(out, "calibration.png")


def _control(control: dict[str, Any]) -> str:
    rows = []
    for condition in ("all steps", "picture changed"):
        for band, figures in control[condition].items():
            rows.append(
                [
                    escape(f"{condition}, dreamt step {band}"),
                    show(figures["dream"]),
                    show(figures["real"]),
                    show(figures["dream / real"]),
                    show(figures.get("reality again / real", {"value": None})),
                ]
            )
    note = (
        "<p>The inverse dynamics name the action from the pictures: of the dream, and of the recording. “Again”: of "
        "the real environment under the same actions from the same moments, with other chances; an action that was "
        "meant for a creature meets nothing there either.</p>"
    )
    image = '<div class="box plot"><img class="plot" src="actions.png" alt="by action"></div>'
    return (
        "<h2>Does it obey?</h2>"
        + note
        + table(["", "dream", "real", "dream / real", "again / real"], rows)
        + "<br>"
        + image
    )


def _judgement(metrics: dict[str, Any]) -> str:
    sources = {"imagined with the next step": metrics["next step"]["judgement"], "judged": metrics["uses"]["judge"]}
    rows = []
    for source, measured in sources.items():
        for name, figures in measured.items():
            if "f1" in figures:
                rows.append([escape(f"{name}, F1, {source}"), show(figures["f1"]), show(figures["prevalence"])])
            else:
                rows.append([escape(f"{name}, {source}"), show(figures, ""), ""])
    note = "<p>Imagined: before the picture is known. Judged: with the real picture.</p>"
    return "<h2>Reward and ending</h2>" + note + table(["", "", "share of such steps"], rows)


def _uses(uses: dict[str, Any]) -> str:
    parts = ["<h2>Every other use</h2>"]
    for use, places in uses.items():
        if use == "judge":
            continue
        columns = list(dict.fromkeys(source for figures in places.values() for source in figures))
        rows = []
        for place, figures in places.items():
            cells = [
                show(figures[column], "" if "entropy" in place + column else "%") if column in figures else ""
                for column in columns
            ]
            rows.append([escape(place), *cells])
        parts.append(f"<h3>{escape(use.capitalize())}</h3>" + table(["", *columns], rows))
    return "".join(parts) + "<p>Cross-entropies are in nats. Counted baselines are counted on these episodes.</p>"
