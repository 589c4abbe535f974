"""Pasts that look as at another hour: places keep what they are, and nothing that is to be learned changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_memory_places import layout_of
from torch import Generator

from magrathea.train.batches import BatchConfig, draw_batch
from magrathea.train.cache import TokenCache
from magrathea.train.hours import NUM_HOURS, Hours, hours_of

LAYOUT = layout_of(4, 5)
MEADOW, STONE, NIGHT, COW = 0, 1, 2, 4  # by night meadows are 2 and stones 3; a cow may stand anywhere
SPAN = LAYOUT.span(LAYOUT.picture.name)


def clock_of(hours: np.ndarray) -> np.ndarray:
    """(S, 2) features of a clock that is sure."""
    angles = 2 * np.pi * (hours + 0.5) / NUM_HOURS
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def recording(num_steps: int = 6_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What C places showed when last seen and what they show, (S, C) each, and the hours (S,): night is after 12."""
    dice, num_places = np.random.default_rng(0), LAYOUT.picture.num_tokens
    hours = np.arange(num_steps) // 10 % NUM_HOURS
    ground = dice.integers(2, size=num_places)
    now = ground + NIGHT * (hours[:, None] >= 12)
    now = np.where(dice.random(now.shape) < 0.01, COW, now)
    long_ago = np.maximum(np.arange(num_steps)[:, None] - dice.integers(1, 200, now.shape), 0)
    return np.take_along_axis(now, long_ago, axis=0), now, hours


@pytest.fixture(scope="module")
def hours() -> Hours:
    before, now, hour = recording()
    return Hours(before, now, clock_of(hour), LAYOUT.picture.vocab_size)


def test_a_place_keeps_what_it_is(hours: Hours) -> None:
    pictures = torch.tensor([[MEADOW, STONE, MEADOW + NIGHT, STONE + NIGHT] * 3] * 64)
    by_day, by_night = (
        hours.show(pictures, torch.full((64,), hour), torch.rand(64, LAYOUT.picture.vocab_size)) for hour in (6, 20)
    )
    assert (by_day == torch.tensor([MEADOW, STONE] * 6)).float().mean() > 0.99
    assert (by_night == torch.tensor([MEADOW + NIGHT, STONE + NIGHT] * 6)).float().mean() > 0.99


def test_what_is_absent_or_was_hardly_seen_stays(hours: Hours) -> None:
    absent = LAYOUT.picture.vocab_size
    few = Hours(np.zeros((5, 2), np.int64), np.ones((5, 2), np.int64), clock_of(np.arange(5)), absent)
    pictures = torch.tensor([[0, 1, 2, absent]])
    assert torch.equal(few.show(pictures, torch.tensor([2]), torch.rand(1, absent)), pictures)
    assert hours.show(pictures, torch.tensor([20]), torch.rand(1, absent))[0, 3] == absent


def test_only_a_clock_that_is_sure_tells_the_hour() -> None:
    assert hours_of(clock_of(np.arange(NUM_HOURS))).tolist() == list(range(NUM_HOURS))
    assert (hours_of(0.4 * clock_of(np.arange(NUM_HOURS))) == -1).all()


def test_pasts_are_mistaken_and_what_is_learned_is_not() -> None:
    before, now, hour = recording(2_400)
    tokens = np.stack([np.array([s.vocab_size - 1 for s in LAYOUT.slots for _ in range(s.num_tokens)])] * len(now))
    tokens[:, SPAN] = now
    features = np.zeros((len(now), 2, 8), np.float32)
    features[:, :, :2] = clock_of(hour)[:, None]
    pictures = np.stack([np.full_like(before, LAYOUT.picture.vocab_size), before], axis=1)
    cache = TokenCache(tokens, np.zeros(len(now), np.int64), np.array([len(now)]), pictures, None, features, LAYOUT)
    config = BatchConfig(num_segments=64, num_steps=6, spoiled_share=0, forgotten_share=0, num_earlier=0)
    true, mistaken = (
        draw_batch(cache, replace(config, mistaken_share=share), Generator().manual_seed(5)) for share in (0, 0.5)
    )
    assert torch.equal(true.tokens, mistaken.tokens) and torch.equal(true.hole_mask, mistaken.hole_mask)
    assert torch.equal(true.recalled.features, mistaken.recalled.features)
    changed = true.past_tokens != mistaken.past_tokens
    rest = np.setdiff1d(np.arange(changed.shape[-1]), np.arange(changed.shape[-1])[SPAN])
    assert not changed[..., rest].any() and 0.1 < changed.any(-1).any(-1).float().mean() < 0.5
    ground = mistaken.past_tokens[..., SPAN]
    same = (ground % 2 == true.past_tokens[..., SPAN] % 2) | (ground == COW)
    assert same.float().mean() > 0.98
    recalled = true.recalled.picture != mistaken.recalled.picture
    assert 0 < recalled.any(-1).any(-1).float().mean() < changed.any(-1).any(-1).float().mean()
