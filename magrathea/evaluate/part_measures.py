"""How near a guess of a part of an observation is, in units of that part, and what nearest neighbours are found by.

A measure is made for a part's space and the values that it has in training. S steps; every figure is a function of sums
over steps, so that its interval can be that over episodes (`statistics.figure`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from magrathea.data.pictures import resize
from magrathea.evaluate.images import squared_error
from magrathea.evaluate.slots import is_picture
from magrathea.evaluate.statistics import gain, ratio, root_of_ratio
from magrathea.sounds import Sound
from magrathea.spaces import is_image
from magrathea.tokenizers.sound_measures import log_mels, mel_distance, mel_distances

MOST_CLASSES = 16  # different values of a picture that holds labels
SIDE = 16  # pixels that pictures are reduced to where neighbours are looked for
MEL_WINDOW = 256  # samples, of the spectra by which they are
MOST_MEDOIDS = 512  # sounds among which the middle one is looked for


class PartMeasure(ABC):
    """What guesses of a part are judged by.

    Attributes:
        unit: what its figures are.
        higher_is_better: whether a greater figure is a better guess.
        averages: whether the mean of several guesses is a better one, as under squared error.
        constant: (*shape) the best guess that is always the same, by the training's values.
    """

    unit: str
    higher_is_better: bool
    averages: bool = False
    constant: np.ndarray

    @abstractmethod
    def sums(self, real: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """Values (S, *shape) -> what is summed over steps (S, K); the last number is 1."""

    @abstractmethod
    def figure(self, sums: np.ndarray) -> np.ndarray:
        """Sums (..., K) -> the figure (...)."""

    @abstractmethod
    def features(self, values: np.ndarray) -> np.ndarray:
        """Values (S, *shape) -> (S, F) float32, whose squared distance says how alike they are."""


def measure_for(space: gymnasium.Space, training: np.ndarray) -> PartMeasure:
    """The measure of a part whose values in training are (M, *shape)."""
    if isinstance(space, Sound):
        return SoundMeasure(space, training)
    if is_picture(space):
        values = np.unique(training)
        return LabelMeasure(training, values) if len(values) <= MOST_CLASSES else PictureMeasure(training)
    if isinstance(space, spaces.Box) and not is_image(space):
        return NumberMeasure(training)
    return ChoiceMeasure(training)


class PictureMeasure(PartMeasure):
    """Pictures (rows, columns[, channels]): mean squared error, as a gain in dB over the training's mean."""

    unit, higher_is_better, averages = "gain over the mean, dB", True, True

    def __init__(self, training: np.ndarray) -> None:
        self.constant = np.round(training.mean(0)).astype(np.uint8)

    def sums(self, real: np.ndarray, guess: np.ndarray) -> np.ndarray:
        baseline = np.broadcast_to(self.constant, real.shape)
        errors = [squared_error(_channels(each), _channels(real)) for each in (baseline, guess)]
        return np.stack([*errors, np.ones(len(real))], axis=-1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return gain(sums)

    def features(self, values: np.ndarray) -> np.ndarray:
        return np.stack([_reduced(picture).ravel() for picture in values]).astype(np.float32)


class LabelMeasure(PartMeasure):
    """Pictures of few values, each of which is a class: intersection over union of pixels, the mean of all classes that
    occur but the most frequent one, which is the background. A guess is rounded to the nearest class."""

    unit, higher_is_better = "mean IoU", True

    def __init__(self, training: np.ndarray, values: np.ndarray) -> None:
        counts = np.stack([(training == value).sum(0) for value in values])
        self.values, self.constant = values, values[counts.argmax(0)]
        self.background = values[counts.reshape(len(values), -1).sum(1).argmax()]

    def sums(self, real: np.ndarray, guess: np.ndarray) -> np.ndarray:
        real, guess = self._classes(real), self._classes(guess)
        pairs = [(real == value, guess == value) for value in self.values if value != self.background]
        axes = tuple(range(1, real.ndim))
        both = [(a & b).sum(axes) for a, b in pairs]
        either = [(a | b).sum(axes) for a, b in pairs]
        return np.stack([*both, *either, np.ones(len(real))], axis=-1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        both, either = np.split(sums[..., :-1].astype(float), 2, axis=-1)
        occurs = either > 0
        shares = np.divide(both, either, out=np.zeros_like(both), where=occurs)
        return ratio(np.stack([shares.sum(-1), occurs.sum(-1)], axis=-1))

    def features(self, values: np.ndarray) -> np.ndarray:
        shown = [[_reduced(255 * (each == value).astype(np.uint8)).ravel() for value in self.values] for each in values]
        return np.array(shown, np.float32).reshape(len(values), -1)

    def _classes(self, pictures: np.ndarray) -> np.ndarray:
        edges = (self.values[:-1].astype(float) + self.values[1:]) / 2
        return self.values[np.searchsorted(edges, pictures)]


class SoundMeasure(PartMeasure):
    """Sounds of a step: `mel_distance`. The constant is the one of the training's sounds that is nearest to others; the
    features are the log mel spectrum of the whole step, whatever its phases are."""

    unit, higher_is_better = "mel distance", False

    def __init__(self, space: Sound, training: np.ndarray) -> None:
        self.space = space
        some = training[np.linspace(0, len(training) - 1, min(MOST_MEDOIDS, len(training))).astype(int)]
        waves = self._waves(some)
        self.constant = some[int(mel_distances(waves, waves, space.sample_rate).sum(1).argmin())]

    def sums(self, real: np.ndarray, guess: np.ndarray) -> np.ndarray:
        found = mel_distance(self._waves(real), self._waves(guess), self.space.sample_rate)
        return np.stack([found.double().numpy(), np.ones(len(real))], axis=-1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums)

    def features(self, values: np.ndarray) -> np.ndarray:
        return log_mels(self._waves(values), MEL_WINDOW, self.space.sample_rate).mean(-1).flatten(1).numpy()

    def _waves(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.space.waveform(values).astype(np.float32))


class NumberMeasure(PartMeasure):
    """Numbers: the root of the mean squared error, each in the standard deviation that it has in training; what never
    changes there is left out."""

    unit, higher_is_better, averages = "error, deviations", False, True

    def __init__(self, training: np.ndarray) -> None:
        numbers = training.reshape(len(training), -1).astype(np.float64)
        deviations = numbers.std(0)
        self.changes, self.constant = deviations > 0, training.mean(0)
        self.mean, self.deviations = numbers.mean(0)[self.changes], deviations[self.changes]

    def sums(self, real: np.ndarray, guess: np.ndarray) -> np.ndarray:
        errors = (self._standardized(real) - self._standardized(guess)) ** 2
        return np.stack([errors.mean(1) if errors.size else np.zeros(len(real)), np.ones(len(real))], axis=-1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return root_of_ratio(sums)

    def features(self, values: np.ndarray) -> np.ndarray:
        return self._standardized(values).astype(np.float32)

    def _standardized(self, values: np.ndarray) -> np.ndarray:
        return (values.reshape(len(values), -1)[:, self.changes] - self.mean) / self.deviations


class ChoiceMeasure(PartMeasure):
    """Choices, texts and small images: the share of entries that are right; a text is one entry."""

    unit, higher_is_better = "right, %", True

    def __init__(self, training: np.ndarray) -> None:
        entries, shape = training.reshape(len(training), -1), training.shape[1:]
        frequent, self.known = [], []
        for column in entries.T:
            values, counts = np.unique(column, return_counts=True)
            frequent.append(values[counts.argmax()])
            self.known.append(values)
        self.constant = np.array(frequent, training.dtype).reshape(shape)

    def sums(self, real: np.ndarray, guess: np.ndarray) -> np.ndarray:
        right = (real == guess).reshape(len(real), -1)
        return np.stack([right.mean(1), np.ones(len(real))], axis=-1)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return 100 * ratio(sums)

    def features(self, values: np.ndarray) -> np.ndarray:
        entries = values.reshape(len(values), -1)
        if values.dtype == object:  # texts are alike that have many words in common
            entries = np.array([[" ".join(row)] for row in entries], dtype=object)
            words = sorted({word for column in self.known for text in column for word in text.split()})
            return np.array([[text.split().count(word) for word in words] for (text,) in entries], np.float32)
        return np.concatenate(
            [column[:, None] == known for column, known in zip(entries.T, self.known, strict=True)], axis=1
        ).astype(np.float32)


def _channels(pictures: np.ndarray) -> np.ndarray:
    return pictures[..., None] if pictures.ndim == 3 else pictures


def _reduced(picture: np.ndarray) -> np.ndarray:
    return resize(picture, (min(SIDE, picture.shape[0]), min(SIDE, picture.shape[1])))
