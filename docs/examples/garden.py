"""A small environment of one's own: a gardener walks about and waters flowers, which bloom for a while and wither."""

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE, PIXELS, BLOOM = 6, 8, 12
GRASS, DRY, BLOOMING, GARDENER = (70, 130, 60), (150, 130, 80), (230, 90, 150), (60, 90, 220)
MOVES = {1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}


class Garden(gymnasium.Env):
    """Watering a dry flower next to the gardener gives 1."""

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "action_names": ("wait", "up", "down", "left", "right", "water"),
        "key_map": {"ArrowUp": 1, "ArrowDown": 2, "ArrowLeft": 3, "ArrowRight": 4, " ": 5},
    }
    observation_space = spaces.Box(0, 255, (SIZE * PIXELS, SIZE * PIXELS, 3), np.uint8)
    action_space = spaces.Discrete(6)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        cells = self.np_random.permutation(SIZE * SIZE)
        self.place = np.array(divmod(int(cells[0]), SIZE))
        self.flowers = {divmod(int(cell), SIZE): 0 for cell in cells[1:6]}  # steps that each still blooms
        return self.render(), {}

    def step(self, action):
        self.flowers = {cell: max(0, bloom - 1) for cell, bloom in self.flowers.items()}
        reward = 0.0
        if action in MOVES:
            place = np.clip(self.place + MOVES[int(action)], 0, SIZE - 1)
            self.place = self.place if tuple(place) in self.flowers else place
        elif action == 5:
            near = [cell for cell in self.flowers if np.abs(self.place - cell).sum() == 1]
            reward = float(sum(self.flowers[cell] == 0 for cell in near))
            self.flowers |= dict.fromkeys(near, BLOOM)
        return self.render(), reward, False, False, {}

    def render(self):
        picture = np.full((SIZE, SIZE, 3), GRASS, np.uint8)
        for cell, bloom in self.flowers.items():
            picture[cell] = BLOOMING if bloom else DRY
        picture[tuple(self.place)] = GARDENER
        return picture.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)


gymnasium.register("Garden-v0", entry_point=Garden, max_episode_steps=200)
