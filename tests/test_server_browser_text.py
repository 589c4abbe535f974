"""Worlds of texts in a real browser: played by writing, with what was said before, and texts beside a picture."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_square_world import serving
from test_server_browser import browser, opened  # noqa: F401
from test_server_browser import pytestmark as browser_marks
from text_environments import record_rooms, train_rooms

from magrathea.server import create_app
from magrathea.server.catalog import Catalog
from magrathea.world import World

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

pytestmark = [*browser_marks, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folders: dict[str, Path] = {}
    for kind in ("text", "both"):
        folder = tmp_path_factory.mktemp(kind)
        record_rooms(kind, folder / "data")
        train_rooms(folder / "data", folder / "world")
        folders[kind] = folder / "world"
    with serving(create_app(Catalog(folders, World.from_pretrained))) as address:
        yield address


@pytest.fixture
def words(browser: Browser, url: str) -> Iterator[Page]:  # noqa: F811
    yield from opened(browser, url, "text")


@pytest.fixture
def both(browser: Browser, url: str) -> Iterator[Page]:  # noqa: F811
    yield from opened(browser, url, "both")


def say(page: Page, text: str) -> None:
    page.locator("#say input").fill(text)
    page.locator("#say input").press("Enter")


def test_a_world_of_words_is_played_by_writing(words: Page, url: str) -> None:
    transcript = words.locator("#transcript")
    expect(words.locator("#say input")).to_be_focused()
    expect(transcript.locator("div")).to_have_count(1)
    for number, command in enumerate(("go east", "go east", "go east", "go west"), start=1):
        say(words, command)
        expect(transcript.locator("div")).to_have_count(1 + number)
        expect(transcript.locator(".said").last).to_have_text(command)
    expect(transcript.locator(".seen-text").last).to_contain_text("You are in")
    shown = transcript.inner_text()
    words.reload()
    expect(words.locator("#transcript div")).to_have_count(5)
    assert words.locator("#transcript").inner_text() == shown
    clip = words.locator("#clip").get_attribute("href") or ""
    with urllib.request.urlopen(url + clip.replace(".gif", ".json")) as answer:
        steps = json.load(answer)
    assert [step["step"] for step in steps] == [0, 1, 2, 3, 4]
    assert steps[4]["said"] == [{"name": "", "text": "go west"}] and steps[4]["seen"][0]["text"] in shown


def test_what_was_written_is_found_again_by_the_arrow_keys(words: Page) -> None:
    say(words, "go east")
    expect(words.locator("#transcript div")).to_have_count(2)
    words.keyboard.press("ArrowUp")
    expect(words.locator("#say input")).to_have_value("go east")


def test_letters_that_the_world_does_not_have_are_refused(words: Page) -> None:
    say(words, "go ест")
    expect(words.locator("#toast")).to_contain_text("with the character 'е'")
    expect(words.locator("#transcript div")).to_have_count(1)


def test_going_back_shows_what_was_said_up_to_there(words: Page) -> None:
    for command in ("go east", "go west"):
        say(words, command)
    expect(words.locator("#transcript div")).to_have_count(3)
    words.locator("#timeline").evaluate("slider => { slider.value = 1; slider.dispatchEvent(new Event('input')); }")
    words.locator("#continue-here").click()
    expect(words.locator("#transcript div")).to_have_count(2)
    expect(words.locator("#transcript .said").last).to_have_text("go east")


def test_texts_stand_beside_a_picture(both: Page) -> None:
    expect(both.locator("#seen dt")).to_have_text("Words")
    expect(both.locator("#seen dd")).to_contain_text("You are in")
    expect(both.locator("#say")).to_be_hidden()
    both.locator("#actions button").first.click()
    expect(both.locator("#figure-step")).not_to_have_text("0")
    expect(both.locator("#seen dd")).to_contain_text("You are in")
