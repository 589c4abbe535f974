"""The report of a training: progress bars, TensorBoard, and how well the tokenizers reconstruct."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optree
from torch.utils.tensorboard import SummaryWriter

from magrathea.data import Dataset
from magrathea.progress import Stages
from magrathea.sounds import Sound
from magrathea.tokenizers import reconstruction_report, sound_report
from magrathea.train import distributed
from magrathea.train.trainer import Progress
from magrathea.world import World


class TrainReport:
    """Progress of a training, shown (in a display of its own, if none is given) and logged by the first process
    only."""

    def __init__(self, work: Path, stages: Stages | None = None) -> None:
        quiet = not distributed.is_first()
        self._has_own_stages = stages is None
        self.stages = Stages(quiet) if stages is None else stages
        self.writer = None if quiet else SummaryWriter(str(work / "tensorboard"))

    def update(self, progress: Progress) -> None:
        """Show and log the progress after an update of the model."""
        if self.writer is None:
            return
        rate = progress.num_trained_steps / max(progress.seconds, 1e-9)
        text = f"update {progress.step}, loss {progress.loss:.3f}, {rate:.0f} steps/s"
        self.stages.update(progress.fraction, text)
        if progress.step % 10 == 0:
            self.writer.add_scalar("loss", progress.loss, progress.step)
            self.writer.add_scalar("steps_per_second", rate, progress.step)

    def tokenizers(self, world: World, source: Dataset, episodes: Any) -> dict[str, Any]:
        """Reconstruction of the first of some episodes: for each image slot PSNR in dB and the codebook's usage, for
        each of sounds SI-SDR and mel distance, for each of texts the share that is exact."""
        observations = source.episode(episodes[0]).observation
        result = {}
        leaves = world.tokenizers["observation"].leaves
        for (key, leaf), leaf_values in zip(leaves.items(), optree.tree_leaves(observations), strict=True):
            values = np.asarray(leaf_values)
            if isinstance(leaf.space, Sound):
                result[key or "observation"] = sound_report(leaf, values[:2000])
            elif values.dtype == np.uint8 and values.ndim == 4:
                result[key or "observation"] = reconstruction_report(leaf, values[:2000])
            elif values.dtype == object:
                result[key or "observation"] = {
                    "exact": round(float((leaf.decode(leaf.encode(values)) == values).mean()), 4)
                }
        return result

    def close(self) -> None:
        if self._has_own_stages:
            self.stages.close()
        if self.writer is not None:
            self.writer.close()
