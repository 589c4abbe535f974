"""The few figures that say most about a world, picked out of all its metrics."""

from __future__ import annotations

from typing import Any

LIGHT = "light"

LABELS = {
    "visible and still": "seen before, still",
    "visible before": "seen before",
    "unchanged": "that do not change",
}


def headlines(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """[{"name", "figure", "unit" ("%", "dB" or ""), "beside": what to compare it with}], best known first."""
    items: list[dict[str, Any]] = []
    for slot, conditions in metrics["next step"]["accuracy"].items():
        items += _accuracy(slot, conditions)
    exact = metrics["next step"]["exact"]
    steps = {"nothing new": ", nothing new in view", "nothing never seen": ", nothing in view that was never seen"}
    for condition, which in (steps if "nothing new" in exact else {"all": ""}).items():
        beside = f"repeat {_percent(exact[condition]['repeat'])}"
        items.append(_item("Steps right in all tokens" + which, exact[condition]["model"], "%", beside))
    control = metrics["control"]["picture changed"].get("1…64", {})
    if "dream / real" in control:
        beside = f"{_percent(control['dream'])} on dreams, {_percent(control['real'])} on real frames"
        if "reality again / real" in control:
            beside += f"; reality itself with other chances {_percent(control['reality again / real'])}"
        items.append(_item("Obeys: dream's share of real controllability", control["dream / real"], "%", beside))
    items += _pictures(metrics.get("pictures", {}))
    items.append(_acting_toward(metrics["uses"]["acting toward"]))
    observation = next(iter(metrics["next step"]["calibration"].values()))
    items.append(_item("Expected calibration error", observation["expected calibration error"], "%"))
    return [item for item in items if item["figure"]["value"] is not None]


def _acting_toward(prompts: dict[str, Any]) -> dict[str, Any]:
    beside = ", ".join(
        f"{name} {_percent(prompts[name]['accuracy'])}" for name in ("no prompt", "a wrong goal") if name in prompts
    )
    return _item(
        "Acts toward a picture 8 steps ahead: actions as recorded", prompts["goal 8 ahead"]["accuracy"], "%", beside
    )


def _accuracy(slot: str, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    if slot.endswith(f"/{LIGHT}"):
        figures = conditions["all"]["all"]
        return [_item("Next step: light right", figures["model"], "%", f"repeat {_percent(figures['repeat'])}")]
    condition = "daylight" if "daylight" in conditions else "all"
    where = ", in daylight" if condition == "daylight" else ""
    named = f" ({slot})" if "/" in slot else ""
    for group in LABELS:
        if group in conditions[condition]:
            figures = conditions[condition][group]
            label = {"unchanged": "that do not change", "visible before": "seen before"}.get(
                group, "seen before, still"
            )
            beside = f"repeat {_percent(figures['repeat'])}, to rendering {_percent(figures['rendering'])}"
            return [_item(f"Next step: tokens right on cells {label}{where}{named}", figures["model"], "%", beside)]
    return []


def _pictures(pictures: dict[str, Any]) -> list[dict[str, Any]]:
    items = []
    for condition, curves in pictures.get("psnr", {}).items():
        if "16" not in curves.get("dream", {}):
            continue
        where = "" if condition == "all" else f", {condition}"
        gain = pictures["gain"][condition]["dream"]["16"]
        beside = (
            f"dream {_decibel(curves['dream']['16'])}, repeat {_decibel(curves['repeat']['16'])}, "
            f"ceiling {_decibel(curves['reconstruction']['16'])}"
        )
        if "reality again" in curves:
            bound = pictures["gain"][condition]["reality again"]["16"]
            beside += f"; reality with other chances +{_decibel(bound)}"
        if "foreseeable" in curves:
            bound = pictures["gain"][condition]["foreseeable"]["16"]
            beside += f"; knowing all but what was never seen +{_decibel(bound)}"
        items.append(_item(f"PSNR above repeating, at step 16{where}", gain, "dB", beside))
    return items


def _item(name: str, figure: dict[str, Any], unit: str, beside: str = "") -> dict[str, Any]:
    return {"name": name, "figure": figure, "unit": unit, "beside": beside}


def _percent(figure: dict[str, Any]) -> str:
    return "–" if figure["value"] is None else f"{figure['value']:.1%}"


def _decibel(figure: dict[str, Any]) -> str:
    return "–" if figure["value"] is None else f"{figure['value']:.1f} dB"
