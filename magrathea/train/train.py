"""From a dataset to the folder of a trained world: tokenizers, memory, start states, token cache, model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optree
import torch

from magrathea.data import Dataset
from magrathea.data.pictures import changes_of
from magrathea.errors import MagratheaError
from magrathea.files import atomic_write, claim_folder, read_json
from magrathea.layout import Role
from magrathea.memory import memory_class
from magrathea.model.joint import JointModel
from magrathea.pretrained import folder_to_write
from magrathea.progress import Stages
from magrathea.sampler import FillSettings
from magrathea.spaces import check_space, index_batch
from magrathea.support import fit_support, join_support
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, Tokenizer, tokenizer_for
from magrathea.tokenizers.roles import Tokenizers, codecs_of
from magrathea.train import distributed
from magrathea.train.cache import TokenCache, encode_dataset, encode_episode
from magrathea.train.report import TrainReport
from magrathea.train.settings import TrainSettings
from magrathea.train.trainer import Progress, train_model
from magrathea.world import World, WorldConfig

NUM_FITTING_FRAMES = 50_000
WORK_FOLDER = ".training"
DEFAULT_MINUTES = 10.0
DEFAULT_TOKENIZERS = {"image": "motion", "numbers": "delta"}  # of observations
MIN_HELD_OUT = 2


def train(
    dataset: str | Path,
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    device: str = "auto",
    deadline: float | None = None,
    stages: Stages | None = None,
) -> World:
    """Train a world on a dataset and write its folder; resumes a training that was interrupted.

    Args:
        dataset: folder of a Minari dataset, as `magrathea collect` records it.
        out: folder of the world. Its subfolder `.training` has the token cache, the checkpoint and TensorBoard's logs.
        settings: of the world and its training, as `load_settings` reads them; the default ones if not given. Training
            takes 10 minutes where they say neither minutes nor steps nor passes.
        device: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.
        deadline: moment of `time.monotonic` that the training of the model ends at, in place of `settings.minutes`.
        stages: display that the progress is shown in; one of its own if not given.

    Raises:
        MagratheaError: for a dataset that cannot be read, settings that do not fit it, and a folder that holds a
            training with other settings or data, or in which another process trains.
    """
    settings = settings or TrainSettings()
    if not settings.is_limited:
        settings = replace(settings, minutes=DEFAULT_MINUTES)
    real = folder_to_write(out)  # refuses what cannot be one before anything is learned
    with claim_folder(real, "training into") if distributed.is_first() else nullcontext():
        return _train(Dataset.open(dataset), Path(out), settings, device, deadline, stages)


def _train(
    source: Dataset,
    out: Path,
    settings: TrainSettings,
    device: str,
    deadline: float | None,
    stages: Stages | None,
) -> World:
    work = out / WORK_FOLDER
    check_spaces(source)
    claim(work, source.fingerprint, settings.to_config())
    settings = replace(settings, held_out=held_out_share(len(source), settings.held_out))
    train_episodes, held_out = source.split(held_out=settings.held_out, seed=settings.seed)
    report = TrainReport(work, stages)
    if distributed.is_first():
        prepare(source, train_episodes, held_out, settings, out, report, deadline)
    distributed.wait_for_all()
    world = World.from_pretrained(out)
    cache = TokenCache.open(work / "tokens", world.layout)
    world.to(device)
    model = JointModel.of(world.model)
    freeze_all_but(model, settings.trainable)
    report.stages.begin("training")
    progress = train_model(model, [cache], settings, work / "checkpoint.safetensors", report.update, deadline)
    note_progress(world, progress)
    if distributed.is_first():
        world.save_pretrained(out)
    report.close()
    return world.to("cpu")


def note_progress(world: World, progress: Progress) -> None:
    """Add to a world's metadata how long its model was trained."""
    world.metadata["training"] |= {"updates": progress.step, "minutes": round(progress.seconds / 60, 1)}
    world.metadata["training"]["steps_seen"] = progress.num_trained_steps


def default_fill(tokenizers: Tokenizers) -> FillSettings:
    """How the dreams of a world are filled where its recipe does not say: in one pass where slots have values, and
    those without what is less than a fifth as likely as the likeliest; rewards and endings as often as they are likely,
    and given the rest where that may decide them."""
    events = FillSettings(event_min_probability=0.0, event_threshold=0.99)
    if codecs_of(tokenizers):
        floors = {"min_probability": 0.02, "values_min_probability": 0.2}
        return replace(events, order="one_shot", shared_noise=0.6, **floors)
    return events


def check_spaces(source: Dataset) -> None:
    """Raises MagratheaError for a dataset, perhaps of another program, whose spaces cannot be learnt."""
    for change in changes_of(source.observation_space):
        raise MagratheaError(
            f"Dataset '{source.folder}' has pictures in another form than can be learnt; record the environment with "
            f"'magrathea collect', which converts them. ({change})"
        )
    for name, space in (("observation", source.observation_space), ("action", source.action_space)):
        check_space(space, f"Dataset '{source.folder}', {name}")


