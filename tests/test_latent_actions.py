"""Codes for how pictures move, as actions of recordings that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from recorded_videos import frames, write_video

from magrathea.cli.main import main
from magrathea.data import Dataset, import_folder, latent_model
from magrathea.data.foreign import ImportOptions
from magrathea.data.latent_actions import changed_share, motion_features, named_codes, reach_of
from magrathea.data.latent_model import InverseModel, Steps, learn_codes, merged
from magrathea.errors import MagratheaError
from magrathea.evaluate.latent_actions import best_map
from magrathea.server.action_inputs import ActionInputs

MOVES = {"noop": (0, 0), "up": (-3, 0), "down": (3, 0), "left": (0, -3), "right": (0, 3)}


def sprite(num_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T + 1, 48, 48, 3) of a square that takes random moves, each held for some steps, and those moves (T,)."""
    rng = np.random.default_rng(seed)
    place, actions, pictures = np.array([20, 20]), [], []
    held = left = 0
    for step in range(num_steps + 1):
        picture = np.full((48, 48, 3), (20, 24, 40), np.uint8)
        picture[::12] = (30, 36, 56)
        picture[place[0] : place[0] + 7, place[1] : place[1] + 7] = (80, 200, 250)
        pictures.append(picture)
        if step < num_steps:
            if not left:
                held, left = int(rng.integers(5)), int(rng.integers(1, 6))
            left -= 1
            moved = np.clip(place + list(MOVES.values())[held], 0, 41)
            actions.append(held if (moved != place).any() else 0)  # at an edge it stands still
            place = moved
    return np.stack(pictures), np.array(actions)


