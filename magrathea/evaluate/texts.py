"""Texts: bits per byte of the next one against a 5-gram and against copying, orders of filling at equal passes, and
what dreams write against what happened."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from magrathea import masks
from magrathea.errors import MagratheaError
from magrathea.evaluate.ngram import NGram
from magrathea.evaluate.recordings import Options, Recording, Subject, other_episodes
from magrathea.evaluate.results import Curves, Figure
from magrathea.evaluate.segments import SegmentBatch, segment_batches
from magrathea.evaluate.slots import leaf_of, slot_tokenizer
from magrathea.evaluate.text_agreement import HORIZON, text_agreement
from magrathea.layout import Slot
from magrathea.progress import Stages
from magrathea.sampler import FillSettings, Order, fill
from magrathea.tokenizers import TextTokenizer
from magrathea.world import World

ORDER = 5  # of the n-gram
PASSES = (1, 2, 4, 8, 16)
ORDERS: dict[str, Order] = {"by confidence": "adaptive", "left to right": "left_to_right"}
BITS_SHARE = 0.35  # of the time
ORDERS_SHARE = 0.5  # of what that leaves; the rest is for dreams
LOG_BITS = math.log(2)


@dataclass
class TextResult:
    """What was measured of one text of a world's observations.

    Attributes:
        slot: its name.
        num_texts: next texts that were predicted.
        bytes_per_text, tokens_per_text: means of them.
        bits_per_byte: of the world and of what it is compared with, over all texts.
        bits_by_group: the same for those that were seen before in the episode and those that were not.
        exact: by order of filling, passes and group the share of texts that are exactly right, at temperature 0.
        same: by group the share of texts that equal the one before.
        num_filled: by group the texts of `exact` and `same`.
        agreement: by check the share of statements in dreams and in reality that agree with what happened before and
            with the real environment, see `text_agreement`; empty where no plug-in has checks.
    """

    slot: str
    num_texts: int = 0
    bytes_per_text: float = 0.0
    tokens_per_text: float = 0.0
    bits_per_byte: dict[str, float] = field(default_factory=dict)
    bits_by_group: dict[str, dict[str, float]] = field(default_factory=dict)
    exact: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    same: dict[str, float] = field(default_factory=dict)
    num_filled: dict[str, int] = field(default_factory=dict)
    agreement: Curves = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_texts(
    world: str | Path | World, dataset: str | Path, options: Options, pattern: str | None = None
) -> list[TextResult]:
    """Measure every text of a world's observations on held-out episodes.

    Args:
        world, dataset, options: as of `Subject`.
        pattern: a regular expression; texts in which it is found are a group of their own.

    Raises:
        MagratheaError: for a world without texts, and a pattern that is none.
    """
    try:
        wanted = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise MagratheaError(f"The pattern '{pattern}' is no regular expression ({error}); correct it.") from error
    subject = Subject(world, dataset, options)
    slots = [slot for slot in subject.world.layout.of_role("observation") if slot.is_sequence]
    if not slots:
        raise MagratheaError(
            f"World '{subject.world.metadata.get('name', '?')}' observes no texts; use 'magrathea eval'."
        )
    stages, results = Stages(), []
    for slot in slots:
        measure = _Measure(subject, slot, wanted)
        stages.begin(f"bits of '{slot.name}'")
        measure.bits()
        stages.begin(f"orders of filling '{slot.name}'")
        measure.orders()
        stages.begin(f"dreams of '{slot.name}'")
        measure.result.agreement = text_agreement(subject, slot)
        results.append(measure.result)
    stages.close()
    return results


def text_table(result: TextResult) -> str:
    """The results as text: what was measured, bits per byte, and exact texts by order and passes."""
    lines = [
        f"{result.slot}: {result.num_texts} next texts of held-out episodes, {result.bytes_per_text:.0f} bytes and "
        f"{result.tokens_per_text:.1f} tokens each",
        "",
        "| bits per byte | " + " | ".join(["all", *result.bits_by_group]) + " |",
        "| --- |" + " ---: |" * (1 + len(result.bits_by_group)),
    ]
    for name, bits in result.bits_per_byte.items():
        groups = [_number(group.get(name)) for group in result.bits_by_group.values()]
        lines.append(f"| {name} | " + " | ".join([_number(bits), *groups]) + " |")
    groups = [f"{group} ({num})" for group, num in result.num_filled.items()]
    lines += ["", "| exactly right | passes | " + " | ".join(groups) + " |", "| --- | ---: |" + " ---: |" * len(groups)]
    for order, by_passes in result.exact.items():
        for passes, shares in by_passes.items():
            lines.append(f"| {order} | {passes} | " + " | ".join(f"{shares[g]:.1%}" for g in result.num_filled) + " |")
    lines.append(
        "| copying the last text | 0 | " + " | ".join(f"{result.same[g]:.1%}" for g in result.num_filled) + " |"
    )
    if result.agreement:
        lines += ["", f"| right, in dreams of {HORIZON} steps | dreams | reality |", "| --- | ---: | ---: |"]
    for name, sources in result.agreement.items():
        lines.append(f"| {name} | {_share(sources['dreams'])} | {_share(sources['reality'])} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _share(measured: Figure) -> str:
    """A share with its interval, and of how many."""
    return "none said" if measured.value is None else f"{measured.text('{:.1%}'.format)} of {measured.count}"


@dataclass
class _Step:
    """A step whose text is predicted: its episode and number, its text, and the groups that it belongs to."""

    recording: Recording
    step: int
    text: str
    groups: tuple[str, ...]


class _Measure:
    """Measures one slot."""

    def __init__(self, subject: Subject, slot: Slot, pattern: re.Pattern[str] | None) -> None:
        tokenizer = slot_tokenizer(subject.world, slot)
        assert isinstance(tokenizer, TextTokenizer)
        self.subject, self.slot, self.pattern, self.tokenizer = subject, slot, pattern, tokenizer
        self.world, self.result = subject.world, TextResult(slot.name)
        self.span = self.world.layout.span(slot.name)
        self.hole_mask = masks.forward_dynamics(self.world.layout)

    def _steps(self, batch: SegmentBatch) -> list[_Step]:
        found = []
        for episode, (step,) in zip(batch.episodes, batch.steps, strict=True):
            recording = self.subject.recordings[episode]
            texts = [str(text) for text in leaf_of(recording.episode.observation, self.slot)]
            groups = ["seen before" if texts[step] in set(texts[:step]) else "new"]
            if self.pattern is not None and self.pattern.search(texts[step]):
                groups.append(f"/{self.pattern.pattern}/")
                groups.append(f"/{self.pattern.pattern}/ {groups[0]}")
            found.append(_Step(recording, int(step), texts[step], tuple(groups)))
        return found

    def _batches(
        self, seed: int
    ) -> Iterator[tuple[list[_Step], Tensor, Callable[[Tensor, Tensor], dict[str, Tensor]]]]:
        """Steps, their tokens (I, N), and a function tokens, holes (I, N) -> logits (I, ...) of every slot."""
        model, device = self.world.model, self.world.device
        for batch in segment_batches(self.subject.recordings, self.world.config.model.window, chunk=1, seed=seed):
            readout = batch.readout.select_known_action(self.hole_mask, self.world.layout).map(lambda x: x.to(device))
            tokens = batch.tokens.to(device)
            kv_cache = model.segment_cache(tokens, batch.first, None, readout, batch.earlier.to(device))
            time = torch.full((len(tokens), 1), batch.first, device=device)

            def predict(now: Tensor, holes: Tensor, kv_cache=kv_cache, time=time) -> dict[str, Tensor]:
                found = model.predict(now[:, None], holes[:, None], time, kv_cache)
                return {name: logits[:, 0] for name, logits in found.items()}

            yield self._steps(batch), tokens[:, -1], predict

    # -- bits ---------------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def bits(self) -> None:
        """Bits of every next text, drawn from left to right, one token at a time."""
        compared = self._compared_with()
        budget = self.subject.budget.part(BITS_SHARE)
        bits: dict[str, list[float]] = {name: [] for name in ("world", *compared)}
        num_bytes, num_tokens, groups = [], [], []
        for steps, tokens, predict in self._batches(seed=0):
            bits["world"] += self._bits_of(tokens, predict)
            for step, row in zip(steps, tokens[:, self.span].tolist(), strict=True):
                text = _until_end(row)
                num_tokens.append(len(text))
                num_bytes.append(int(self.tokenizer.byte_lengths()[text].sum()))
                groups.append(step.groups)
                for name, measure in compared.items():
                    bits[name].append(measure(step))
            if budget.spent():
                break
        sizes = np.array(num_bytes, dtype=float)
        self.result.num_texts = len(sizes)
        self.result.bytes_per_text, self.result.tokens_per_text = float(sizes.mean()), float(np.mean(num_tokens))
        members = {
            name: np.array([name in own for own in groups]) for name in sorted({g for own in groups for g in own})
        }
        for name, each in bits.items():
            self.result.bits_per_byte[name] = float(np.sum(each) / sizes.sum())
            for group, inside in members.items():
                share = float(np.array(each)[inside].sum() / sizes[inside].sum())
                self.result.bits_by_group.setdefault(group, {})[name] = share

    def _bits_of(self, tokens: Tensor, predict: Callable[[Tensor, Tensor], dict[str, Tensor]]) -> list[float]:
        """Bits of the texts of steps (I, N), by the chain rule."""
        own = tokens[:, self.span]
        lengths = torch.tensor([len(_until_end(row)) for row in own.tolist()])
        holes, bits = self.hole_mask.expand(tokens.shape).clone(), torch.zeros(len(tokens))
        for place in range(int(lengths.max())):
            log_probs = predict(tokens, holes)[self.slot.name][:, place].float().log_softmax(-1)
            chosen = log_probs.gather(-1, own[:, place, None])[:, 0].cpu()
            bits -= torch.where(place < lengths, chosen, 0) / LOG_BITS
            holes[:, self.span.start + place] = False
        return bits.tolist()

    def _compared_with(self) -> dict[str, Callable[[_Step], float]]:
        """Functions step -> bits of its text, fitted to the episodes that the world was trained on."""
        episodes = [
            self.subject.dataset.episode(number)
            for number in other_episodes(self.world, self.subject.dataset, self.subject.recordings)
        ]
        sources = [(leaf_of(episode.observation, self.slot), self._actions(episode.action)) for episode in episodes]
        words = TextTokenizer(self.tokenizer.space, text_tokens=self.slot.num_tokens, text_pieces="words")  # type: ignore[arg-type]
        words.fit(np.concatenate([texts for texts, _ in sources]))
        num_same = sum(int((texts[1:] == texts[:-1]).sum()) for texts, _ in sources)
        same = (num_same + 1) / (sum(len(texts) - 1 for texts, _ in sources) + 2)
        found: dict[str, Callable[[_Step], float]] = {}
        for name, tokenizer in (("the world's tokens", self.tokenizer), ("words", words)):
            gram = _TextGram(tokenizer, sources, self.slot.num_tokens)
            found[f"{ORDER}-gram of {name}"] = lambda step, gram=gram: gram.bits(*self._about(step))
        single = _TextGram(self.tokenizer, sources, self.slot.num_tokens, order=1)
        best = _TextGram(words, sources, self.slot.num_tokens)

        def copying(step: _Step, otherwise: _TextGram) -> float:
            before, action, text = self._about(step)
            other = (1 - same) * 2.0 ** -otherwise.bits(before, action, text)
            return -math.log2(max(other + same * (before == text), 1e-300))

        found["copying the last text, or a 1-gram"] = lambda step: copying(step, single)
        found[f"copying the last text, or a {ORDER}-gram of words"] = lambda step: copying(step, best)
        return found

    def _about(self, step: _Step) -> tuple[str, str, str]:
        """The text before, the action, and the text of a step."""
        episode = step.recording.episode
        texts = leaf_of(episode.observation, self.slot)
        return texts[step.step - 1], self._actions(episode.action)[step.step - 1], self._shown(step.text)

    def _shown(self, text: str) -> str:
        """A text as its slot holds it, without what has no room there."""
        return str(self.tokenizer.decode(self.tokenizer.encode([text]))[0])

    @staticmethod
    def _actions(actions: Any) -> list[str]:
        """The actions in words, whatever they are."""
        if isinstance(actions, np.ndarray):
            return [str(action) for action in actions]
        parts = actions.values() if isinstance(actions, dict) else actions
        return [" ".join(map(str, each)) for each in zip(*parts, strict=True)]

    # -- orders of filling --------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def orders(self) -> None:
        """Fill the steps at temperature 0 in both orders and several numbers of passes, the same steps for each."""
        layout, budget = self.world.layout, self.subject.budget.part(ORDERS_SHARE)
        settings = {
            (name, number): FillSettings(order=order, max_passes=number, threshold=1.0, temperature=0)
            for name, order in ORDERS.items()
            for number in PASSES
        }
        right: dict[tuple[str, int], list[bool]] = {key: [] for key in settings}
        same, groups = [], []
        for steps, tokens, predict in self._batches(seed=1):
            for key, own in settings.items():
                filled = self._filled(tokens, predict, own, layout)
                right[key] += (filled == tokens[:, self.span]).all(-1).tolist()
            same += [self._about(step)[0] == step.text for step in steps]
            groups += [("all", *step.groups) for step in steps]
            if budget.spent():
                break
        members = {
            name: np.array([name in own for own in groups]) for name in sorted({g for own in groups for g in own})
        }
        self.result.num_filled = {name: int(inside.sum()) for name, inside in members.items()}
        self.result.same = {name: float(np.array(same)[inside].mean()) for name, inside in members.items()}
        for (order, number), each in right.items():
            shares = {name: float(np.array(each)[inside].mean()) for name, inside in members.items()}
            self.result.exact.setdefault(order, {})[number] = shares

    def _filled(self, tokens: Tensor, predict: Any, settings: FillSettings, layout: Any) -> Tensor:
        """The tokens of the slot in steps (I, N) that are filled."""
        whole, whole_holes = tokens.clone(), self.hole_mask.to(tokens.device).expand(tokens.shape).clone()

        def predict_some(now: Tensor, holes: Tensor, chosen: Tensor | None) -> dict[str, Tensor]:
            here = slice(None) if chosen is None else chosen
            whole[here], whole_holes[here] = now, holes
            return {name: logits[here] for name, logits in predict(whole, whole_holes).items()}

        generators = [Generator().manual_seed(index) for index in range(len(tokens))]
        filled = fill(
            predict_some, tokens, self.hole_mask.to(tokens.device).expand(tokens.shape), layout, settings, generators
        )
        return filled.tokens[:, self.span]


class _TextGram:
    """An n-gram of texts, given the text before and the action."""

    def __init__(
        self, tokenizer: TextTokenizer, sources: list[tuple[Any, list[str]]], most_tokens: int, order: int = ORDER
    ) -> None:
        self.tokenizer, self.most_tokens = tokenizer, most_tokens
        self._gram = NGram(order, tokenizer.vocab_size)
        self._gram.fit(
            (self._context(texts[step], actions[step]), self._text(texts[step + 1]))
            for texts, actions in sources
            for step in range(len(actions))
        )

    def _context(self, before: str, action: str) -> list[int]:
        return [*self.tokenizer.ids(before), 0, *self.tokenizer.ids(action), 0]

    def _text(self, text: str) -> list[int]:
        return [*self.tokenizer.ids(text), 0]

    def bits(self, before: str, action: str, text: str) -> float:
        return self._gram.bits(self._context(before, action), self._text(text))


def _until_end(tokens: list[int]) -> list[int]:
    """The tokens of a text with its END, where it has one."""
    return tokens[: tokens.index(0) + 1] if 0 in tokens else tokens
