"""The command that fills holes of recorded steps: fill."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from magrathea.cli.options import DatasetFolder, Device, OptionalCount, WorldName
from magrathea.errors import MagratheaError
from magrathea.settings import Count, Seed

if TYPE_CHECKING:
    from torch import Tensor

    from magrathea.world import World

Use = Literal["imagine", "judge", "infer_actions", "inpaint", "caption", "dream_from_text"]

OF_FIRST_STEPS: tuple[Use, ...] = ("caption", "dream_from_text")  # in which a first step has holes too


def fill(
    world: WorldName,
    dataset: DatasetFolder,
    *,
    use: Use = "imagine",
    unknown: tuple[str, ...] = (),
    episode: OptionalCount = None,
    steps: Count = 32,
    seed: Seed = 0,
    out: Annotated[Path | None, arg(metavar="FILE")] = None,
    device: Device = "auto",
) -> None:
    """Fill the holes of a recorded episode's steps, and print how much of it is as it was recorded.

    Args:
        dataset: folder of a dataset of the world's environment.
        use: what is unknown: observations, rewards and endings after the model's window (imagine); rewards and endings
            (judge); actions (infer_actions); the slots of --unknown (inpaint); texts beside something else (caption);
            of the first step all of the observation but its texts (dream_from_text).
        unknown: names of slots of the observation, such as observation/mission.
        episode: number of the episode in the dataset, from 1; if not given, the first that was not trained on.
        steps: of the episode, its first ones.
        out: also write the filled steps into this file (.npz): tokens, recorded, holes, confidence.
    """
    import numpy as np
    import torch

    from magrathea.data import Dataset
    from magrathea.evaluate.recordings import unseen_episodes, world_of_dataset
    from magrathea.files import atomic_write
    from magrathea.world import World

    source = Dataset.open(dataset)
    loaded = World.from_pretrained(world_of_dataset(world, source), device=device)
    unseen = unseen_episodes(loaded, source)  # refuses another environment's dataset
    number = unseen[0] if episode is None else episode - 1
    if number >= len(source):
        raise MagratheaError(f"Dataset '{dataset}' has {len(source)} episodes; give --episode from 1 to {len(source)}.")
    played = source.episode(number).first(steps - 1 if steps > 1 else 1)
    recorded = loaded.encode_episode(played.observation, played.action, played.reward, played.terminated)
    hole_mask = _hole_mask(loaded, use, unknown)
    if use == "dream_from_text":
        recorded = recorded[:1]
    holes = torch.zeros(recorded.shape, dtype=torch.bool)
    first = min(loaded.config.model.window, len(recorded) - 1) if use == "imagine" else int(use not in OF_FIRST_STEPS)
    holes[first:] = hole_mask
    filled = loaded.fill(recorded[None], holes[None], seed=seed)
    print(f"Episode {number + 1}, {len(recorded)} steps, {int(holes.any(-1).sum())} of them with holes ({use})")
    for line in _lines(loaded, recorded, filled.tokens[0], holes):
        print(line)
    if out is not None:
        parts = {"tokens": filled.tokens[0], "recorded": recorded, "holes": holes, "confidence": filled.confidence[0]}
        with atomic_write(out) as fresh, fresh.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **{name: part.numpy() for name, part in parts.items()})
        print(f"The filled steps are in {out}")


def _hole_mask(world: World, use: Use, unknown: tuple[str, ...]) -> Tensor:
    """(N,) what is unknown in a step."""
    from magrathea import masks, uses

    if (use == "inpaint") != bool(unknown):
        raise MagratheaError("--unknown names what 'inpaint' fills: give it with '--use inpaint', and only there.")
    if use == "inpaint":
        return uses.slot_holes(world.layout, unknown)
    if use == "caption":
        return uses.slot_holes(world.layout, uses.text_slots(world))
    if use == "dream_from_text":
        return uses.all_but_texts(world)
    return {"imagine": masks.forward_dynamics, "judge": masks.judge, "infer_actions": masks.inverse_dynamics}[use](
        world.layout
    )


def _lines(world: World, recorded: Tensor, filled: Tensor, holes: Tensor) -> list[str]:
    """For each slot with holes the share of tokens and of steps that are as recorded."""
    lines = []
    for slot in world.layout.token_slots:
        span = world.layout.span(slot.name)
        inside = holes[:, span] & (recorded[:, span] != slot.absent)
        if inside.any():
            right = (recorded[:, span] == filled[:, span])[inside].float().mean()
            steps = inside.any(-1)
            whole = (recorded[:, span] == filled[:, span])[steps].all(-1).float().mean()
            lines.append(
                f"{slot.name}: {right:.1%} of {int(inside.sum())} tokens and {whole:.1%} of {int(steps.sum())} steps "
                "are as recorded"
            )
    return lines