def camera(num_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of a view that moves over a ground of random tiles; the ground moves the other way."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (60, 60, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    place, actions, pictures = np.array([90, 90]), [], []
    for step in range(num_steps + 1):
        pictures.append(ground[place[0] : place[0] + 48, place[1] : place[1] + 48].copy())
        if step < num_steps:
            action = int(rng.integers(5))
            moved = np.clip(place + list(MOVES.values())[action], 0, 190)
            actions.append(action if (moved != place).any() else 0)
            place = moved
    return np.stack(pictures), np.array(actions)


def two_squares(num_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same as `sprite` beside another square that bounces by itself, which is larger."""
    pictures, actions = sprite(num_steps, seed)
    rng = np.random.default_rng(100 + seed)
    place, velocity = rng.integers(0, 38, 2), np.array([(2, 1), (1, 2), (2, -1)])[seed % 3]
    for picture in pictures:
        picture[place[0] : place[0] + 10, place[1] : place[1] + 10] = (230, 80, 60)
        velocity = np.where((place + velocity < 0) | (place + velocity > 38), -velocity, velocity)
        place = place + velocity
    return pictures, actions


def share_told(codes: np.ndarray, actions: np.ndarray) -> float:
    """The share of steps whose code says the action, after the best one-to-one map."""
    counts = np.array([[((codes == code) & (actions == action)).sum() for action in range(5)] for code in range(8)])
    return best_map(counts) / len(codes)


@pytest.mark.slow
def test_codes_are_the_hidden_actions_beside_what_moves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {"PRIOR_UPDATES": 400, "PRIOR_PASSES": 15, "CODE_UPDATES": 350, "INVERSE_UPDATES": 150}
    for name, num in fewer.items():
        monkeypatch.setattr(latent_model, name, num)
    recorded = [two_squares(150, seed) for seed in range(12)]
    episodes, actions = [pictures for pictures, _ in recorded], np.concatenate([each for _, each in recorded])
    steps = Steps(episodes)
    assert share_told(learn_codes(episodes, 8, lambda done: None).codes(steps).numpy(), actions) > 0.85
    assert share_told(InverseModel(3, 8).codes(steps).numpy(), actions) < 0.6  # which is not trained


def test_codes_of_one_effect_are_merged() -> None:
    codes = torch.tensor([0, 0, 1, 1, 2, 2])
    losses = torch.tensor(
        [[0.0, 0.1, 9.0], [0.0, 0.1, 9.0], [0.1, 0.0, 9.0], [0.1, 0.0, 9.0], [9.0, 9.0, 0.0], [9, 9, 0]]
    )
    groups = merged(codes, losses)
    assert groups[0] == groups[1] != groups[2] and max(groups) == 1
    assert len({*merged(codes, 9.0 * (1 - torch.eye(3)[codes]))}) == 3


@pytest.mark.parametrize(("make", "verb"), [(sprite, "move"), (camera, "look")])
def test_codes_are_named_by_what_they_move(make: object, verb: str) -> None:
    recorded = [make(150, seed) for seed in range(4)]  # type: ignore[operator]
    features = np.concatenate([motion_features(pictures) for pictures, _ in recorded])
    shares = np.concatenate([changed_share(pictures) for pictures, _ in recorded])
    actions = np.concatenate([each for _, each in recorded])
    places, names = named_codes(actions, features, shares)
    assert names[0] == "noop" and places[0] == 0
    assert [names[place] for place in places[1:]] == [f"{verb} {way}" for way in ("up", "down", "left", "right")]


def test_features_are_largest_at_the_offset_of_what_moves() -> None:
    pictures, reach = np.stack(frames(20, 64, 80)), reach_of(64, 80)
    features = motion_features(pictures).reshape(19, 2 * reach + 1, 2 * reach + 1)
    for step in range(19):
        found = np.array(np.unravel_index(features[step].argmax(), features[step].shape)) - reach
        assert np.abs(found).tolist() == [1, 2]
    assert not motion_features(np.zeros((3, 32, 32, 3), np.uint8)).any()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(6):
        write_video(folder / f"{seed}.mp4", list(sprite(70, seed)[0]))
    return folder


class ExactModel:
    """Says where the sprite went, in the place of a model that is learned."""

    def codes(self, steps: Steps) -> torch.Tensor:
        found = []
        for frame in steps.now.tolist():
            before, after = (torch.argwhere(steps.frames[frame + later, 2] > 180).float().mean(0) for later in (0, 1))
            found.append(list(MOVES.values()).index(tuple(((after - before) / 3).round().int().mul(3).tolist())))
        return torch.tensor(found)


def test_videos_get_actions_that_have_keys(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latent_model, "learn_codes", lambda episodes, num_codes, report: ExactModel())
    assert main(["import", str(clips), "--out", str(tmp_path / "data"), "--actions", "5"]) == 0
    assert "actions that were found: noop, " in capsys.readouterr().err
    dataset = Dataset.open(tmp_path / "data")
    names = dataset.metadata["action_names"]
    assert dataset.action_space == spaces.Discrete(len(names)) and names[0] == "noop"
    inputs = ActionInputs(dataset.action_space, dataset.metadata)
    keys = {key: names[button.index] for button in inputs.buttons_info() for key in button.keys}
    assert inputs.has_noop and {key: keys[key] for key in ("ArrowUp", "ArrowLeft")} == {
        "ArrowUp": "move up",
        "ArrowLeft": "move left",
    }
    right, total = 0, 0
    for index in range(len(dataset)):
        episode = dataset.episode(index)
        for step, action in enumerate(episode.action):
            before, after = (np.argwhere(each[..., 2] > 180).mean(0) for each in episode.observation[step : step + 2])
            way = np.round((after - before) / 3).astype(int) * 3
            expected = next(name for name, move in MOVES.items() if tuple(way) == move)
            right, total = right + (names[action].rpartition(" ")[2] == expected), total + 1
    assert right / total > 0.95
    with pytest.raises(MagratheaError, match="other settings"):
        import_folder(clips, tmp_path / "data")


def test_codes_are_refused_where_there_are_actions(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(4):
        pictures, actions = sprite(20, index)
        np.savez(tmp_path / "in" / f"{index}.npz", image=pictures, action=actions)
    with pytest.raises(MagratheaError, match="has actions of its own"):
        import_folder(tmp_path / "in", tmp_path / "out", ImportOptions(actions=4))
    for path in (tmp_path / "in").iterdir():
        np.savez(path, state=np.zeros((20, 3)))
    with pytest.raises(MagratheaError, match="no pictures"):
        import_folder(tmp_path / "in", tmp_path / "out", ImportOptions(actions=4))


def test_training_refuses_codes_for_a_dataset(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_folder(clips, tmp_path / "data")
    assert main(["train", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--actions", "4"]) == 2
    assert "is for folders of videos" in capsys.readouterr().err


WORDS = {"noop": "wait", "up": "jump", "down": "duck", "left": "go left", "right": "go right"}


def write_labels(path: Path, every: int = 40) -> Path:
    """The real actions of every so many frames of the clips, under names of their own."""
    rows = ["file,seconds,action"]
    for seed in range(6):
        actions = sprite(70, seed)[1]
        rows += [f"{seed}.mp4,{step / 10},{WORDS[list(MOVES)[actions[step]]]}" for step in range(seed, 70, every)]
    path.write_text("\n".join(rows))
    return path


def test_the_actions_of_a_few_labels_are_found_in_every_step(clips: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.csv", every=10)
    assert main(["import", str(clips), "--out", str(tmp_path / "data"), "--labels", str(labels)]) == 0
    dataset = Dataset.open(tmp_path / "data")
    names = dataset.metadata["action_names"]
    assert "actions that were inferred" in dataset.metadata["description"]
    assert {*names} == {*WORDS.values()} and dataset.action_space == spaces.Discrete(len(names))
    right, total = 0, 0
    for index in range(len(dataset)):
        episode = dataset.episode(index)
        seed = int(episode.infos["clip"][0])
        begin = round(float(episode.infos["seconds"][0]) * 10)
        real = [WORDS[list(MOVES)[action]] for action in sprite(70, seed)[1][begin : begin + len(episode)]]
        right += sum(names[action] == name for action, name in zip(episode.action, real, strict=True))
        total += len(episode)
    assert total == 6 * 70 and right / total > 0.9


BAD_LABELS = {
    "no columns": ("a,b\n1,2", "with the columns file, seconds and action"),
    "no number": ("file,seconds,action\n0.mp4,soon,up", "with the columns"),
    "no rows": ("file,seconds,action", "hold no rows"),
    "another file": ("file,seconds,action\nx.mp4,1,up", "name 'x.mp4', and there are 0.mp4"),
    "too late": ("file,seconds,action\n0.mp4,999,up", "of no moment that is there"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused_in_a_line(
    case: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = BAD_LABELS[case]
    (tmp_path / "labels.csv").write_text(text)
    options = ["--out", str(tmp_path / "data"), "--labels", str(tmp_path / "labels.csv")]
    assert main(["import", str(clips), *options]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "data" / "data").exists()
    assert main(["import", str(clips), *options, "--actions", "5"]) == 2
    assert "leave out --actions, or --labels" in capsys.readouterr().err
