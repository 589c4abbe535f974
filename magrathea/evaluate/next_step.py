"""The next step, given the real ones before it: tokens right, reward, ending, calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Generator, Tensor

from magrathea import masks
from magrathea.evaluate.cells import Cells, describe_cells
from magrathea.evaluate.forcing import SegmentBatch, fill_batch, segment_batches
from magrathea.evaluate.recordings import Budget, Recording
from magrathea.evaluate.slots import leaf_of, patch_size, pictures_of, role_span, slot_tokenizer
from magrathea.evaluate.statistics import Tally, expected_calibration_error
from magrathea.layout import Slot
from magrathea.world import World

NUM_BINS = 15
NUM_FILLED = 512  # steps that are filled as a dream fills them


def measure_next_step(world: World, recordings: list[Recording], budget: Budget) -> dict:
    """Next-step figures of every held-out step (or of as many as the budget allows, in an order drawn at random).

    Returns a JSON-able dict: per observation slot the share of tokens right ("accuracy") for each group of cells and
    condition of steps, of the model, of repeating the last frame, and of the model up to rendering; whole steps right;
    reward and terminated; calibration.
    """
    slots = world.layout.of_role("observation")
    window = world.config.model.window
    cells = {
        slot.name: [
            describe_cells(
                world.metadata.get("env_id", ""),
                recording.episode.infos,
                leaf_of(recording.episode.observation, slot),
                recording.tokens[:, world.layout.span(slot.name)],
                slot,
                window,
            )
            for recording in recordings
        ]
        for slot in slots
    }
    tally = Tally(len(recordings))
    hole_mask = masks.forward_dynamics(world.layout)
    for batch in segment_batches(recordings, window):
        logits = batch.predict(world, hole_mask)
        all_right = np.ones(batch.valid.shape, dtype=bool)
        for slot in slots:
            span = world.layout.span(slot.name)
            right = _tally_slot(tally, world, slot, cells[slot.name], recordings, batch, logits[slot.name], span)
            all_right &= right.all(axis=-1)
        seen = role_span(world.layout, "observation")
        repeated = (batch.targets == batch.previous)[..., seen].all(-1).numpy()
        _tally_exact(tally, cells[slots[0].name], batch, {"model": all_right, "repeat": repeated})
        tally_judgement(tally, "forward dynamics", world, recordings, batch, logits)
        if budget.spent():
            break
    _tally_filled(tally, world, recordings, budget)
    return _summary(tally, world)


def _tally_slot(
    tally: Tally,
    world: World,
    slot: Slot,
    cells: list[Cells],
    recordings: list[Recording],
    batch: SegmentBatch,
    logits: Tensor,
    span: slice,
) -> np.ndarray:
    """Count one slot's tokens of a batch; returns (B, C, tokens) bool, where the prediction is right."""
    confidence, predicted = logits.softmax(-1).max(-1)
    targets, previous = batch.targets[..., span].numpy(), batch.previous[..., span].numpy()
    guesses = predicted.cpu().numpy()
    right = guesses == targets
    rendered = right | _same_rendering(world, slot, cells, recordings, batch, guesses, right)
    sources = {"model": right, "repeat": previous == targets, "rendering": rendered}
    for row, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
        used = batch.valid[row]
        values = {source: of_source[row, used] for source, of_source in sources.items()}
        _tally_groups(
            tally, f"accuracy/{slot.name}", episode, cells[episode], steps[used] - 1, targets[row, used], values
        )
    valid = np.broadcast_to(batch.valid[..., None], right.shape)
    _tally_bins(tally, f"calibration/{slot.name}", batch.episodes, confidence.cpu().numpy(), right, valid)
    return right


