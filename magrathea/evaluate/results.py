"""The result of each evaluation command, as it is written to JSON next to its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from magrathea.files import atomic_write


@dataclass(frozen=True)
class Figure:
    """A measured number with its 95% interval.

    Attributes:
        value: None where it is undefined, as where nothing was counted.
        low, high: 95% bootstrap interval over episodes; None with fewer than two episodes.
        episodes: number of episodes that contributed.
        count: number of single observations: tokens, steps, frames or positives.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    episodes: int = 0
    count: int = 0

    def text(self, write: Callable[[float], str]) -> str:
        """The value and in brackets the interval, if there is one, as `write` gives numbers; a dash for no value."""
        if self.value is None:
            return "–"
        interval = self.interval(write)
        return write(self.value) + (f" ({interval})" if interval else "")

    def interval(self, write: Callable[[float], str]) -> str:
        """The interval alone, or nothing."""
        if self.value is None or self.low is None or self.high is None:
            return ""
        return f"{write(self.low)} … {write(self.high)}"


Sources = dict[str, Figure]  # what was measured (model, a baseline, a bound) -> its figure
Curves = dict[str, Sources]  # what was measured -> horizon -> figure


@dataclass(frozen=True)
class Headline:
    """One of the figures that say most about a world, in a unit ("%" of a share, "dB" or ""), with a text of what to
    compare it with."""

    name: str
    figure: Figure
    unit: str
    comparison: str = ""


@dataclass(frozen=True, kw_only=True)
class About:
    """What was evaluated, on which data, and how long it took (seconds)."""

    world: str
    environment: str
    num_parameters: int
    window: int
    fill: dict[str, Any]
    episodes: list[int]
    num_steps: int
    data: str
    seed: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """The next step given the real steps before it. Tokens are compared where they mean the same in every step.

    Attributes:
        tokens_correct: slot -> condition on steps -> group of cells -> source -> share of tokens that are correct.
            Sources: "model"; "repeat" of the last step.
        steps_correct: condition on steps -> source -> share of steps whose whole observation is correct.
        events: name -> {"f1"} of predicted positive and negative rewards and terminations.
    """

    tokens_correct: dict[str, dict[str, dict[str, Sources]]]
    steps_correct: dict[str, Sources]
    events: dict[str, Sources]


@dataclass(frozen=True, kw_only=True)
class DreamMeasures:
    """Open-loop dreams against what was recorded, from the same steps and under the same actions. What does not apply
    to a world's observations is empty.

    Attributes:
        gain: source -> horizon -> dB: of pictures 10·log10 of the mean squared error of repeating the last real frame
            over that of the source, over all starts. Sources: "dream"; "resampled replay", the real environment under
            the same actions with other random numbers, which no dream can be expected to surpass.
        changed_pixels: which pixels -> horizon -> share that the dream has right: those that "changed" since the last
            real frame, and those "changed in the dream"; and "share changed", that of the first kind among all.
        motion_energy: mean absolute difference of successive frames, the dream's over reality's, at steps 8 to 16.
        error: source -> horizon -> root mean squared error of numbers in their standard deviations. Sources: "dream";
            "repeat" of the last real step; "linear" extrapolation from the last two; the dream's over that of each.
        right: source -> horizon -> share of choices that are right.
        events: event -> "dream" and "reality" -> share of steps in which it happens: rewards, endings, and rises
            and falls of counters.
        obedience: kind of observation -> "obedience" -> horizon -> share of dreams of two futures under different
            actions that are nearer to their own reality than to the other, where the two differ; and "no difference",
            the share of pairs in which they do not.
    """

    gain: Curves = field(default_factory=dict)
    changed_pixels: Curves = field(default_factory=dict)
    motion_energy: Figure = Figure()
    error: Curves = field(default_factory=dict)
    right: Curves = field(default_factory=dict)
    events: dict[str, Sources] = field(default_factory=dict)
    obedience: dict[str, Curves] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Result of `magrathea eval`, in `metrics.json`.

    Attributes:
        verdict: sentences that say in plain words where the world is no better than repeating or does not obey, and
            what to try; or that neither is so.
        videos: names of video files that show dreams and the recording side by side.
        not_measured: what could not be measured, or not as usual, and why: a sentence for each.
    """

    about: About
    verdict: list[str]
    headlines: list[Headline]
    next_step: NextStep
    dreams: DreamMeasures
    videos: list[str]
    not_measured: list[str]


@dataclass(frozen=True)
class Recall:
    """Cells drawn as they were when last seen.

    Attributes:
        ranges: range of ages ("in the window", "beyond the window", "100 beyond", "500 beyond", and "never seen" where
            it was counted) -> source -> share of cells.
        by_age: the same for ages in steps that double ("1…1", "2…2", "3…4", …).
    """

    ranges: dict[str, Sources]
    by_age: dict[str, Sources]


@dataclass(frozen=True, kw_only=True)
class MemoryMeasures:
    """What a world remembers.

    Attributes:
        window: steps that the model attends to.
        memory: name of the memory.
        state_bytes: size of the largest memory state when a recording ended.
        next_step: share of the observation's tokens that are correct.
        recall: measure ("same kind", "same token", …) -> recall; the first measure is the one that tables show first.
        self_consistency: "all" and "landmarks" -> recall of dreams of what they showed themselves.
        revisits: frames -> source -> PSNR in dB, where the environment tells its pose.
    """

    window: int
    memory: str
    state_bytes: int
    next_step: Figure
    recall: dict[str, Recall] = field(default_factory=dict)
    self_consistency: dict[str, Recall] = field(default_factory=dict)
    revisits: dict[str, Sources] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MemoryResult:
    """Result of `magrathea eval memory`, in `memory.json`."""

    about: About
    headlines: list[Headline]
    memory: MemoryMeasures


@dataclass(frozen=True, kw_only=True)
class DriftMeasures:
    """Segments of 50 steps of long dreams, by the age of the dream, and segments of recordings.

    Attributes:
        slot: whose tokens are described.
        known_steps: recorded steps that the token statistics come from.
        dreams: age -> number of dreams that came so far.
        ages: age -> measure -> figure.
        recordings: measure -> figure.
        first, last: the ages that `change` compares; None where fewer than two were reached.
        change: "pictures that change" (ratio of last to first) and "impossible neighbours" (difference), in the same
            dreams.
        endings: episodes that ended in 1,000 dreamt steps.
    """

    slot: str
    known_steps: int
    dreams: dict[str, int]
    ages: dict[str, Sources]
    recordings: Sources
    first: str | None
    last: str | None
    change: Sources
    endings: float


@dataclass(frozen=True, kw_only=True)
class DriftResult:
    """Result of `magrathea eval drift`, in `drift.json`."""

    about: About
    headlines: list[Headline]
    drift: DriftMeasures


def write_result(path: Path, result: Any) -> None:
    """Write a result (a dataclass, or a dict of them) as JSON, atomically."""
    value = {name: asdict(each) for name, each in result.items()} if isinstance(result, dict) else asdict(result)
    with atomic_write(path) as file:
        file.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
