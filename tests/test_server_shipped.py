"""The shipped Crafter in the page: the picture scrolls with the keys, and the same keys give the same pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from server_square_world import serving

from magrathea.pretrained import shipped_worlds
from magrathea.server import create_app
from magrathea.server.server import open_catalog

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect  # noqa: E402
from test_server_browser import CHROMIUM, at_step, begin, browser, opened  # noqa: E402, F401

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.skipif("crafter" not in shipped_worlds(), reason="no world 'crafter' is shipped"),
]

TILE, ROWS, COLUMNS = 7, 7, 9  # of the map; the inventory's two rows are below it
ALIKE = 10  # grey levels
PIXELS = """() => {
  const canvas = document.getElementById('dream');
  return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    catalog, _ = open_catalog("crafter")
    with serving(create_app(catalog)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:  # noqa: F811
    yield from opened(browser, url, world="crafter")


def tiles(page: Page) -> np.ndarray:
    """The map in the canvas: (rows, columns, pixels of a tile)."""
    pixels = np.array(page.evaluate(PIXELS), np.uint8).reshape(63, 63, 4)[: ROWS * TILE, :, :3]
    return pixels.reshape(ROWS, TILE, COLUMNS, TILE, 3).swapaxes(1, 2).reshape(ROWS, COLUMNS, -1)


def share_alike(some: np.ndarray, others: np.ndarray) -> float:
    """How much of the map shows the same thing, whatever the hour."""
    return float((np.abs(some.astype(int) - others).mean(-1) < ALIKE).mean())


def test_walking_right_scrolls_the_picture(page: Page) -> None:
    scrolled = []  # by one column, and no longer what it was
    for start in range(4):
        begin(page, start=start)
        for step in range(1, 5):
            before = tiles(page)
            page.keyboard.press("ArrowRight")
            at_step(page, step)
            after = tiles(page)
            scrolled.append(share_alike(before[:, 1:], after[:, :-1]) > 0.9 > share_alike(before, after))
    assert any(scrolled)


def test_the_same_seed_and_keys_give_the_same_pictures(page: Page) -> None:
    runs = []
    for _ in range(2):
        begin(page, seed=5, start=2)
        for step, key in enumerate(["ArrowDown", " ", "ArrowLeft", "ArrowLeft"], start=1):
            page.keyboard.press(key)
            at_step(page, step)
        runs.append(page.evaluate(PIXELS))
    assert runs[0] == runs[1]


def test_the_real_environment_starts_beside_the_dream(page: Page) -> None:
    pytest.importorskip("crafter")
    begin(page)
    page.locator("label:has(#mirror-toggle)").click()
    expect(page.locator("#mirror-view")).to_be_visible(timeout=20_000)
    expect(page.locator("body")).to_have_attribute("data-state", "ready")
    page.keyboard.press("ArrowDown")
    at_step(page, 1)
    expect(page.locator("#mirror-pill")).to_be_hidden()
