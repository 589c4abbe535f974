"""Counters on the page: the dream's, the real environment's next to them, and achievements that are announced."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from server_square_world import SquareEnv, SquareWorld, draw, serving, square_app
from test_server_browser import at_step, begin, browser, expect, opened, pytestmark

__all__ = ["browser", "pytestmark"]  # fixtures

NAMES = ["column", "inventory.paint_pots", "achievements.paint_it"]


def counters_of(tokens: np.ndarray) -> np.ndarray:
    tokens = np.asarray(tokens)
    return np.stack([tokens[..., 2], tokens[..., 4], tokens[..., 4] > 0], axis=-1).astype(np.int32)


def with_counters(space: spaces.Space) -> spaces.Dict:
    return spaces.Dict(image=space, counters=spaces.Box(-(2**31), 2**31 - 1, (len(NAMES),), np.int32))


class CountingWorld(SquareWorld):
    def __init__(self) -> None:
        super().__init__()
        self.metadata["counters"] = NAMES
        self.picture_space = self.observation_space
        self.observation_space = with_counters(self.picture_space)

    def decode_observation(self, tokens: Any) -> dict[str, np.ndarray]:
        tokens = np.asarray(tokens)
        pictures = np.stack([draw(row) for row in tokens.reshape(-1, tokens.shape[-1])])
        pictures = pictures.reshape(*tokens.shape[:-1], *self.picture_space.shape)
        return {"image": pictures, "counters": counters_of(tokens)}

    def encode_episode(self, observation: Any, action: Any, reward: Any, terminated: Any) -> np.ndarray:
        return super().encode_episode(observation["image"], action, reward, terminated)


class CountingEnv(SquareEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = with_counters(self.observation_space)

    def reset(self, **options: Any) -> Any:
        picture, info = super().reset(**options)
        return {"image": picture, "counters": counters_of(self.tokens)}, info

    def step(self, action: Any) -> Any:
        picture, *rest = super().step(action)
        return {"image": picture, "counters": counters_of(self.tokens)}, *rest


def shown(page: Any, kind: str = "dd:not(.real)") -> list[str]:
    return page.locator(f"#counters {kind}").all_inner_texts()


def test_counters_are_shown_and_an_achievement_is_announced(browser: Any) -> None:
    with serving(square_app(CountingWorld(), make_env=lambda _: CountingEnv())) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        assert page.locator("#counters dt").all_inner_texts() == ["column", "paint pots", "paint it"]
        assert page.locator("#counters h3").all_inner_texts() == ["inventory", "achievements"]
        assert shown(page) == ["3", "0", "0"]
        page.keyboard.press("ArrowRight")
        at_step(page, 1)
        assert shown(page) == ["4", "0", "0"]
        expect(page.locator("#counters .rose")).to_have_text("column4")
        expect(page.locator("#news")).to_be_hidden()
        page.keyboard.press(" ")
        at_step(page, 2)
        assert shown(page) == ["4", "1", "1"]
        expect(page.locator("#news")).to_have_text("Achieved: paint it")
        page.reload()
        expect(page.locator("#figure-step")).to_have_text("2")
        assert shown(page) == ["4", "1", "1"]
        expect(page.locator("#news")).to_be_hidden()  # it is no news
        page.locator("label:has(#mirror-toggle)").click()
        page.click("#mirror-start")
        expect(page.locator("#mirror-view")).to_be_visible()
        at_step(page, 0)
        expect(page.locator("#counters dd.real").first).to_be_visible()
        page.keyboard.press(" ")
        at_step(page, 1)
        expect(page.locator("#counters dd.real").nth(1)).to_have_text("1")
        assert shown(page) == shown(page, "dd.real")
        page.locator("label:has(#mirror-toggle)").click()
        expect(page.locator("#counters dd.real").first).to_be_hidden()
        pages.close()


def test_a_world_without_counters_shows_none(browser: Any) -> None:
    with serving(square_app()) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        expect(page.locator("#counters")).to_be_hidden()
        pages.close()
