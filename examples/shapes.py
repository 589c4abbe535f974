"""A small environment with a text beside a picture: an arrow goes about coloured shapes, and the text says which there
are. `describe` reads the same from any picture, so that what a world writes and paints can be checked."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE, PIXELS = 3, 8  # cells of a side, pixels of a cell
COLOURS = {"red": (220, 60, 50), "green": (60, 170, 80), "blue": (60, 100, 220)}
GROUND, ARROW = (245, 245, 240), (40, 40, 50)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
NOTHING = "nothing"


def _masks():
    """The pixels of each shape in its cell, and those of the arrow, which points up."""
    y, x = np.abs(np.indices((PIXELS, PIXELS)) - (PIXELS - 1) / 2)
    square, disc, cross = (y < 3) & (x < 3), y**2 + x**2 < 10, ((y < 1) | (x < 1)) & (y < 3) & (x < 3)
    rows = np.indices((PIXELS, PIXELS))[0]
    return {"square": square, "disc": disc, "cross": cross}, (x <= rows / 2) & (rows < PIXELS - 1) & (rows > 0)


SHAPES, UP = _masks()


def _cell(mask, colour):
    return np.where(mask[..., None], colour, GROUND).astype(np.uint8)


EMPTY = _cell(UP & False, GROUND)
ARROWS = [np.rot90(_cell(UP, ARROW), turns) for turns in (0, 2, 1, 3)]  # up, down, left, right
CELLS = {f"{colour} {shape}": _cell(SHAPES[shape], COLOURS[colour]) for shape in SHAPES for colour in COLOURS}
NAMES = tuple(CELLS)


def text_of(names):
    """What the text says where these are, in the order of reading."""
    return ", ".join(names) or NOTHING


def describe(picture):
    """The text to a picture (24, 24, 3), or "?" where a cell is nothing known, or there is not one arrow."""
    cells = picture.reshape(SIZE, PIXELS, SIZE, PIXELS, 3).swapaxes(1, 2).reshape(-1, PIXELS, PIXELS, 3)
    known = [*CELLS.values(), EMPTY, *ARROWS]
    found = [next((i for i, one in enumerate(known) if np.array_equal(cell, one)), -1) for cell in cells]
    if -1 in found or sum(i > len(NAMES) for i in found) != 1:
        return "?"
    return text_of([NAMES[i] for i in found if i < len(NAMES)])


class Shapes(gymnasium.Env):
    """The arrow turns to where it is sent, and goes there unless the wall is there. A shape that it reaches is gone and
    gives 1; the last one ends the episode."""

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 4,
        "action_names": ("up", "down", "left", "right"),
        "key_map": {"ArrowUp": 0, "ArrowDown": 1, "ArrowLeft": 2, "ArrowRight": 3},
    }
    observation_space = spaces.Dict(
        picture=spaces.Box(0, 255, (SIZE * PIXELS, SIZE * PIXELS, 3), np.uint8),
        text=spaces.Text(40, charset="abcdefghijklmnopqrstuvwxyz, "),
    )
    action_space = spaces.Discrete(len(MOVES))

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        num = int(self.np_random.integers(1, 3))
        cells = [divmod(int(cell), SIZE) for cell in self.np_random.permutation(SIZE * SIZE)[: num + 1]]
        self.place, self.facing = np.array(cells.pop()), int(self.np_random.integers(len(MOVES)))
        self.things = dict(zip(cells, self.np_random.choice(NAMES, num, replace=False), strict=True))
        return self._observe(), {}

    def step(self, action):
        self.place, self.facing = np.clip(self.place + MOVES[action], 0, SIZE - 1), int(action)
        reward = float(self.things.pop(tuple(self.place), None) is not None)
        return self._observe(), reward, not self.things, False, {}

    def _observe(self):
        return {"picture": self.render(), "text": text_of([self.things[place] for place in sorted(self.things)])}

    def render(self):
        cells = np.tile(EMPTY, (SIZE, SIZE, 1, 1, 1))
        for place, name in self.things.items():
            cells[place] = CELLS[name]
        cells[tuple(self.place)] = ARROWS[self.facing]
        return cells.swapaxes(1, 2).reshape(SIZE * PIXELS, SIZE * PIXELS, 3)


gymnasium.register("Shapes-v0", entry_point=Shapes, max_episode_steps=60)
