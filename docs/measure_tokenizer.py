"""Compare the patch tokenizers on Crafter: python docs/measure_tokenizer.py [NUM_FIT_FRAMES NUM_TEST_FRAMES]

Every test state is rendered three times: as it is, again (with other noise), and under the next step's daylight.
PSNR in dB; "same" and "next" are the shares of the 63 map tiles that keep their code.
"""

from __future__ import annotations

import sys
import time

import crafter
import numpy as np
from gymnasium import spaces

from magrathea.tokenizers import tokenizer_for

NEARLY = 3  # grey levels by which a right inventory may be off


def frames(seed: int, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """([frames, drawn again, in the next step's light] (number, 63, 63, 3) each, daylight (number,))."""
    random, drawn, daylight = np.random.default_rng(seed), ([], [], []), []
    while len(daylight) < number:
        env = crafter.Env(size=(63, 63), length=2000, seed=int(random.integers(2**31)))
        env.reset()
        env._step = int(random.integers(300))
        action, done = 0, False
        for step in range(400):
            if step % 4 == 0:
                action = (
                    int(random.choice(5, p=[0.1, 0.2, 0.2, 0.2, 0.3]))
                    if random.random() < 0.8
                    else int(random.integers(17))
                )
            if random.random() < 0.03:  # show every digit
                for item in env._player.inventory:
                    low = 2 if item in ("health", "food", "drink", "energy") else 0
                    high = 2 if item.endswith(("pickaxe", "sword")) else 10
                    env._player.inventory[item] = int(random.integers(low, high))
            env._player.health = max(env._player.health, 3)
            frame, _, done, _ = env.step(action)
            light = env._world.daylight
            drawn[0].append(frame)
            drawn[1].append(env.render())
            env._world.daylight = 1 - np.abs(np.cos(np.pi * (((env._step + 1) / 300) % 1 + 0.3))) ** 3
            drawn[2].append(env.render())
            env._world.daylight = light
            daylight.append(light)
            if done:
                break
    return [np.array(part[:number]) for part in drawn], np.array(daylight[:number])


def main() -> None:
    num_fit, num_test = (int(value) for value in sys.argv[1:3]) if len(sys.argv) > 2 else (6000, 1500)
    (to_fit, _, _), _ = frames(1, num_fit)
    (now, again, after), daylight = frames(2, num_test)
    day = daylight >= 0.5
    print("| tokenizer | codes | fit s | PSNR day | night | same day | night | next day | night | inventory right |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    tokenizers = (
        ("patch", {}),
        ("noisy_patch", {}),
        ("lit_patch", {"num_lights": 16}),
        ("lit_patch", {"num_lights": 32}),
    )
    for image, options in tokenizers:
        started = time.perf_counter()
        space = spaces.Box(0, 255, (63, 63, 3), np.uint8)
        tokenizer = tokenizer_for(space, image=image, patch=(7, 7), num_codes=512, **options).fit(to_fit)
        seconds = time.perf_counter() - started
        codes = [tokenizer.encode(part) for part in (now, again, after)]
        error = np.square(tokenizer.decode(codes[0]).astype(np.float32) - now)
        psnr = [10 * np.log10(255**2 / error[chosen].mean()) for chosen in (day, ~day)]
        kept = [100 * (codes[0] == other)[chosen, :63].mean() for other in codes[1:] for chosen in (day, ~day)]
        right = 100 * (error[:, 49:].max(axis=(1, 2, 3)) <= NEARLY**2).mean()
        figures = " | ".join(f"{figure:.1f}" for figure in [seconds, *psnr, *kept, right])
        name = " ".join([image, *(f"{value} lights" for value in options.values())])
        print(f"| {name} | {tokenizer.slot_specs[''].vocab_size} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
