"""The page in a real browser: keys and touch control the session, and the picture follows."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from server_square_world import SquareWorld, serving, square_app

from magrathea.server.session_manager import Limits

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--enable-blink-features=ComputedAccessibilityInfo",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

expect.set_options(timeout=30_000)  # for busy machines

SQUARE = """id => {
  const canvas = document.getElementById(id), { width, height } = canvas;
  const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
  for (let index = 0; index < data.length; index += 4)
    if (data[index] === 255) return [Math.floor(index / 4 / width / 9), Math.floor(index / 4 % width / 9)];
  return null;
}"""
PIXELS = "id => document.getElementById(id).toDataURL()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(square_app(limits=Limits(active=50, new_per_second=100))) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    yield from opened(browser, url)


@pytest.fixture
def phone(browser: Browser, url: str) -> Iterator[Page]:
    size = {"width": 390, "height": 844}
    yield from opened(browser, url, viewport=size, has_touch=True, is_mobile=True, device_scale_factor=2)


def opened(browser: Browser, url: str, world: str = "square", **options) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(90_000)
    opened_page = context.new_page()
    problems: list[str] = []
    opened_page.on("pageerror", lambda error: problems.append(str(error)))
    opened_page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    opened_page.goto(f"{url}/play/{world}")
    expect(opened_page.locator("#connection")).to_have_attribute("data-state", "connected")
    expect(opened_page.locator("body")).to_have_attribute("data-state", "ready")
    try:
        yield opened_page
    finally:
        context.close()
    assert not problems


def begin(page: Page, seed: int = 1, start: int = 0) -> None:
    """Turn-based, from a start state that is known: the square stands at (3, 3)."""
    if page.locator("#realtime-toggle").is_checked():
        page.locator("label:has(#realtime-toggle)").click()
    page.locator("#starts input").nth(start + 1).check(force=True)
    page.fill("#seed", str(seed))
    page.click("#reset")
    expect(page.locator("body")).to_have_attribute("data-state", "ready")
    expect(page.locator("#realtime-toggle")).not_to_be_checked()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.02)


def steps(page: Page) -> int:
    return int(page.locator("#figure-step").inner_text())


def at_step(page: Page, step: int) -> None:
    expect(page.locator("#figure-step")).to_have_text(str(step))


def test_keys_change_the_picture(page: Page) -> None:
    begin(page)
    assert page.evaluate(SQUARE, "dream") == [3, 3]
    for step, (key, place) in enumerate(
        [("ArrowRight", [3, 4]), ("ArrowUp", [2, 4]), ("ArrowLeft", [2, 3]), ("ArrowDown", [3, 3])], start=1
    ):
        page.keyboard.press(key)
        at_step(page, step)
        assert page.evaluate(SQUARE, "dream") == place
    page.keyboard.press(" ")
    expect(page.locator("#figure-reward")).to_have_text("1")
    expect(page.locator("#figure-passes")).to_have_text("2")


def test_a_held_key_repeats_until_it_is_released(page: Page) -> None:
    begin(page)
    page.keyboard.down("ArrowRight")
    expect(page.locator('[data-button="2"]')).to_have_class(re.compile("pressed"))
    until(lambda: page.evaluate(SQUARE, "dream")[1] == 6)
    page.keyboard.up("ArrowRight")
    page.wait_for_timeout(200)
    step = steps(page)
    page.wait_for_timeout(200)
    assert steps(page) == step


def test_realtime_steps_go_on_after_the_first_key(page: Page) -> None:
    page.wait_for_timeout(150)
    at_step(page, 0)
    expect(page.locator("#overlay")).to_contain_text("Press an arrow key")
    page.keyboard.press("ArrowLeft")
    until(lambda: steps(page) > 4)
    expect(page.locator("#overlay")).to_be_empty()
    assert page.evaluate(SQUARE, "dream") == [3, 2]


def test_pause_single_step_and_restart(page: Page) -> None:
    page.keyboard.press("ArrowUp")
    until(lambda: steps(page) > 1)
    page.keyboard.press("p")
    expect(page.locator("#pill")).to_have_text("Paused")
    page.wait_for_timeout(200)  # the step that was under way
    step, (row, column) = steps(page), page.evaluate(SQUARE, "dream")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#pill")).to_have_text("Paused, next: Up")
    at_step(page, step)
    page.click("#step")
    at_step(page, step + 1)
    assert row <= 2 and page.evaluate(SQUARE, "dream") == [max(0, row - 1), column]
    page.click("#pause")
    expect(page.locator("body")).to_have_attribute("data-state", "playing")
    page.keyboard.press("r")
    expect(page.locator("body")).to_have_attribute("data-state", "ready")
    at_step(page, 0)
    assert page.evaluate(SQUARE, "dream") == [3, 3]


def test_the_same_seed_and_keys_give_the_same_pictures(page: Page) -> None:
    page.locator("label:has(#heat-toggle)").click()
    seen = []
    for seed in (5, 5, 6):
        begin(page, seed=seed, start=1)
        for step, key in enumerate(["ArrowRight", " ", "ArrowDown"], start=1):
            page.keyboard.press(key)
            at_step(page, step)
        seen.append((page.evaluate(PIXELS, "dream"), page.evaluate(PIXELS, "heat")))
    assert seen[0] == seen[1]
    assert seen[0][1] != seen[2][1]


def test_the_heat_map_shows_the_uncertainty(page: Page) -> None:
    begin(page)
    expect(page.locator("#heat")).to_be_hidden()
    page.keyboard.press("h")
    expect(page.locator("#heat")).to_be_visible()
    page.keyboard.press("ArrowRight")
    at_step(page, 1)
    cells = page.evaluate(
        "() => { const c = document.getElementById('heat');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return [...d].filter((_, i) => i % 4 === 3).map((a, i) => a > 0 ? i : -1).filter(i => i >= 0); }"
    )
    assert cells == [3 * 7 + 4]


def test_the_end_is_shown_and_r_resets(page: Page) -> None:
    begin(page)
    page.keyboard.press("e")
    expect(page.locator("#overlay")).to_contain_text("The episode ended")
    page.keyboard.press("ArrowLeft")
    at_step(page, 1)
    page.keyboard.press("r")
    expect(page.locator("body")).to_have_attribute("data-state", "ready")


def test_the_real_environment_takes_the_same_actions(page: Page) -> None:
    begin(page)
    page.locator("label:has(#mirror-toggle)").click()
    expect(page.locator("#mirror-view")).to_be_visible()
    expect(page.locator("body")).to_have_attribute("data-state", "ready")
    for step, key in enumerate(["ArrowLeft", "ArrowUp", "ArrowUp", " "], start=1):
        before = page.evaluate(PIXELS, "dream")
        page.keyboard.press(key)
        at_step(page, step)
        until(lambda: page.evaluate(PIXELS, "dream") == page.evaluate(PIXELS, "mirror"))
        assert page.evaluate(PIXELS, "dream") != before or key != " "
    page.locator("label:has(#mirror-toggle)").click()
    expect(page.locator("#mirror-view")).to_be_hidden()


def test_touch_buttons_play_on_a_phone(phone: Page) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    begin(phone)
    expect(phone.locator("#overlay")).to_contain_text("Tap an arrow")
    for step, (action, place) in enumerate([(2, [3, 4]), (4, [4, 4]), (5, [4, 4])], start=1):
        button = phone.locator(f'[data-button="{action}"]')
        box = button.bounding_box()
        assert box and box["width"] >= 44 and box["height"] >= 44
        button.tap()
        at_step(phone, step)
        assert phone.evaluate(SQUARE, "dream") == place
    expect(phone.locator("#figure-reward")).to_have_text("1")


def test_pictures_are_scaled_by_whole_pixels(page: Page, phone: Page) -> None:
    for shown, ratio in ((page, 1), (phone, 2)):
        box = shown.locator("#dream").bounding_box()
        assert box and box["width"] * ratio % 63 == 0 and box["width"] == box["height"]
        assert shown.evaluate("getComputedStyle(document.getElementById('dream')).imageRendering") == "pixelated"


def test_the_start_page_opens_a_world(page: Page, url: str) -> None:
    page.goto(url)
    card = page.locator(".card")
    expect(card).to_contain_text("A square that walks.")
    until(lambda: card.locator("img").evaluate("image => image.naturalWidth") == 63)
    card.get_by_role("link", name="Square").click()
    page.wait_for_url("**/play/square")
    expect(page.locator("#world-name")).to_have_text("Square")


def test_a_lost_connection_is_shown_and_reopens_the_same_session(browser: Browser) -> None:
    world = SquareWorld()
    app = square_app(world)
    with serving(app) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        page.keyboard.press("ArrowRight")
        at_step(page, 1)
        page.evaluate("() => { window.WebSocket.prototype.close.call(window.magratheaConnection.socket); }")
        expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
        expect(page.locator("#connection")).to_have_attribute("data-state", "connected")
        at_step(page, 1)
        page.keyboard.press("ArrowRight")
        at_step(page, 2)
        assert page.evaluate(SQUARE, "dream") == [3, 5]
        pages.close()


def test_a_missing_real_environment_is_reported(browser: Browser) -> None:
    def missing(_):
        raise ModuleNotFoundError("No module named 'crafter'")

    with serving(square_app(make_env=missing)) as address:
        pages = opened(browser, address)
        page = next(pages)
        expect(page.locator("#mirror-note")).to_contain_text("not installed on the server: No module named 'crafter'")
        expect(page.locator("#mirror-toggle")).to_be_disabled()
        begin(page)
        page.keyboard.press("ArrowRight")
        at_step(page, 1)
        pages.close()


@pytest.mark.parametrize(
    ("alone", "reason"),
    [(True, "You have 1 of the 1 active sessions"), (False, "This server has 1 active sessions, the most allowed")],
)
def test_a_full_server_is_reported_and_retried(
    browser: Browser, alone: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a visitor who has all its places, and to one who comes after another."""
    if not alone:
        visitors = map(str, itertools.count())
        monkeypatch.setattr("magrathea.server.routes.visitor_of", lambda _: next(visitors))
    with serving(square_app(limits=Limits(active=1, new_per_second=100))) as address:
        with closing(opened(browser, address)) as pages:
            next(pages)
            late = browser.new_page()
            late.goto(f"{address}/play/square")
            expect(late.locator("#overlay")).to_contain_text(reason)
        expect(late.locator("body")).to_have_attribute("data-state", "ready")
        expect(late.locator("#overlay")).to_contain_text("Press an arrow key")
        late.context.close()
