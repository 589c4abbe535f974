"""Whether the texts of an adventure agree with what happened before and with the game that they tell of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from textworld.generator.game import Game

CARRIED, ANSWERS = "things taken or dropped, in the inventory", "answers that name the command's thing"
ROOMS, EXITS, WAYS = "rooms that exist", "exits that exist", "rooms after `go`, by the map"
NAMES = (CARRIED, ANSWERS, ROOMS, EXITS, WAYS)

_HEADING = re.compile(r"-= (.+?) =-")
_EXIT = re.compile(r"\b(?:exit to the|going|leading) (north|south|east|west)\b")
_INVENTORY = re.compile(r"^You are carrying(?:: (.+?)\.| nothing)", re.MULTILINE)
_ANSWER = re.compile(
    r"^You (take|pick up|drop|put|eat|drink|open|close|lock|unlock|slice|dice|chop) (?:the )?"
    r"(.+?)(?: (?:from|on|into|with)\b|,|\.|!|$)",
    re.MULTILINE,
)
_OBJECT = re.compile(r"^(?:take|drop|put|insert|eat|drink|open|close|lock|unlock|slice|dice|chop) (.+)$")
_PREPOSITION = re.compile(r" (?:from|on|into|with) ")
_TAKEN, _LOST = ("take", "pick up"), ("drop", "put", "eat", "drink")


def text_checks(env: Any, texts: Sequence[str], commands: Sequence[str]) -> dict[str, np.ndarray]:
    """Compare what texts say with the log of what they said before, and with the real game.

    Args:
        env: the environment, reset to the game.
        texts, commands: T + 1 texts of an episode from its beginning, and the T commands between them.

    Returns:
        By the name of a check (T, 2): how many statements of a step's text are right, and how many there are. Things
        whose taking or dropping was told are in the inventory or not; what a command names is what the answer names;
        rooms and their exits are the game's; and "go east" leads to the room that lies there.
    """
    found = {name: np.zeros((len(commands), 2)) for name in NAMES}
    exits = _exits(env.unwrapped.game_file)
    carried: dict[str, bool] = {}
    room = _room(texts[0])
    for step, (command, text) in enumerate(zip(commands, texts[1:], strict=True)):
        entered = _room(text)
        for name, right in _statements(command, text, room, entered, carried, exits):
            found[name][step] += right, 1
        room = entered or room
        if "Adding the meal" in text:  # what it is made of is gone
            carried.clear()
        for verb, thing in _ANSWER.findall(text):
            if verb in _TAKEN + _LOST:
                carried[thing] = verb in _TAKEN
    return found


def _statements(
    command: str, text: str, room: str, entered: str, carried: dict[str, bool], exits: dict[str, dict[str, str]]
) -> Iterator[tuple[str, bool]]:
    """(check, whether it is right) of all that a text says after a command in a room."""
    listed = _INVENTORY.search(text)
    if listed:
        things = _things(listed[1] or "")
        for thing, held in carried.items():
            yield CARRIED, held == any(each.endswith(thing) for each in things)
    named, answer = _OBJECT.match(command), _ANSWER.search(text)
    if named and answer:
        yield ANSWERS, answer[2] == _PREPOSITION.split(named[1])[0]
    if entered:
        yield ROOMS, entered in exits
        for direction in set(_EXIT.findall(text)):
            yield EXITS, direction in exits.get(entered, {})
        way = command.removeprefix("go ")
        if way in exits.get(room, {}):
            yield WAYS, exits[room][way] == entered


def _room(text: str) -> str:
    """The name of the room that a text describes, "" where it describes none."""
    heading = _HEADING.search(text)
    return heading[1].lower() if heading else ""


def _things(listed: str) -> list[str]:
    """What is carried, without articles: "a key, an egg and some milk" -> ["key", "egg", "milk"]."""
    return [re.sub("^(?:a|an|the|some) ", "", each.strip()) for each in re.split(r", and |, | and ", listed)]


def _exits(game_file: Any) -> dict[str, dict[str, str]]:
    """The rooms of a game: by name, direction -> name of the room that lies there, behind a door or not."""
    game = Game.load(str(game_file.with_suffix(".json")))

    def name(room: Any) -> str:
        return str(game.infos[room.id].name).lower()

    return {name(room): {way: name(other) for way, other in room.exits.items()} for room in game.world.rooms}