def held_out_share(num_episodes: int, wanted: float) -> float:
    """The fraction of the episodes that is held out: none, if none is wanted, or the wanted one, but at least 8
    episodes, or 10% where the dataset has fewer than 80, and never one alone, on which nothing can be measured. Raises
    MagratheaError where none would be left to train on."""
    if not wanted:
        return 0.0
    if num_episodes <= MIN_HELD_OUT:
        raise MagratheaError(
            f"The dataset has {num_episodes} episodes, and {MIN_HELD_OUT} are held out; record more, or shorter ones "
            "(--max-episode-steps), or give a recipe with held_out = 0."
        )
    fewest = max(MIN_HELD_OUT, min(8, math.ceil(0.1 * num_episodes)))
    return max(round(wanted * num_episodes), fewest) / num_episodes


def prepare(
    source: Dataset,
    episodes: Any,
    held_out: Any,
    settings: TrainSettings,
    out: Path,
    report: TrainReport,
    deadline: float | None,
    tokenizers: Tokenizers | None = None,
) -> None:
    """Write the world with fitted tokenizers, start states and an untrained model, and the token cache of its episodes,
    or of as many as there is time for; each of the two that is there already stays as it is. Tokenizers are fitted
    here, if not given."""
    tokens, encoded = out / WORK_FOLDER / "tokens", None
    if not (out / "config.json").exists():
        torch.manual_seed(settings.seed)
        source_world = None if settings.init_from is None else World.from_pretrained(settings.init_from)
        report.stages.begin("fitting tokenizers")
        if tokenizers is None:
            tokenizers = source_world.tokenizers if source_world else fit_tokenizers([(source, episodes)], settings)
        metadata = _metadata(source, settings, out)
        config = WorldConfig(settings.model, settings.fill or default_fill(tokenizers), metadata=metadata)
        world = World(tokenizers, config, _no_starts(tokenizers))
        if source_world is not None:
            _init_from(source_world, world, source)
            if tokenizers is source_world.tokenizers and config.model.memory == source_world.config.model.memory:
                metadata["continues"] = [source_world.fingerprint, *source_world.continues]
        encoded = encode_dataset(source, episodes, world, report.stages, deadline)
        report.stages.begin("fitting the memory")
        world.memory = memory_class(config.model.memory).fit(world.layout, _steps(encoded))
        world.starts = _draw_starts(source, held_out or episodes, world, settings)
        world.support = fit_support(world.layout, _steps(encoded), world.starts)
        if source_world is not None and tokenizers is source_world.tokenizers:  # the model has seen both
            world.support = join_support(world.support, source_world.support)
        world.metadata["training"]["tokenizer"] = report.tokenizers(world, source, held_out or episodes)
        world.save_pretrained(out)
    if not TokenCache.exists(tokens):
        world = World.from_pretrained(out)
        encoded = encoded or encode_dataset(source, episodes, world, report.stages, deadline)
        report.stages.begin("reading the memory")
        TokenCache.build(encoded, world, tokens)


