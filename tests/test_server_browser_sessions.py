"""Saved sessions in a real browser: look back, fork, resume after a restart, watch together, rename, share, delete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_square_world import serving, square_app

from magrathea.server.session_manager import Limits
from magrathea.server.store import StoreThread

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect  # noqa: E402
from test_server_browser import CHROMIUM, SQUARE, at_step, begin, browser, opened, until  # noqa: E402, F401

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(square_app(limits=Limits(active=50, new_per_second=100))) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:  # noqa: F811
    yield from opened(browser, url)


def press(page: Page, *keys: str) -> None:
    """One step after another."""
    for key in keys:
        step = int(page.locator("#figure-step").inner_text())
        page.keyboard.press(key)
        at_step(page, step + 1)


def look_back(page: Page, step: int) -> None:
    page.locator("#timeline").fill(str(step))
    expect(page.locator("#past")).to_have_attribute("data-step", str(step))
    expect(page.locator("#past")).to_be_visible()


def ask_for_ever(page: Page) -> None:
    """From here on a button that asks once more waits for the second click, however slow this machine is."""
    page.evaluate("""() => {
      const later = window.setTimeout;
      window.setTimeout = (act, after) => (after === 4000 ? 0 : later(act, after));
    }""")


def test_look_back_fork_and_return(page: Page) -> None:
    begin(page)
    press(page, "ArrowRight", "ArrowRight", "ArrowRight", " ")
    look_back(page, 1)
    expect(page.locator("#timeline-text")).to_have_text("Looking back at step 1 of 4")
    page.click("#back-to-latest")
    expect(page.locator("#past")).to_be_hidden()
    look_back(page, 1)
    page.click("#continue-here")
    at_step(page, 1)
    expect(page.locator("#past")).to_be_hidden()
    expect(page.locator("body")).to_have_attribute("data-state", "ready")
    assert page.evaluate(SQUARE, "dream") == [3, 4]
    press(page, "ArrowUp", "ArrowUp")
    assert page.evaluate(SQUARE, "dream") == [1, 4]
    branches = page.locator("#tree g[data-branch]")
    expect(branches).to_have_count(2)
    expect(page.locator("#tree g.current")).to_have_attribute("aria-label", re.compile("steps 1 to 3, this one"))
    branches.first.press("Enter")
    at_step(page, 4)
    assert page.evaluate(SQUARE, "dream") == [3, 6]
    expect(page.locator("#figure-reward")).to_have_text("1")
    press(page, "ArrowLeft")
    assert page.evaluate(SQUARE, "dream") == [3, 5]


def test_a_branch_is_deleted_with_a_second_click(page: Page) -> None:
    begin(page)
    press(page, "ArrowRight", "ArrowRight", "ArrowRight")
    look_back(page, 1)
    page.click("#continue-here")
    at_step(page, 1)
    press(page, "ArrowUp")
    expect(page.locator("#tree g[data-branch]")).to_have_count(2)
    cross = page.locator("#tree g[data-delete]")  # the current branch has none
    expect(cross).to_have_count(1)
    ask_for_ever(page)
    cross.click()
    expect(cross).to_have_attribute("aria-label", "Delete for good? Branch 1")
    expect(page.locator("#tree g[data-branch]")).to_have_count(2)
    cross.press("Enter")
    expect(page.locator("#tree")).to_be_hidden()
    press(page, "ArrowUp")  # the steps that both branches shared are still there
    look_back(page, 1)
    page.click("#back-to-latest")


def test_looking_back_pauses(page: Page) -> None:
    page.keyboard.press("ArrowRight")
    until(lambda: int(page.locator("#figure-step").inner_text()) > 5)
    look_back(page, 2)
    expect(page.locator("body")).to_have_attribute("data-state", "paused")
    page.click("#back-to-latest")
    expect(page.locator("body")).to_have_attribute("data-state", "playing")


def test_the_page_resumes_its_session_after_a_restart_of_the_server(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    def app():
        return square_app(store=StoreThread(tmp_path / "sessions.db"))

    with serving(app()) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        press(page, "ArrowRight", "ArrowRight", "ArrowUp")
    expect(page.locator("#connection")).to_have_attribute("data-state", "lost")
    with serving(app(), port=int(address.rsplit(":", 1)[1])):
        expect(page.locator("#connection")).to_have_attribute("data-state", "connected")
        expect(page.locator("body")).to_have_attribute("data-state", "ready")
        at_step(page, 3)
        assert page.evaluate(SQUARE, "dream") == [2, 5]
        expect(page.locator("#realtime-toggle")).not_to_be_checked()
        press(page, "ArrowUp")
        look_back(page, 1)
        pages.close()


def test_two_viewers_share_control(page: Page, browser: Browser) -> None:  # noqa: F811
    begin(page)
    press(page, "ArrowRight")
    other = browser.new_page()
    other.goto(page.url)
    at_step(other, 1)
    expect(other.locator("#control-text")).to_have_text("Someone else has control. You are watching.")
    press(page, "ArrowRight")
    at_step(other, 2)
    other.keyboard.press("ArrowDown")
    expect(other.locator("#toast")).to_contain_text("Somebody else has control of this session")
    other.click("#control-button")
    expect(page.locator("#control-text")).to_have_text("You have control. Someone requests it.")
    page.click("#control-button")
    expect(other.locator("#control-text")).to_contain_text("You have control")
    press(other, "ArrowDown")
    at_step(page, 3)
    assert page.evaluate(SQUARE, "dream") == other.evaluate(SQUARE, "dream") == [4, 5]
    other.context.close()
    expect(page.locator("#control")).to_be_hidden()
    press(page, "ArrowDown")


def test_two_sessions_are_played_at_once(page: Page, browser: Browser, url: str) -> None:  # noqa: F811
    pages = opened(browser, url)
    other = next(pages)
    begin(page)
    begin(other)
    assert page.url != other.url
    for played, key in ((page, "ArrowRight"), (other, "ArrowLeft")):
        played.keyboard.down(key)
    until(lambda: page.evaluate(SQUARE, "dream") == [3, 6] and other.evaluate(SQUARE, "dream") == [3, 0])
    for played in (page, other):
        assert int(played.locator("#figure-step").inner_text()) >= 3
    pages.close()


def test_name_fork_download_upload_and_delete(page: Page, url: str, tmp_path: Path) -> None:
    begin(page)
    press(page, "ArrowRight", "ArrowUp")
    page.fill("#session-name", "the corner")
    page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "the-corner.mwsession"
    download.value.save_as(tmp_path / "corner.mwsession")
    old = page.url
    page.click("#fork")
    page.wait_for_url(lambda now: now != old)
    at_step(page, 2)
    expect(page.locator("#session-name")).to_have_value("the corner (fork)")
    page.get_by_role("link", name="Saved sessions").click()
    expect(page.locator(".session-item").first).to_be_visible()  # then the page's script has run
    page.set_input_files("#upload", tmp_path / "corner.mwsession")
    page.wait_for_url("**/play/square?session=*")
    at_step(page, 2)
    assert page.evaluate(SQUARE, "dream") == [2, 4]
    look_back(page, 1)
    page.goto(f"{url}/sessions")
    kept = page.locator(".session-item", has=page.get_by_role("link", name="corner", exact=True))
    expect(kept).to_contain_text("2 steps")
    until(lambda: kept.locator("img").evaluate("image => image.naturalWidth") == 63)
    ask_for_ever(page)
    kept.get_by_role("button", name="Delete corner").click()
    kept.get_by_role("button", name="Delete for good? corner").click()
    expect(kept).to_have_count(0)
    page.get_by_role("link", name="the corner", exact=True).click()
    at_step(page, 2)


def test_viewers_of_a_deleted_session_are_told(page: Page, url: str) -> None:
    session = page.url.split("session=")[1]
    page.evaluate("id => fetch(`/api/sessions/${id}`, { method: 'DELETE' })", session)
    expect(page.locator("#overlay")).to_contain_text("This session is not available")
    page.get_by_role("link", name="Start a new one").click()
    expect(page.locator("body")).to_have_attribute("data-state", "ready")


def test_a_server_with_a_token_asks_for_it_once(browser: Browser) -> None:  # noqa: F811
    with serving(square_app(token="open sesame")) as address:
        page = browser.new_page()
        page.goto(f"{address}/play/square")
        expect(page.locator("h1")).to_have_text("This server requires a token")
        page.fill("input", "open")
        page.get_by_role("button").click()
        expect(page.locator("body")).to_contain_text("That token is wrong")
        page.fill("input", "open sesame")
        page.get_by_role("button").click()
        expect(page.locator("body")).to_have_attribute("data-state", "ready")
        assert "token" not in page.url
        page.goto(address)
        expect(page.locator(".card")).to_contain_text("A square that walks.")
        page.context.close()


def test_saved_sessions_fit_a_phone(browser: Browser, url: str) -> None:  # noqa: F811
    pages = opened(browser, url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone = next(pages)
    begin(phone)
    for step in (1, 2):
        phone.locator('[data-button="2"]').tap()
        at_step(phone, step)
    look_back(phone, 1)
    phone.click("#continue-here")
    at_step(phone, 1)
    phone.locator('[data-button="4"]').tap()
    at_step(phone, 2)
    expect(phone.locator("#tree g[data-branch]")).to_have_count(2)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.goto(f"{url}/sessions")
    expect(phone.locator(".session-item").first).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    pages.close()