def _tally_groups(
    tally: Tally,
    name: str,
    episode: int,
    cells: Cells,
    when: np.ndarray,
    targets: np.ndarray,
    sources: dict[str, np.ndarray],
) -> None:
    """Count where each source is right (S, tokens) at the steps `when` (S,), by condition and group of cells; "copy" is
    the token that showed the same place before, among the cells that have one."""
    groups = {"all": np.ones_like(members_of(cells)), **cells.groups}
    for condition, holds in cells.conditions.items():
        for group, members in groups.items():
            where = members[when] & holds[when, None]
            for source, values in sources.items():
                tally.add_mean(f"{name}/{condition}/{group}/{source}", [episode], values[None], where[None])
            if cells.copied is not None:
                copied = cells.copied[when]
                known = where & (copied >= 0)
                tally.add_mean(f"{name}/{condition}/{group}/copy", [episode], (copied == targets)[None], known[None])


def members_of(cells: Cells) -> np.ndarray:
    """Any of the groups' masks, for its shape (T, tokens)."""
    return next(iter(cells.groups.values()))


def _same_rendering(
    world: World,
    slot: Slot,
    cells: list[Cells],
    recordings: list[Recording],
    batch: SegmentBatch,
    guesses: np.ndarray,
    right: np.ndarray,
) -> np.ndarray:
    """(B, C, tokens) where the predicted token's picture is as near to the real picture as the right token's, within
    the tolerance. Only for slots of patches, whose tokens are pictures by themselves; False elsewhere."""
    same = np.zeros_like(right)
    size = patch_size(slot_tokenizer(world, slot), slot)
    if size is None:
        return same
    for row, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
        used = batch.valid[row] & ~right[row].all(axis=-1)
        if not used.any():
            continue
        frames = leaf_of(recordings[episode].episode.observation, slot)[steps[used]]
        real = cut_patches(frames, size)
        targets = batch.targets[row][used].numpy()
        known = cut_patches(pictures_of(world, slot, targets), size)
        targets[:, world.layout.span(slot.name)] = guesses[row, used]
        guessed = cut_patches(pictures_of(world, slot, targets), size)
        excess = _distance(guessed, real) - _distance(known, real)
        same[row, used] = excess <= cells[episode].tolerance[steps[used] - 1]
    return same


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root-mean-square grey levels between patches (…, pixels)."""
    return np.sqrt(np.square(first.astype(np.float32) - second.astype(np.float32)).mean(axis=-1))


def cut_patches(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """frames (S, rows, cols, C) -> (S, patches, pixels of a patch), patches in reading order."""
    num_frames, rows, columns, channels = frames.shape
    height, width = size
    grid = frames.reshape(num_frames, rows // height, height, columns // width, width, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(num_frames, -1, height * width * channels)


def _tally_bins(
    tally: Tally, name: str, episodes: np.ndarray, confidence: np.ndarray, right: np.ndarray, valid: np.ndarray
) -> None:
    """Count predictions into bins of confidence; confidence, right, valid (B, …)."""
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    columns = []
    for index in range(NUM_BINS):
        inside = (bins == index) & valid
        columns += [inside, np.where(inside, confidence, 0.0), inside & right]
    tally.add(name, episodes, *columns)


def _tally_filled(tally: Tally, world: World, recordings: list[Recording], budget: Budget) -> None:
    """Count the confidences of `fill` itself, which fills in several passes: those of a sample of single steps."""
    settings, num_steps = replace(world.config.fill, temperature=0.0), 0
    generators = [Generator().manual_seed(row) for row in range(32)]
    for batch in segment_batches(recordings, world.config.model.window, batch_size=32, chunk=1):
        filled = fill_batch(world, batch, settings, generators[: len(batch.episodes)])
        right = (filled.tokens == batch.targets[:, 0]).numpy()
        for slot in world.layout.of_role("observation"):
            span, name = world.layout.span(slot.name), f"calibration/{slot.name}, as filled"
            confidence = filled.confidence[:, span].numpy()
            _tally_bins(tally, name, batch.episodes, confidence, right[:, span], np.ones_like(right[:, span]))
        num_steps += len(right)
        if num_steps >= NUM_FILLED or budget.spent():
            return


def _tally_exact(tally: Tally, cells: list[Cells], batch: SegmentBatch, sources: dict[str, np.ndarray]) -> None:
    """Count steps whose observation each source has right in all tokens (B, C), by condition."""
    for row, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
        used = batch.valid[row]
        described = cells[episode]
        for condition, holds in (described.exact_steps or described.conditions).items():
            where = holds[steps[used] - 1][None]
            for source, right in sources.items():
                tally.add_mean(f"exact/{condition}/{source}", [episode], right[row, used][None], where)


def tally_judgement(
    tally: Tally, use: str, world: World, recordings: list[Recording], batch: SegmentBatch, logits: dict[str, Tensor]
) -> None:
    """Count how well reward and terminated are predicted, by the likeliest token."""
    (reward_slot,) = world.layout.of_role("reward")
    (ended_slot,) = world.layout.of_role("terminated")
    guesses = batch.targets.clone()
    for slot in (reward_slot, ended_slot):
        guesses[..., world.layout.span(slot.name)] = logits[slot.name].argmax(-1).cpu()
    reward, ended = world.decode_reward(guesses), world.decode_terminated(guesses)
    for row, (episode, steps) in enumerate(zip(batch.episodes, batch.steps, strict=True)):
        used = batch.valid[row]
        when = steps[used] - 1
        actual = recordings[episode].episode.reward[when]
        guess = np.asarray(reward[row])[used]
        tally.add_mean(f"{use}/reward error", [episode], np.abs(guess - actual)[None])
        tally.add_mean(f"{use}/reward error of none", [episode], np.abs(actual)[None])
        for name, sign in (("non-zero", None), ("positive", 1), ("negative", -1)):
            is_so = [(values != 0) if sign is None else (values * sign > 0) for values in (guess, actual)]
            tally.add_hits(f"{use}/reward {name}", [episode], is_so[0][None], is_so[1][None])
        actual_end = recordings[episode].episode.terminated[when]
        tally.add_hits(f"{use}/terminated", [episode], np.asarray(ended[row])[used][None], actual_end[None])


def judgement_summary(tally: Tally, use: str) -> dict:
    """What `tally_judgement` counted."""
    return {
        "reward mean absolute error": tally.figure(f"{use}/reward error"),
        "reward mean absolute error of always none": tally.figure(f"{use}/reward error of none"),
        "reward non-zero": tally.detection(f"{use}/reward non-zero"),
        "reward positive": tally.detection(f"{use}/reward positive"),
        "reward negative": tally.detection(f"{use}/reward negative"),
        "terminated": tally.detection(f"{use}/terminated"),
    }


def reliability(tally: Tally, name: str) -> dict:
    """Expected calibration error with its curve: for each bin used its mean confidence, accuracy and count."""
    sums = tally.statistics(name).sum(axis=0).reshape(NUM_BINS, 3)
    used = sums[sums[:, 0] > 0]
    error = tally.figure(name, expected_calibration_error)
    error["count"] = int(sums[:, 0].sum())
    curve = {"confidence": used[:, 1] / used[:, 0], "accuracy": used[:, 2] / used[:, 0], "count": used[:, 0]}
    return {"expected calibration error": error, "curve": {key: value.tolist() for key, value in curve.items()}}


def _summary(tally: Tally, world: World) -> dict:
    accuracy: dict = {}
    for name in tally.names("accuracy/"):
        path, source = name.removeprefix("accuracy/").rsplit("/", 1)
        slot, condition, group = path.rsplit("/", 2)
        place = accuracy.setdefault(slot, {}).setdefault(condition, {}).setdefault(group, {})
        place[source] = tally.figure(name)
    exact: dict = {}
    for name in tally.names("exact/"):
        condition, source = name.removeprefix("exact/").rsplit("/", 1)
        exact.setdefault(condition, {})[source] = tally.figure(name)
    return {
        "accuracy": accuracy,
        "exact": exact,
        "judgement": judgement_summary(tally, "forward dynamics"),
        "calibration": {
            name.removeprefix("calibration/"): reliability(tally, name) for name in tally.names("calibration/")
        },
    }