def _steps(encoded: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[torch.Tensor]:
    """The tokens (T + 1, N) of the episodes that `encode_dataset` gave."""
    return (torch.from_numpy(tokens.astype(np.int64)) for tokens, _ in encoded)


def _init_from(trained: World, world: World, source: Dataset) -> None:
    """Copy the weights of a trained world; parameters that it does not have stay as they are. Raises MagratheaError
    where its spaces are not the dataset's or its model has another shape."""
    if (trained.observation_space, trained.action_space) != (source.observation_space, source.action_space):
        raise MagratheaError("The world of --init-from has other observations or actions than the dataset.")
    own, weights = world.model.state_dict(), trained.model.state_dict()
    different = [name for name, tensor in weights.items() if name not in own or own[name].shape != tensor.shape]
    if different:
        raise MagratheaError(
            f"The world of --init-from has a model of another shape ({different[0]} differs); give the same size and "
            "model settings."
        )
    world.model.load_state_dict(weights, strict=False)


def freeze_all_but(model: JointModel, trainable: tuple[str, ...]) -> None:
    """Freeze the parameters whose names begin with none of the prefixes; without prefixes all are trained. Raises
    MagratheaError for a prefix of no parameter."""
    names = list(model.weights)
    for prefix in trainable:
        if not any(name.startswith(prefix) for name in names):
            raise MagratheaError(f"trainable names '{prefix}', which no parameter begins with; use {', '.join(names)}.")
    for name, parameter in model.weights.items():
        parameter.requires_grad_(not trainable or name.startswith(trainable))


def fit_tokenizers(sources: Sequence[tuple[Dataset, Sequence[int]]], settings: TrainSettings) -> Tokenizers:
    """Tokenizers fitted to at most NUM_FITTING_FRAMES evenly spaced steps of the training episodes of datasets, which
    have the same spaces, and to all rewards."""
    lengths = [(source.lengths, episodes) for source, episodes in sources]
    total = sum(own[index] + 1 for own, episodes in lengths for index in episodes)
    every = slice(None, None, max(1, -(-total // NUM_FITTING_FRAMES)))
    frames, before, actions, rewards = [], [], [], []
    for source, number in ((source, number) for source, episodes in sources for number in episodes):
        episode = source.episode(number)
        steps = np.arange(len(episode.reward) + 1)[every]
        frames.append(index_batch(episode.observation, steps))
        before.append(index_batch(episode.observation, np.maximum(steps - 1, 0)))
        actions.append(index_batch(episode.action, every))
        rewards.append(episode.reward)
    source = sources[0][0]
    observation = tokenizer_for(source.observation_space, **DEFAULT_TOKENIZERS | dict(settings.tokenizer))
    observation.fit(_concatenate(frames), previous=_concatenate(before), seed=settings.seed)
    action = tokenizer_for(source.action_space, **_of_texts(settings.tokenizer)).fit(
        _concatenate(actions), seed=settings.seed
    )
    reward = RewardTokenizer().fit(np.concatenate(rewards))
    return {"action": action, "observation": observation, "reward": reward, "terminated": TerminatedTokenizer()}


def _of_texts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a recipe's tokenizer those options that actions have too: of texts, which are of one language."""
    own = ("text", "text_vocab_size", "text_pieces", "text_file")
    return {name: options[name] for name in own if name in options}


def _concatenate(parts: list[Any]) -> Any:
    """Values (T, ...) of several episodes as one; arrays, or dicts or tuples of such."""
    return optree.tree_map(lambda *arrays: np.concatenate(arrays), *parts)


def _no_starts(tokenizers: dict[Role, Tokenizer]) -> torch.Tensor:
    return torch.zeros(0, 1, sum(tokenizer.tokens_per_step for tokenizer in tokenizers.values()))


def _draw_starts(source: Dataset, episodes: Any, world: World, settings: TrainSettings) -> torch.Tensor:
    """(K, W, N) recorded steps of episodes, half of them from an episode's beginning, less an opening that all of them
    share. W is the model's window, or less where most of the episodes are shorter."""
    all_lengths = source.lengths
    lengths = {index: all_lengths[index] for index in episodes}
    window, rng = world.config.model.window, np.random.default_rng(settings.seed)
    window = min(window, int(np.median(list(lengths.values()))))
    long_enough = [index for index, length in lengths.items() if length >= window]
    used = long_enough[: settings.num_starts]
    beginning = max(0, _length_of_opening(source, range(min(len(source), 16))) - window)
    starts: dict[int, torch.Tensor] = {}
    for place, index in enumerate(used):
        tokens = encode_episode(source.episode(index), world)
        for number in range(place, settings.num_starts, len(used)):
            last = len(tokens) - window
            earliest = min(beginning, last - 1)
            first = earliest if number < len(long_enough) // 2 else int(rng.integers(earliest, last))
            starts[number] = tokens[first : first + window].clone()
    return torch.stack([starts[number] for number in range(settings.num_starts)])


def _length_of_opening(source: Dataset, episodes: Sequence[int]) -> int:
    """How many observations the episodes begin with that are the same in all, whatever is done: those of a game that
    waits before it lets one play. 0 where that never ends."""
    leaves = [optree.tree_leaves(source.episode(index).observation) for index in episodes]
    if len(leaves) < 2:
        return 0
    shortest = min(len(parts[0]) for parts in leaves)
    same = np.ones(shortest, bool)
    for parts in leaves[1:]:
        for part, first in zip(parts, leaves[0], strict=True):
            same &= (part[:shortest] == first[:shortest]).reshape(shortest, -1).all(1)
    return 0 if same.all() else int(np.argmin(same))


def _metadata(source: Dataset, settings: TrainSettings, out: Path) -> dict[str, Any]:
    recipe = settings.to_config()
    if settings.init_from is not None:
        recipe["init_from"] = Path(settings.init_from).name
    training = {"dataset": source.env_id, "recipe": recipe}
    split = {"held_out": settings.held_out, "split_seed": settings.seed, "dataset_id": source.fingerprint}
    names = {"name": out.name, "env_id": source.env_id}
    return json.loads(json.dumps(names | source.metadata | dict(settings.metadata) | split | {"training": training}))


class _Claim(msgspec.Struct):
    """What a training's folder says of it: the dataset's fingerprint, and the settings."""

    dataset: str
    settings: dict[str, Any]


def claim(work: Path, dataset: str, settings: Mapping[str, Any]) -> None:
    """Record the settings of the training and the fingerprint of its data in its folder; raises MagratheaError if it
    holds one with others."""
    claim = _Claim(dataset, json.loads(json.dumps(settings)))
    file = work / "settings.json"
    remedy = f"remove the folder '{work}' to train again from the start, or give another --out"
    if file.exists() and read_json(file, _Claim, remedy) != claim:
        raise MagratheaError(
            f"Folder '{work.parent}' holds a training with other settings or data; give another --out, or remove it."
        )
    if distributed.is_first():
        work.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as fresh:  # another process may be reading it
            fresh.write_text(json.dumps(msgspec.to_builtins(claim), indent=1))
    distributed.wait_for_all()
