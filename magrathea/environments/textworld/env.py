"""TextWorld as a Gymnasium environment: each seed is a game of its own, generated when it is played first, or one of
the user's files (Côté et al. 2018, arXiv 1806.11532)."""

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

from magrathea.errors import FOREIGN_ERRORS, MagratheaError, Terminated, one_line
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
        games: a game that `tw-make` has written (FILE.z8, beside FILE.json), or a folder of such games, in place of
            generated ones, to which the other arguments belong; the seed chooses among them.

    Attributes:
        commands: those that do something now, as the game says.
        game_file: of the game that was reset to, None before.

    Raises:
        MagratheaError: for arguments out of range, and for games that are missing or cannot be read.
    """

    metadata = {"render_modes": [], "render_fps": 2}

    def __init__(
        self,
        rooms: int = 4,
        objects: int = 6,
        quest_length: int = 3,
        num_games: int | None = None,
        theme: str = "house",
        games: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        for name, value, most in (("rooms", rooms, 50), ("objects", objects, 100), ("quest_length", quest_length, 20)):
            check_value(name, value, Annotated[int, Range(1, most)])
        check_value("num_games", 1 if num_games is None else num_games, Annotated[int, Range(1, MAX_SEED)])
        if theme not in ("house", "basic"):
            raise MagratheaError(f"theme is {theme!r}; choose 'house' or 'basic'.")
        self._options, self._num_games = (rooms, objects, quest_length, theme), num_games
        self._files = [] if games is None else game_files(games)
        self.observation_space = spaces.Text(MAX_TEXT, charset=LETTERS)
        self.action_space = spaces.Text(MAX_COMMAND, charset=LETTERS)
        self.commands: list[str] = []
        self._game: Any = None
        self.game_file: Path | None = None
        self._score = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        number = int(self.np_random.integers(MAX_SEED)) if seed is None else seed
        if self._files:
            path = self._files[number % len(self._files)]
        else:
            path = generated_game(number if self._num_games is None else number % self._num_games, *self._options)
        if path != self.game_file:
            self.close()
            self._game, self.game_file = started(path), path
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
            self._game = self.game_file = None


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


def game_files(games: str) -> list[Path]:
    """The game that a path names, or those in a folder; raises MagratheaError where one is missing or incomplete."""
    path = Path(games).expanduser()
    found = sorted(path.rglob("*.z8")) if path.is_dir() else [path]
    how = "'tw-make custom --output FILE.z8' makes a game"
    if not found:
        raise MagratheaError(f"Folder '{path}' has no games, whose names end with .z8; {how}.")
    for file in found:
        if not file.is_file():
            raise MagratheaError(f"There is no game '{file}' here ({Path.cwd()}); {how}.")
        if file.suffix != ".z8" or not file.with_suffix(".json").is_file():
            raise MagratheaError(
                f"Game '{file}' has no file '{file.stem}.json' beside it, which says what can be done in it; tw-make "
                "writes both, so give FILE.z8 and keep its FILE.json in the same folder."
            )
    return found


def started(path: Path) -> Any:
    """A running game of a file; raises MagratheaError for one that cannot be read."""
    _check_is_whole(path)  # the interpreter ends the process at a game that is not
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jericho's, that it does not know the score of a generated game
            return start(str(path), INFOS)
    except Terminated:
        raise
    except FOREIGN_ERRORS as error:
        raise MagratheaError(
            f"Game '{path}' cannot be read ({one_line(error, 200).rstrip('.')}); make it again with tw-make."
        ) from error


def _check_is_whole(path: Path) -> None:
    """Compare a game with the length and checksum in its header (Z-Machine Standards Document 1.1, section 11)."""
    story = path.read_bytes()
    length = 8 * int.from_bytes(story[26:28])
    if not 64 < length <= len(story) or sum(story[64:length]) % 65536 != int.from_bytes(story[28:30]):
        raise MagratheaError(f"Game '{path}' is damaged, or no game of the Z-machine; make it again with tw-make.")


def generated_game(number: int, rooms: int, objects: int, quest_length: int, theme: str) -> Path:
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
