"""TextWorld as a Gymnasium environment: each seed is a game of its own, generated when it is played first (Côté et al.
2018, arXiv 1806.11532)."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import gymnasium
from gymnasium import spaces
from platformdirs import user_cache_path
from textworld.core import EnvInfos
from textworld.generator import GameOptions, compile_game, make_game
from textworld.helpers import start
from textworld.version import __version__

from magrathea.errors import MagratheaError
from magrathea.settings import Range, check_value

LETTERS = "".join(map(chr, range(32, 127))) + "\n"
MAX_TEXT, MAX_COMMAND = 2000, 100  # characters
MAX_SEED = 2**31 - 1
INTERPRETER = {  # words of commands that are not the game's
    "q", "quit", "save", "restore", "restart", "undo", "script", "transcript", "notranscript", "unscript", "verify",
    "version", "recording", "replay", "oops", "again", "g", "then", "tw-trace-actions", "tw-extra-infos", "tw-print",
}  # fmt: skip
INFOS = EnvInfos(description=True, admissible_commands=True, score=True, won=True, lost=True)


class TextWorld(gymnasium.Env):
    """A text adventure in a house: walk through its rooms, open, take, put and lock things by writing commands.

    Observation: what the game answers, such as a room's description. Action: a command, such as "open the fridge". A
    step's reward is the change of the score; an episode ends when the quest is done or can be done no more.

    Args:
        rooms, objects, quest_length: of each game.
        num_games: seeds are taken modulo this number; each is another game, if not given.
        theme: vocabulary of the games, "house" or "basic".

    Attributes:
        commands: those that do something now, as the game says.
    """

    metadata = {"render_modes": [], "render_fps": 2}

    def __init__(
        self,
        rooms: int = 4,
        objects: int = 6,
        quest_length: int = 3,
        num_games: int | None = None,
        theme: str = "house",
        render_mode: str | None = None,
    ) -> None:
        for name, value, most in (("rooms", rooms, 50), ("objects", objects, 100), ("quest_length", quest_length, 20)):
            check_value(name, value, Annotated[int, Range(1, most)])
        check_value("num_games", 1 if num_games is None else num_games, Annotated[int, Range(1, MAX_SEED)])
        if theme not in ("house", "basic"):
            raise MagratheaError(f"theme is {theme!r}; choose 'house' or 'basic'.")
        self._options, self._num_games = (rooms, objects, quest_length, theme), num_games
        self.observation_space = spaces.Text(MAX_TEXT, charset=LETTERS)
        self.action_space = spaces.Text(MAX_COMMAND, charset=LETTERS)
        self.commands: list[str] = []
        self._game: Any = None
        self._path: Path | None = None
        self._score = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
        path = game_file(number if self._num_games is None else number % self._num_games, *self._options)
        if path != self._path:
            self.close()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # jericho's, that it does not know the score of a generated game
                self._game, self._path = start(str(path), INFOS), path
        state = self._game.reset()
        self.commands, self._score = list(state.admissible_commands), 0
        return tidy(state.description), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        state, score, _ = self._game.step(safe_command(action))
        reward, self._score = score - self._score, score
        self.commands = list(state.admissible_commands)
        return tidy(state.feedback), float(reward), bool(state.won or state.lost), False, {}

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = self._path = None


def safe_command(text: str) -> str:
    """A command to the game: one alone, which is none to its interpreter ("\\q", "save")."""
    words = re.sub("[^A-Za-z0-9 '-]", " ", text).split()
    command = " ".join(words) or "wait"
    return f"cannot {command}" if INTERPRETER & {word.lower() for word in words} else command


def tidy(text: str) -> str:
    """A text of a game without its prompt and status line, empty lines, and characters that it never means."""
    lines = [line.strip() for line in text.split("\n>")[0].splitlines()]
    kept = "\n".join(re.sub(" +", " ", line) for line in lines if line)
    return "".join(letter for letter in kept if letter in LETTERS)[:MAX_TEXT] or "..."


def game_file(number: int, rooms: int, objects: int, quest_length: int, theme: str) -> Path:
    """The file of a game, generated and kept in the user's cache when it is asked for first."""
    named = f"{__version__}/{number}/{rooms}/{objects}/{quest_length}/{theme}"
    path = user_cache_path("magrathea") / "textworld" / f"{hashlib.sha256(named.encode()).hexdigest()[:24]}.z8"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            options = GameOptions()
            options.seeds, options.path = number, str(Path(folder) / path.name)
            options.nb_rooms, options.nb_objects, options.quest_length = rooms, objects, quest_length
            options.grammar.theme = theme
            compile_game(make_game(options), options)
            for suffix in (".json", ".z8"):  # the one that tells that it is whole comes last
                os.replace(Path(folder) / path.with_suffix(suffix).name, path.with_suffix(suffix))
    return path
