"""Recall: of the cells that were seen before and have not changed since, how many are drawn again as they were?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from magrathea.evaluate.cells import TileView, VisibleTiles, last_seen
from magrathea.evaluate.results import Recall
from magrathea.evaluate.statistics import Tally

BUCKETS = tuple((2**power // 2 + 1, 2**power) for power in range(11))  # 1, 2, 3…4, 5…8, … 513…1,024 steps ago
FAR_AGES = (100, 500)  # steps beyond the window; ranges are from 1 / sqrt(2) to sqrt(2) of it


@dataclass(frozen=True)
class TileKinds:
    """What tokens stand for.

    Attributes:
        of_token: (vocab_size + 1,) the content that a token shows, -1 where it shows none.
        frequent_kind, frequent_token: what cells show most often.
    """

    of_token: np.ndarray
    frequent_kind: int
    frequent_token: int


def kinds_of_tokens(episodes: list[VisibleTiles], vocab_size: int) -> TileKinds:
    """Give each token the content that most of its clear appearances show; none if most of them show no cell."""
    tokens = np.concatenate([each.tokens[each.clear].ravel() for each in episodes])
    content = np.concatenate([np.where(each.shown, each.content, -1)[each.clear].ravel() for each in episodes])
    counts = np.zeros((vocab_size + 1, int(content.max(initial=0)) + 2), dtype=np.int64)
    np.add.at(counts, (tokens, content + 1), 1)
    of_cells = counts[:, 1:]
    return TileKinds(counts.argmax(axis=1) - 1, int(of_cells.sum(axis=0).argmax()), int(of_cells.sum(axis=1).argmax()))


class TileAges(NamedTuple):
    """Tiles by how long ago their cell was last seen, all (T + 1, rows, columns): steps since then (0 if never),
    whether it is shown now and before, or for the first time, and its content and token at that time."""

    age: np.ndarray
    again: np.ndarray
    new: np.ndarray
    last_content: np.ndarray
    last_token: np.ndarray


def tile_ages(
    view: TileView, poses: np.ndarray, tokens: np.ndarray, shown: np.ndarray, content: np.ndarray
) -> TileAges:
    """Sort the tiles of T + 1 pictures; the arguments are as in `VisibleTiles`."""
    last, cell = last_seen(view.locations(poses), shown)
    last_content, last_token = (values.reshape(len(values), -1)[last, cell] for values in (content, tokens))
    age = np.where(last >= 0, np.arange(len(last))[:, None, None] - last, 0)
    return TileAges(age, shown & (last >= 0), shown & (last < 0), last_content, last_token)


def age_ranges(window: int) -> dict[str, tuple[float, float]]:
    """The ranges of ages, from first to last, that recall is reported for, by name."""
    named = {"in the window": (1, window), "beyond the window": (window + 1, np.inf)}
    for age in FAR_AGES:
        low, high = np.ceil(age / np.sqrt(2)), np.floor(age * np.sqrt(2))
        named[f"{age} beyond"] = (window + low, window + high)
    return named | {f"{low}…{high}": (low, high) for low, high in BUCKETS}


def tally_ages(
    tally: Tally,
    name: str,
    episode: int,
    age: np.ndarray,
    correct: dict[str, np.ndarray],
    where: np.ndarray,
    window: int,
) -> None:
    """Count the correct tiles of each source by age, where `where` is True; all have one shape."""
    age, correct = age[where], {source: values[where] for source, values in correct.items()}
    for stretch, (low, high) in age_ranges(window).items():
        inside = (age >= low) & (age <= high)
        for source, values in correct.items():
            tally.add_mean(f"{name}/{stretch}/{source}", [episode], values[None], inside[None])


def tally_recall(
    tally: Tally, episode: int, tiles: VisibleTiles, predicted: np.ndarray, kinds: TileKinds, window: int
) -> None:
    """Count the predictions (T + 1, rows, columns) of one episode's tiles; -1 at steps that were not predicted.

    Names are measure/range of ages/source, and measure/never seen/source. "Landmarks" are the tiles that do not show
    what cells show most often.
    """
    ages = tile_ages(tiles.view, tiles.poses, tiles.tokens, tiles.shown, tiles.content)
    unchanged = ages.again & (ages.last_content == tiles.content)
    clear = np.broadcast_to(tiles.clear[:, None, None], predicted.shape) & (predicted >= 0)
    kind = {
        "model": kinds.of_token[predicted] == tiles.content,
        "perfect memory": kinds.of_token[ages.last_token] == tiles.content,
        "most frequent": tiles.content == kinds.frequent_kind,
    }
    token = {
        "model": predicted == tiles.tokens,
        "perfect memory": ages.last_token == tiles.tokens,
        "most frequent": tiles.tokens == kinds.frequent_token,
    }
    first, sources = ("same token", token) if tiles.content is tiles.tokens else ("same kind", kind)
    measures = {first: (sources, clear), f"{first}, landmarks": (sources, clear & ~sources["most frequent"])}
    measures["same token"] = (token, clear)
    if not tiles.clear.all():
        measures["same token, any light"] = (token, predicted >= 0)
    for measure, (sources, counted) in measures.items():
        tally_ages(tally, measure, episode, ages.age, sources, unchanged & counted, window)
        for source in ("model", "most frequent"):
            values = sources[source][None]
            tally.add_mean(f"{measure}/never seen/{source}", [episode], values, (ages.new & counted)[None])


def summarize_ages(tally: Tally, name: str, window: int) -> Recall:
    """What was counted under a name."""
    figures = tally.nested(f"{name}/")
    by_age = {age: figures.pop(age) for age in map("{0[0]}…{0[1]}".format, BUCKETS)}
    names = (*age_ranges(window), "never seen")
    return Recall({stretch: figures[stretch] for stretch in names if stretch in figures}, by_age)
