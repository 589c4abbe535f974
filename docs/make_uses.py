"""Draws the pictures of docs/uses.md and prints how often each use is right, on episodes that were never recorded:
python docs/make_uses.py [WORLD]"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import shapes  # noqa: E402  (it registers the environment)

from magrathea import World, uses  # noqa: E402
from magrathea.data import Episode  # noqa: E402

FOLDER, WORLD = ROOT / "docs" / "uses", ROOT / "examples" / "shapes-world"
NUM_EPISODES, NUM_SHOWN, FIRST_SEED = 40, 6, 1_000_000
SCALE, GAP, LINE, LABEL = 6, 12, 18, 90
ACTIONS = shapes.Shapes.metadata["action_names"]
Tile = tuple[np.ndarray, str]  # a picture and what is written below it


def play(seed: int) -> Episode:
    """An episode of random actions."""
    env, rng = gymnasium.make("Shapes-v0"), np.random.default_rng(seed)
    seen, played, over = [env.reset(seed=seed)[0]], [], False
    while not over:
        action = int(rng.integers(len(ACTIONS)))
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        played.append((action, reward, terminated, truncated))
        over = terminated or truncated
    action, reward, terminated, truncated = (np.array(part) for part in zip(*played, strict=True))
    pictures, texts = (np.stack([one[name] for one in seen]) for name in ("picture", "text"))
    observation = {"picture": pictures, "text": texts.astype(object)}
    return Episode(observation, action, reward.astype(np.float32), terminated, truncated)


def draw(name: str, rows: Sequence[tuple[str, Sequence[Tile]]]) -> None:
    """Rows of pictures, each with a label at its left, as a PNG file."""
    font, side = ImageFont.load_default(size=13), shapes.SIZE * shapes.PIXELS * SCALE
    width = LABEL + max(len(tiles) for _, tiles in rows) * (side + GAP)
    sheet = Image.new("RGB", (width, len(rows) * (side + LINE + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (label, tiles) in enumerate(rows):
        top = row * (side + LINE + GAP) + GAP // 2
        pen.text((4, top + side // 2), label, "black", font, anchor="lm")
        for column, (picture, text) in enumerate(tiles):
            left = LABEL + column * (side + GAP)
            sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (left, top))
            pen.rectangle((left, top, left + side - 1, top + side - 1), outline=(190, 190, 190))
            pen.text((left + side // 2, top + side + 3), text, "black", font, anchor="ma")
    sheet.quantize(64).save(FOLDER / f"{name}.png", optimize=True)


def share(name: str, right: Sequence[bool]) -> float:
    """The share that is right, which is printed."""
    print(f"{name}: {np.mean(right):.1%} of {len(right)} are right", flush=True)
    return float(np.mean(right))


def steps_of(world: World, episode: Episode) -> Any:
    return world.encode_episode(episode.observation, episode.action, episode.reward, episode.terminated)


def observation_at(episode: Episode, index: int) -> dict[str, Any]:
    return {name: part[index] for name, part in episode.observation.items()}


def show_imagine(world: World, episodes: Sequence[Episode]) -> float:
    right, shown = [], None
    for episode in episodes:
        seen, actions = episode.observation, episode.action[:8]
        imagined = uses.imagine(world, steps_of(world, episode)[:1], actions)
        pictures, texts = (imagined.observation[name] for name in ("picture", "text"))
        right += [
            np.array_equal(picture, seen["picture"][step]) and text == seen["text"][step]
            for step, (picture, text) in enumerate(zip(pictures, texts, strict=True), start=1)
        ]
        if shown is None and len(actions) >= NUM_SHOWN and episode.reward[: NUM_SHOWN - 1].any():
            said = ["start", *(ACTIONS[action] for action in actions)]
            real = list(zip(seen["picture"], said, strict=False))[:NUM_SHOWN]
            dreamt = [real[0], *zip(pictures, texts, strict=True)][:NUM_SHOWN]
            shown = [("real", real), ("imagined", [(picture, str(text)) for picture, text in dreamt])]
    draw("imagine", shown or [])
    return share("imagine, pictures and texts of 8 steps", right)


def show_judge(world: World, episodes: Sequence[Episode]) -> float:
    right, shown = [], None
    for episode in episodes:
        reward, terminated = uses.judge(world, steps_of(world, episode))
        right += ((reward == episode.reward) & (terminated == episode.terminated)).tolist()
        if shown is None and len(reward) >= NUM_SHOWN and terminated[-1]:
            said = [
                f"{value:+.0f}, end" if end else f"{value:+.0f}" for value, end in zip(reward, terminated, strict=True)
            ]
            tiles = list(zip(episode.observation["picture"][1:], said, strict=True))[-NUM_SHOWN:]
            shown = [("judged", tiles)]
    draw("judge", shown or [])
    return share("judge, rewards and endings", right)


def show_infer_actions(world: World, episodes: Sequence[Episode]) -> float:
    right, shown = [], None
    for episode in episodes:
        inferred = uses.infer_actions(world, episode.observation)
        right += (inferred == episode.action).tolist()
        if shown is None and len(inferred) >= NUM_SHOWN:
            said = ["", *(ACTIONS[action] for action in inferred)]
            shown = [("inferred", list(zip(episode.observation["picture"], said, strict=True))[:NUM_SHOWN])]
    draw("infer_actions", shown or [])
    return share("infer_actions", right)


def show_inpaint(world: World, episodes: Sequence[Episode]) -> float:
    """Of a first observation the text and the first row of the picture are known."""
    unknown = uses.slot_holes(world.layout, "observation/picture")
    start = world.layout.span("observation/picture").start
    unknown[start : start + shapes.SIZE] = False
    right, given, painted = [], [], []
    for seed, episode in enumerate(episodes):
        real = observation_at(episode, 0)
        picture = uses.inpaint(world, steps_of(world, episode)[:1], unknown, seed=seed)["picture"]
        right.append(shapes.describe(picture) == real["text"])
        hidden = real["picture"].copy()
        hidden[shapes.PIXELS :] = 170
        given.append((hidden, real["text"]))
        painted.append((picture, shapes.describe(picture)))
    draw("inpaint", [("known", given[:NUM_SHOWN]), ("inpainted", painted[:NUM_SHOWN])])
    return share("inpaint, two thirds of a picture to a text", right)


def show_caption(world: World, episodes: Sequence[Episode]) -> float:
    right, shown = [], []
    for episode in episodes:
        real = observation_at(episode, 0)
        text = uses.caption(world, real)["text"]
        right.append(text == real["text"])
        shown.append((real["picture"], str(text)))
    draw("caption", [("captions", shown[:NUM_SHOWN])])
    return share("caption", right)


def show_dream_from_text(world: World, episodes: Sequence[Episode]) -> float:
    right, rows = [], []
    for episode in episodes:
        text = str(episode.observation["text"][0])
        pictures = world.decode_observation(uses.dream_from_text(world, text, num=NUM_SHOWN)[:, 0])["picture"]
        right += [shapes.describe(picture) == text for picture in pictures]
        rows.append((text.replace(", ", ",\n"), [(picture, "") for picture in pictures]))
    draw("dream_from_text", rows[:3])
    return share("dream_from_text", right)


SHOW = {
    "imagine": show_imagine,
    "judge": show_judge,
    "infer_actions": show_infer_actions,
    "inpaint": show_inpaint,
    "caption": show_caption,
    "dream_from_text": show_dream_from_text,
}


def main(world: str | Path = WORLD) -> None:
    loaded, episodes = World.from_pretrained(world), [play(FIRST_SEED + index) for index in range(NUM_EPISODES)]
    for show in SHOW.values():
        show(loaded, episodes)


if __name__ == "__main__":
    main(*sys.argv[1:])
