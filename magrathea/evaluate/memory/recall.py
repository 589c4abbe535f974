"""Recall: of the cells that were seen before and have not changed since, how many are shown again as they were?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magrathea.evaluate.cells import last_sights
from magrathea.evaluate.memory.views import Kinds, Sights, TileView
from magrathea.evaluate.statistics import Tally

BUCKETS = tuple((2**power // 2 + 1, 2**power) for power in range(11))  # 1, 2, 3…4, 5…8, … 513…1,024 steps ago
LANDMARKS = (100, 500)  # steps beyond the window; from 1 / sqrt(2) to sqrt(2) of it


@dataclass(frozen=True)
class Asked:
    """Tiles of a row of pictures, sorted by how long ago their cell was last seen. All (T + 1, rows, columns).

    Attributes:
        age: steps since the cell was last shown; 0 where it never was.
        again: shown now, and before.
        new: shown now, and never before.
        last_content, last_token: of the cell when it was last shown; mean nothing where it never was.
    """

    age: np.ndarray
    again: np.ndarray
    new: np.ndarray
    last_content: np.ndarray
    last_token: np.ndarray


def ask(view: TileView, poses: np.ndarray, tokens: np.ndarray, shown: np.ndarray, content: np.ndarray) -> Asked:
    """Sort the tiles of T + 1 pictures; the arguments are as in `Sights`."""
    last, cell = last_sights(view.places(poses), shown)
    last_content, last_token = (values.reshape(len(values), -1)[last, cell] for values in (content, tokens))
    age = np.where(last >= 0, np.arange(len(last))[:, None, None] - last, 0)
    return Asked(age, shown & (last >= 0), shown & (last < 0), last_content, last_token)


def ranges(window: int) -> dict[str, tuple[float, float]]:
    """The stretches of ages, from first to last, that recall is reported for, by name."""
    named = {"in the window": (1, window), "beyond the window": (window + 1, np.inf)}
    for landmark in LANDMARKS:
        low, high = np.ceil(landmark / np.sqrt(2)), np.floor(landmark * np.sqrt(2))
        named[f"{landmark} beyond"] = (window + low, window + high)
    return named | {f"{low}…{high}": (low, high) for low, high in BUCKETS}


def tally_ages(
    tally: Tally, name: str, episode: int, age: np.ndarray, right: dict[str, np.ndarray], where: np.ndarray, window: int
) -> None:
    """Count the right tiles of each source by age, where `where` is True; all are of one shape."""
    age, right = age[where], {source: values[where] for source, values in right.items()}
    for stretch, (low, high) in ranges(window).items():
        inside = (age >= low) & (age <= high)
        for source, values in right.items():
            tally.add_mean(f"{name}/{stretch}/{source}", [episode], values[None], inside[None])


def tally_recall(
    tally: Tally, episode: int, view: TileView, sights: Sights, predicted: np.ndarray, kinds: Kinds, window: int
) -> None:
    """Count the predictions (T + 1, rows, columns) of one episode's tiles; -1 at steps that were not predicted.

    Names are measure/stretch of ages/source, and measure/new/source for cells that were never seen before. The first
    measure is the one to go by. "Landmarks" are the tiles that do not show what cells show most often.
    """
    asked = ask(view, sights.poses, sights.tokens, sights.shown, sights.content)
    unchanged = asked.again & (asked.last_content == sights.content)
    lit = np.broadcast_to(sights.clear[:, None, None], predicted.shape) & (predicted >= 0)
    common = {
        "same kind": sights.content == kinds.frequent_kind,
        "same token": sights.tokens == kinds.frequent_token,
    }
    right = {
        "same kind": {
            "model": kinds.of_token[predicted] == sights.content,
            "perfect memory": kinds.of_token[asked.last_token] == sights.content,
            "most frequent": common["same kind"],
        },
        "same token": {
            "model": predicted == sights.tokens,
            "perfect memory": asked.last_token == sights.tokens,
            "most frequent": common["same token"],
        },
    }
    told = "same token" if sights.content is sights.tokens else "same kind"
    measures = {told: (right[told], lit), f"{told}, landmarks": (right[told], lit & ~common[told])}
    measures["same token"] = (right["same token"], lit)
    if not sights.clear.all():
        measures["same token, any light"] = (right["same token"], predicted >= 0)
    for measure, (sources, counted) in measures.items():
        tally_ages(tally, measure, episode, asked.age, sources, unchanged & counted, window)
        for source in ("model", "most frequent"):
            tally.add_mean(f"{measure}/new/{source}", [episode], sources[source][None], (asked.new & counted)[None])


def summarize_ages(tally: Tally, name: str, window: int) -> dict:
    """What was counted under a name: {"curve": [{"from", "to", source: figure, …}], stretch: {source: figure}, …}."""
    sources = dict.fromkeys(counted.rsplit("/", 1)[1] for counted in tally.names(f"{name}/"))
    figures = {
        stretch: {source: tally.figure(f"{name}/{stretch}/{source}") for source in sources}
        for stretch in ranges(window)
    }
    curve = [{"from": low, "to": high} | figures.pop(f"{low}…{high}") for low, high in BUCKETS]
    if f"{name}/new/model" in tally:
        figures["new"] = {source: tally.figure(f"{name}/new/{source}") for source in ("model", "most frequent")}
    return {"curve": curve} | figures
