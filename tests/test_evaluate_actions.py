"""The measure of inferred actions: which are visible, and how many are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from magrathea.bench.sprite_game import MOVES
from magrathea.cli.main import main
from magrathea.data import collect
from magrathea.data.latent_model import Steps
from magrathea.evaluate import latent_actions
from magrathea.evaluate.latent_actions import best_map, evaluate_actions

GAME = "magrathea.bench.sprite_game:magrathea/SpriteGame-v0"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("actions") / "game"
    collect(GAME, 400, folder, num_processes=1)
    return folder


class PlayerModel:
    """Says how the player moved, or with `is_blind` a code of its own choice."""

    def __init__(self, is_blind: bool) -> None:
        self.is_blind = is_blind

    def codes(self, steps: Steps) -> torch.Tensor:
        if self.is_blind:
            return torch.arange(len(steps)) % len(MOVES)
        is_player = (steps.frames[:, 0] == 80) & (steps.frames[:, 2] == 250)
        found = []
        for now in steps.now.tolist():
            before, after = (np.argwhere(is_player[now + later].numpy()) for later in (0, 1))
            moved = after.min(0) - before.min(0) if len(before) == len(after) else np.array((0, 0))
            found.append(int(np.abs(MOVES - moved).sum(axis=1).argmin()))
        return torch.tensor(found)


@pytest.mark.parametrize("is_blind", [False, True])
def test_actions_that_lead_to_the_same_picture_are_one(
    is_blind: bool, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_actions, "learn_codes", lambda *args: PlayerModel(is_blind))
    what, (result,) = evaluate_actions(recording, 5, (), 100)
    assert "visible of" in what
    assert result.right < 0.6 if is_blind else result.right > 0.9


def test_the_command_prints_and_writes_its_figures(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latent_actions, "learn_codes", lambda *args: PlayerModel(False))
    options = ["--num-steps", "20", "--labels", "0.05", "--env-id", GAME, "--out", str(tmp_path / "out")]
    monkeypatch.setattr("magrathea.data.latent_model.LABEL_UPDATES", 2)
    assert main(["eval", "actions", str(recording), *options]) == 0
    printed = capsys.readouterr().out
    assert "codes from frames alone" in printed and "labels for 5.0%" in printed
    assert (tmp_path / "out" / "actions.json").exists()


def test_the_best_map_gives_no_two_codes_one_action() -> None:
    assert best_map(np.array([[9, 8], [9, 1]])) == 17
    assert best_map(np.array([[9, 0], [9, 0]])) == 9
    assert best_map(np.array([[5], [7], [1]])) == 7
