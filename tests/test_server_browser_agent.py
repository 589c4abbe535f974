"""An agent on the page: it plays, a key takes over, its futures move, and its learning is shown."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board import Board
from server_agent import board_agent
from server_square_world import serving
from session_worlds import wild_world
from test_server_browser import Browser, Page, at_step, browser, expect, opened, pytestmark, steps, until

from magrathea.server import create_app
from magrathea.server.catalog import Catalog

__all__ = ["browser", "pytestmark"]  # fixtures

FUTURE = "document.querySelector('#futures-list canvas').toDataURL()"


class EndlessBoard(Board):
    def step(self, action: Any) -> Any:
        observation, reward, _, _, info = super().step(action)
        return observation, reward, False, False, info


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    world = copy.copy(wild_world())
    metadata = {"name": "Board", "fps": 10, "action_names": list(Board.metadata["action_names"])}
    world.config = replace(world.config, metadata=metadata | {"key_map": Board.metadata["key_map"]})
    world.decode_terminated = lambda tokens: np.zeros(tokens.shape[:-1], bool)  # type: ignore[method-assign]
    agent, folder = board_agent(world=world), tmp_path_factory.mktemp("agents")
    (folder / "README.md").write_text(
        "# An agent of the board\n\n| policy | real return |\n| --- | ---: |\n| agent | 2 |\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magrathea.server.catalog._load_agent", lambda *_: agent)
        catalog = Catalog({"board": folder / "world"}, lambda _: world, {"board": folder})
        with serving(create_app(catalog, make_env=lambda _: EndlessBoard())) as address:
            yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    yield from opened(browser, url, world="board")


def turn_based(page: Page) -> None:
    if page.locator("#realtime-toggle").is_checked():
        page.locator("label:has(#realtime-toggle)").click()
    expect(page.locator("#realtime-toggle")).not_to_be_checked()


def test_the_agent_plays_until_a_key_is_pressed_and_may_be_given_back(page: Page) -> None:
    turn_based(page)
    expect(page.locator("#agent-play")).to_have_text(re.compile("Let the agent play"))
    expect(page.locator("#agent-value")).to_have_text("–")
    page.click("#agent-play")
    until(lambda: steps(page) >= 4)
    expect(page.locator("#agent-play")).to_have_text(re.compile("Take over"))
    expect(page.locator("#agent-value")).not_to_have_text("–")
    expect(page.locator(".of-agent")).to_have_count(1)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#agent-play")).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".of-agent")).to_have_count(0)
    expect(page.locator("#agent-value")).to_have_text("–")
    page.wait_for_timeout(400)
    step = steps(page)
    page.wait_for_timeout(400)
    assert steps(page) == step  # it waits for keys
    page.keyboard.press("ArrowLeft")
    at_step(page, step + 1)
    page.keyboard.press("g")
    until(lambda: steps(page) >= step + 3)
    page.keyboard.press("g")
    expect(page.locator("#agent-play")).to_have_attribute("aria-pressed", "false")


def test_futures_are_moving_pictures_which_go_when_somebody_takes_over(page: Page) -> None:
    expect(page.locator("#futures")).to_be_hidden()
    page.click("#pause")
    page.click("#agent-play")
    expect(page.locator("#futures-list figure")).to_have_count(3)
    expect(page.locator("#futures-step")).to_have_text("from step 0")
    first = page.evaluate(FUTURE)
    until(lambda: page.evaluate(FUTURE) != first)
    names = page.locator("#futures-list b").all_inner_texts()
    assert all(name.lower() in Board.metadata["action_names"] for name in map(str.strip, names)), names
    page.keyboard.press("ArrowUp")
    expect(page.locator("#futures")).to_be_hidden()


def test_two_pages_watch_one_agent(browser: Browser, page: Page) -> None:
    turn_based(page)
    page.click("#agent-play")
    until(lambda: steps(page) >= 2)
    other = browser.new_page()
    other.goto(page.url)
    expect(other.locator("#agent-play")).to_have_text(re.compile("Take over"))
    expect(other.locator("#futures-list figure")).to_have_count(3)
    other.keyboard.press("ArrowUp")
    expect(other.locator("#toast")).to_contain_text("Somebody else has control")
    expect(page.locator("#agent-play")).to_have_attribute("aria-pressed", "true")
    page.click("#control-button")  # releases control
    expect(other.locator("#control-text")).to_contain_text("Nobody has control")
    other.keyboard.press("ArrowUp")
    for each in (page, other):
        expect(each.locator("#agent-play")).to_have_attribute("aria-pressed", "false")
    other.context.close()


def test_the_same_agent_plays_in_the_real_environment_beside_the_dream(page: Page) -> None:
    page.locator("label:has(#mirror-toggle)").click()
    expect(page.locator("#mirror-view")).to_be_visible()
    expect(page.locator("#mirror-text")).to_have_text("the same actions")
    page.click("#agent-play")
    expect(page.locator("#mirror-text")).to_have_text(re.compile("the same agent, return"))
    expect(page.locator("#dream-text")).to_have_text(re.compile("return"))
    until(lambda: steps(page) >= 3)
    page.keyboard.press("ArrowUp")
    expect(page.locator("#mirror-text")).to_have_text("the same actions")


def test_what_its_learning_measured_is_drawn_and_its_card_is_linked(page: Page) -> None:
    expect(page.locator("#agent-chart polyline")).to_have_count(2)
    expect(page.locator("#agent-dream")).to_have_text("3")
    expect(page.locator("#agent-real")).to_have_text("2")
    expect(page.locator("#agent-gap")).to_have_text("+50%")
    expect(page.locator("#agent-verdict")).to_contain_text("promise more than reality gives")
    titles = page.locator("#agent-chart circle title").evaluate_all("found => found.map((title) => title.textContent)")
    assert titles == [
        "400 real steps: −2 in reality",
        "800 real steps: 2 in reality",
        "400 real steps: 1 in dreams",
        "800 real steps: 3 in dreams",
    ]
    page.click("#agent-card")
    expect(page.locator("#card h1")).to_have_text("An agent of the board")
    expect(page.locator("#card td").first).to_have_text("agent")


def test_a_page_of_a_world_without_an_agent_shows_none_of_it(browser: Browser) -> None:
    with serving(create_app(Catalog({"board": Path("nowhere")}, lambda _: wild_world()))) as address:
        pages = opened(browser, address, world="board")
        page = next(pages)
        expect(page.locator("#agent")).to_be_hidden()
        expect(page.locator("#agent-play")).to_be_hidden()
        page.keyboard.press("g")
        expect(page.locator("#toast")).to_be_hidden()
        next(pages, None)
