"""From a dataset to a world: tokenizers, token cache, heart, and the world's folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from magrathea.data import Dataset
from magrathea.errors import MagratheaError
from magrathea.files import whole_file
from magrathea.layout import Role
from magrathea.memory import memory_spec
from magrathea.pretrained import load_world, save_world
from magrathea.tokenizers import RewardTokenizer, TerminatedTokenizer, Tokenizer, tokenizer_for
from magrathea.train.cache import TokenCache, encode_dataset, encode_episode
from magrathea.train.report import TrainReport
from magrathea.train.settings import TrainSettings, load_recipe, with_changes
from magrathea.train.trainer import TrainerConfig, train_model
from magrathea.world import Tokenizers, World, WorldConfig

NUM_FITTING_FRAMES = 50_000
WORK_FOLDER = ".training"


def train(
    dataset: str | Path,
    out: str | Path,
    *,
    size: str | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    recipe: str | Path | None = None,
    device: str = "auto",
    seed: int | None = None,
    begin_from: str | Path | None = None,
    memory: str | None = None,
) -> World:
    """Learn a world from a dataset and write its folder; goes on where it was if it was stopped.

    Args:
        dataset: folder of a Minari dataset, as `magrathea collect` records it.
        out: folder of the world. Its subfolder `.training` keeps the token cache and the checkpoint.
        size: "debug", "tiny", "small" or "base".
        minutes, steps: how long to train the heart; 10 minutes if neither is given.
        recipe: a .toml file or the name of a shipped recipe; the other arguments override it.
        device: "cpu", "cuda", or "auto" for a GPU if there is one.
        seed: of everything drawn.
        begin_from: a world whose tokenizers and weights to begin with; what it does not have begins as in a new one.
        memory: what the world remembers with, such as "places" or "places+recurrent".
    """
    begin_from = None if begin_from is None else str(begin_from)
    settings = load_recipe(recipe) if recipe is not None else TrainSettings()
    settings = with_changes(settings, size=size, minutes=minutes, steps=steps, seed=seed, begin_from=begin_from)
    settings = settings if memory is None else replace(settings, model=settings.model | {"memory": memory})
    if settings.minutes is None and settings.steps is None:
        settings = replace(settings, minutes=10.0)
    out, source = Path(out), Dataset.open(dataset)
    heart = TrainerConfig(
        steps=settings.steps,
        minutes=settings.minutes,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        batch=settings.batch_config(),
    )
    work = out / WORK_FOLDER
    _claim(work, source, settings)
    train_episodes, held_out = source.split(held_out=settings.held_out, seed=settings.seed)
    report = TrainReport(work, settings)
    if _is_first_process():
        _prepare(source, train_episodes, held_out, settings, out, report)
    _wait_for_all()
    world = load_world(out)
    cache = TokenCache.open(work / "tokens", world.layout)
    world.to(device)
    _freeze_all_but(world.model, settings.learns)
    report.stages.begin("training")
    progress = train_model(world.model, cache, heart, work / "checkpoint.safetensors", report.update)
    world.metadata["training"] |= {"updates": progress.step, "minutes": round(progress.seconds / 60, 1)}
    world.metadata["training"]["steps_seen"] = progress.num_trained_steps
    if _is_first_process():
        save_world(world, out)
    report.close()
    return world.to("cpu")


def _prepare(
    source: Dataset, episodes: Any, held_out: Any, settings: TrainSettings, out: Path, report: TrainReport
) -> None:
    """The world with fitted tokenizers, stored starts and an untrained heart, and its episodes as tokens; what is there
    after an interruption stays."""
    tokens, encoded = out / WORK_FOLDER / "tokens", None
    if not (out / "config.json").exists():
        torch.manual_seed(settings.seed)
        earlier = None if settings.begin_from is None else load_world(settings.begin_from)
        report.stages.begin("fitting tokenizers")
        tokenizers = earlier.tokenizers if earlier else _fit_tokenizers(source, episodes, settings)
        metadata = _metadata(source, settings, out)
        config = WorldConfig(settings.model_config(), settings.fill_settings(), metadata=metadata)
        world = World(tokenizers, config, _no_starts(tokenizers))
        if earlier is not None:
            _go_on_from(earlier, world, source)
        encoded = encode_dataset(source, episodes, world, report.stages)
        report.stages.begin("fitting the memory")
        world.memory = memory_spec(config.model.memory).fit(world.layout, (steps for steps, _ in encoded))
        world.starts = _draw_starts(source, held_out, world, settings)
        world.metadata["training"]["tokenizer"] = report.tokenizers(world, source, held_out)
        save_world(world, out)
    if not TokenCache.exists(tokens):
        world = load_world(out)
        encoded = encoded or encode_dataset(source, episodes, world, report.stages)
        report.stages.begin("recalling")
        TokenCache.build(encoded, world, tokens)


def _go_on_from(earlier: World, world: World, source: Dataset) -> None:
    """Give the world the weights of an earlier one; raises MagratheaError where the two do not go together."""
    if (earlier.observation_space, earlier.action_space) != (source.observation_space, source.action_space):
        raise MagratheaError("The world to begin from has other observations or actions than the dataset.")
    own, weights = world.model.state_dict(), earlier.model.state_dict()
    unlike = [name for name, tensor in weights.items() if name not in own or own[name].shape != tensor.shape]
    if unlike:
        raise MagratheaError(f"The world to begin from has another size ({unlike[0]} differs); give that size.")
    world.model.load_state_dict(weights, strict=False)


def _freeze_all_but(model: torch.nn.Module, learns: list[str]) -> None:
    """Let only the named parts of a model learn, or all of it; raises MagratheaError for a part that there is not."""
    names = [name for name, _ in model.named_parameters()]
    for part in learns:
        if not any(name.startswith(part) for name in names):
            raise MagratheaError(f"There is no part '{part}' of the model that could learn; name one of {names}.")
    for name, weights in model.named_parameters():
        weights.requires_grad_(not learns or name.startswith(tuple(learns)))


def _fit_tokenizers(source: Dataset, episodes: Any, settings: TrainSettings) -> Tokenizers:
    """Fit to at most 50,000 observations of the training episodes, evenly spread, and to all rewards."""
    total = sum(len(source.episode(index).reward) + 1 for index in episodes)
    stride = max(1, -(-total // NUM_FITTING_FRAMES))
    frames, actions, rewards = [], [], []
    for index in episodes:
        episode = source.episode(index)
        frames.append(_every(episode.observation, stride))
        actions.append(_every(episode.action, stride))
        rewards.append(episode.reward)
    observation = tokenizer_for(source.observation_space, **settings.tokenizer)
    observation.fit(_joined(frames), seed=settings.seed)
    action = tokenizer_for(source.action_space).fit(_joined(actions), seed=settings.seed)
    reward = RewardTokenizer().fit(np.concatenate(rewards))
    return {"action": action, "observation": observation, "reward": reward, "terminated": TerminatedTokenizer()}


def _every(values: Any, stride: int) -> Any:
    if isinstance(values, dict):
        return {key: _every(part, stride) for key, part in values.items()}
    if isinstance(values, tuple):
        return tuple(_every(part, stride) for part in values)
    return values[::stride]


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: _joined([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(_joined(list(part)) for part in zip(*parts, strict=True))
    return np.concatenate(parts)


def _no_starts(tokenizers: dict[Role, Tokenizer]) -> torch.Tensor:
    return torch.zeros(0, 1, sum(tokenizer.tokens_per_step for tokenizer in tokenizers.values()))


def _draw_starts(source: Dataset, held_out: Any, world: World, settings: TrainSettings) -> torch.Tensor:
    """(K, W, N) real steps of held-out episodes, from their beginnings and from later on."""
    window, dice = world.config.model.window, np.random.default_rng(settings.seed)
    long_enough = [index for index in held_out if len(source.episode(index).reward) >= window]
    if not long_enough:
        raise MagratheaError(f"No held-out episode has {window} steps; collect longer or more episodes.")
    used = long_enough[: settings.num_starts]
    encoded = {index: encode_episode(source.episode(index), world) for index in used}
    starts = []
    for place in range(settings.num_starts):
        tokens = encoded[long_enough[place % len(long_enough)]]
        first = 0 if place < len(long_enough) // 2 else int(dice.integers(len(tokens) - window))
        starts.append(tokens[first : first + window])
    return torch.stack(starts)


def _metadata(source: Dataset, settings: TrainSettings, out: Path) -> dict[str, Any]:
    recipe = settings.to_config()
    if settings.begin_from is not None:
        recipe["begin_from"] = Path(settings.begin_from).name
    training = {"dataset": source.env_id, "recipe": recipe}
    kept = {"held_out": settings.held_out, "split_seed": settings.seed, "dataset_id": source.fingerprint}
    names = {"name": out.name, "env_id": source.env_id}
    return json.loads(json.dumps(names | source.metadata | settings.metadata | kept | {"training": training}))


def _claim(work: Path, source: Dataset, settings: TrainSettings) -> None:
    """Refuse to go on with a training that was begun with other settings."""
    claim = {"dataset": source.fingerprint, "settings": settings.to_config()}
    file = work / "settings.json"
    if file.exists() and json.loads(file.read_text()) != json.loads(json.dumps(claim)):
        raise MagratheaError(
            f"'{work.parent}' holds a training with other settings or data; give another --out, or remove it."
        )
    if _is_first_process():
        work.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as fresh:  # another process may be reading it
            fresh.write_text(json.dumps(claim, indent=1))
    _wait_for_all()


def _is_first_process() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
