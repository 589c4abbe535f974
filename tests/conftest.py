"""Fixtures that many tests share: a small dataset of the board, and a debug world trained on it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import gymnasium
import pytest
import torch

SHAPED = ("interfaces", "layout", "masks", "sampler", "model", "memory", "session", "support", "world")
if os.environ.get("CHECK_SHAPES"):  # see test_shapes.py; before the modules are imported
    from jaxtyping import install_import_hook

    install_import_hook([f"magrathea.{name}" for name in SHAPED], "typecheck.checked")

from magrathea.cli.allocator import keep_memory  # noqa: E402
from magrathea.data import Dataset, collect  # noqa: E402
from magrathea.train import load_settings, train  # noqa: E402
from magrathea.world import World  # noqa: E402

keep_memory()
torch.set_num_threads(1)  # the tests' models are so small that threads only wait for each other
# … and that bf16 takes three times as long as float32, also on CPUs that multiply large matrices faster in it.
torch.cpu._is_amx_tile_supported = torch.cpu._is_avx512_bf16_supported = lambda: False
BOARD = "test/Board-v0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains the debug world, or drives a browser, is slow."""
    for item in items:
        if "debug_world" in getattr(item, "fixturenames", ()) or item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def debug_dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """900 random steps on the board, in episodes of at most 25."""
    gymnasium.register(BOARD, entry_point="board:Board")
    folder = tmp_path_factory.mktemp("data") / "board"
    yield collect(BOARD, 900, folder, policy="random", num_processes=1, max_episode_steps=25)
    gymnasium.registry.pop(BOARD)


@pytest.fixture(scope="session")
def debug_world(debug_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world trained on the board until it predicts its rules."""
    folder = tmp_path_factory.mktemp("worlds")
    recipe = folder / "board.toml"
    recipe.write_text(
        'size = "debug"\nsteps = 500\nlearning_rate = 3e-3\nheld_out = 0.1\n'
        "[model]\nnum_recent = 0\nnum_memory_layers = 1\n"
        '[tokenizer]\nimage = "patch"\nnumbers = "box"\npatch = [4, 4]\n'
        "[batch]\nnum_segments = 16\nnum_steps = 6\nnum_prompted = 1\n"
    )
    return train(debug_dataset.folder, folder / "board", load_settings(recipe))
