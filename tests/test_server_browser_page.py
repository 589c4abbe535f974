"""The page for everybody: other keyboards, phones on their side, hidden tabs, screen readers, slow worlds."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from server_square_world import KEYS, SquareEnv, SquareSession, SquareWorld, serving, square_app
from test_server_browser import SQUARE, at_step, begin, browser, expect, opened, page, phone, pytestmark, steps, url
from test_server_browser import until as until

from magrathea.plugins import EnvironmentPlugin
from magrathea.server import create_app
from magrathea.server.catalog import Catalog

__all__ = ["browser", "page", "phone", "pytestmark", "url"]  # fixtures

KEY = """([kind, code, key]) => document.body.dispatchEvent(
  new KeyboardEvent(kind, { code, key, bubbles: true, cancelable: true }))"""
HIDE = """const hidden = () => sessionStorage.getItem("hidden in a test") === "yes";
Object.defineProperty(document, "hidden", { get: hidden });
window.setHidden = (hidden) => {
  sessionStorage.setItem("hidden in a test", hidden ? "yes" : "no");
  document.dispatchEvent(new Event("visibilitychange"));
};"""


def press(page: Any, code: str, key: str) -> None:
    for kind in ("keydown", "keyup"):
        page.evaluate(KEY, [kind, code, key])


def shown_keys(page: Any) -> dict[str, str]:
    """What is shown for the keys of a US keyboard."""
    return dict(
        page.evaluate("[...document.querySelectorAll('kbd[data-key]')].map((k) => [k.dataset.key, k.innerText])")
    )


def test_keys_are_found_by_their_place_and_shown_as_they_are_labelled(browser: Any) -> None:
    world = SquareWorld()
    world.metadata["key_map"] = KEYS | {"a": 1, "d": 2, "w": 3, "s": 4, "q": 5}
    with serving(square_app(world)) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        for step, (code, key, place) in enumerate(
            [
                ("KeyW", "z", [2, 3]),  # a French keyboard
                ("KeyA", "q", [2, 2]),
                ("KeyS", "ы", [3, 2]),  # a Russian one
                ("KeyD", "D", [3, 3]),  # with the capitals locked
                ("ArrowUp", "ArrowUp", [2, 3]),
                ("Numpad1", "w", [1, 3]),  # a place that the world does not name
                ("", "d", [1, 4]),  # a keyboard without places, as on a screen
            ],
            start=1,
        ):
            press(page, code, key)
            at_step(page, step)
            assert page.evaluate(SQUARE, "dream") == place, (code, key)
        assert shown_keys(page)["e"] == "E"
        press(page, "KeyE", "у")
        expect(page.locator("#overlay")).to_contain_text("The episode ended")
        assert shown_keys(page)["e"] == "У"
        press(page, "KeyR", "к")
        expect(page.locator("body")).to_have_attribute("data-state", "ready")
        pages.close()


def test_the_real_environment_begins_a_new_run_only_after_asking(page: Any) -> None:
    begin(page)
    for step in (1, 2):
        page.keyboard.press("ArrowRight")
        at_step(page, step)
    page.locator("label:has(#mirror-toggle)").click()
    expect(page.locator("#mirror-question")).to_contain_text("The 2 steps so far stay as a branch")
    expect(page.locator("#mirror-toggle")).not_to_be_checked()
    page.click("#mirror-cancel")
    expect(page.locator("#mirror-confirm")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    at_step(page, 3)
    page.locator("label:has(#mirror-toggle)").click()
    page.click("#mirror-start")
    expect(page.locator("#mirror-view")).to_be_visible()
    at_step(page, 0)
    expect(page.locator("#tree g:not(.current):not(.cross)")).to_have_count(1)
    page.locator("#tree g:not(.current):not(.cross)").click(force=True)  # back to the run
    at_step(page, 3)
    expect(page.locator("#toast")).to_contain_text("it is off now")
    expect(page.locator("#mirror-view")).to_be_hidden()


def test_a_real_environment_that_cannot_start_leaves_the_run_as_it_is(browser: Any) -> None:
    class Broken(SquareEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            raise RuntimeError("no display")

    with serving(square_app(make_env=lambda _: Broken())) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        page.keyboard.press("ArrowRight")
        at_step(page, 1)
        page.locator("label:has(#mirror-toggle)").click()
        page.click("#mirror-start")
        expect(page.locator("#toast")).to_contain_text("cannot be started: no display; the dream goes on")
        expect(page.locator("body")).to_have_attribute("data-state", "ready")
        at_step(page, 1)
        assert page.evaluate(SQUARE, "dream") == [3, 4]
        pages.close()


def test_a_page_that_is_loaded_again_while_it_is_hidden_goes_on_when_it_is_shown(browser: Any, url: str) -> None:
    pages = opened(browser, url)
    page = next(pages)
    page.add_init_script(HIDE)
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-state", "ready")
    page.keyboard.press("ArrowLeft")
    until(lambda: steps(page) > 1)
    page.evaluate("setHidden(true)")
    expect(page.locator("body")).to_have_attribute("data-state", "paused")
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-state", "paused")
    step = steps(page)
    page.evaluate("setHidden(false)")
    expect(page.locator("body")).to_have_attribute("data-state", "playing")
    until(lambda: steps(page) > step)
    page.keyboard.press("p")  # a pause that was asked for stays
    expect(page.locator("body")).to_have_attribute("data-state", "paused")
    for hidden in ("true", "false"):
        page.evaluate(f"setHidden({hidden})")
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-state", "paused")
    page.wait_for_timeout(300)
    expect(page.locator("body")).to_have_attribute("data-state", "paused")
    pages.close()


NAMES = """() => [...document.querySelectorAll("button, a, input, select, [role=button]")]
  .filter((control) => control.checkVisibility())
  .map((control) => {
    const label = control.matches("input, select") ? [...(control.labels?.[0]?.children ?? [])] : [control];
    const shown = label.filter((part) => !part.matches("input, select")).map((part) => part.innerText).join(" ");
    return { name: control.computedName, shown, html: control.outerHTML.slice(0, 120) };
  })"""


def letters(text: str) -> str:
    """The letters of a label, without spaces and symbols, which nobody says."""
    return "".join(filter(str.isalnum, text.lower()))


def check_names(page: Any) -> None:
    found = page.evaluate(NAMES)
    assert len(found) >= 3
    for control in found:
        assert control["name"], control
        assert letters(control["shown"]) in letters(control["name"]), control


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_what_a_label_says_is_part_of_the_accessible_name(browser: Any, url: str, size: tuple[int, int]) -> None:
    """Success criterion 2.5.3 of WCAG, so that who speaks to a page can name what it shows."""
    pages = opened(browser, url, viewport={"width": size[0], "height": size[1]})
    page = next(pages)
    begin(page)
    for step in (1, 2):
        page.keyboard.press("ArrowRight")
        at_step(page, step)
    page.locator("#timeline").focus()
    page.keyboard.press("ArrowLeft")
    page.click("#continue-here")
    expect(page.locator("#tree .cross")).to_have_count(1)
    page.locator("label:has(#mirror-toggle)").click()
    check_names(page)
    page.locator("#tree .cross").click(force=True)
    check_names(page)
    page.fill("#session-name", "the lake")
    page.keyboard.press("Enter")
    for path in ("/", "/sessions"):
        page.goto(url + path)
        expect(page.locator("[aria-busy=false]")).to_have_count(1)
        check_names(page)
    page.get_by_role("button", name="Delete").first.click()
    check_names(page)
    pages.close()


@pytest.mark.parametrize("size", [(844, 390), (740, 360), (667, 375), (568, 320), (915, 340)])
@pytest.mark.parametrize("beside", [False, True])
def test_on_a_phone_on_its_side_the_whole_picture_and_the_keys_are_seen(
    browser: Any, url: str, size: tuple[int, int], beside: bool
) -> None:
    viewport = {"width": size[0], "height": size[1]}
    pages = opened(browser, url, viewport=viewport, has_touch=True, is_mobile=True, device_scale_factor=3)
    page = next(pages)
    if beside:
        page.locator("label:has(#mirror-toggle)").tap()
        expect(page.locator("#mirror-view")).to_be_visible()
        until(lambda: page.evaluate("scrollY") > 0 or page.locator("#dream").bounding_box()["y"] >= 0)
    page.evaluate("scrollTo(0, 0)")
    seen = ["#dream"] + ["#mirror"] * beside + [] * beside
    for place in [*seen, *([] if beside else ['[data-button="1"]', '[data-button="4"]', '[data-button="5"]'])]:
        box = page.locator(place).bounding_box()
        assert box and box["y"] >= 0 and box["y"] + box["height"] <= size[1], (place, box)
        assert box["x"] >= 0 and box["x"] + box["width"] <= size[0], (place, box)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    pages.close()


def test_the_start_page_shows_the_worlds_before_they_are_loaded(browser: Any) -> None:
    ready = threading.Event()

    def load(source: str) -> SquareWorld:
        ready.wait(30)
        if source == "broken":
            raise ValueError("a fault")
        return SquareWorld()

    catalog = Catalog({"square": "square", "other": "other"}, load)
    with serving(create_app(catalog, session_class=SquareSession)) as address:
        page = browser.new_page()
        started = time.monotonic()
        page.goto(address)
        expect(page.get_by_role("link", name="square")).to_be_visible(timeout=5000)
        assert time.monotonic() - started < 5
        expect(page.locator(".facts").first).to_have_text("Loading…")
        ready.set()
        for index in (0, 1):
            expect(page.locator(".facts").nth(index)).to_contain_text("7 actions")
        page.context.close()


def test_words_lead_to_a_world(browser: Any) -> None:
    with serving(square_app()) as address:
        page = browser.new_page()
        page.goto(address)
        box = page.get_by_label("Find a world by words")
        box.fill("xylophone")
        box.press("Enter")
        expect(page.locator("#not-found")).to_contain_text("No world here is about 'xylophone'")
        box.fill("the square that walks")
        box.press("Enter")
        page.wait_for_url(f"{address}/play/square?session=*", timeout=20_000)
        page.goto(f"{address}/play/square?start=2")
        page.wait_for_url(f"{address}/play/square?session=*", timeout=20_000)
        expect(page.locator("#pill")).to_be_hidden(timeout=20_000)
        page.context.close()


def says(picture: np.ndarray) -> str:
    """That the square is in the left column, which is where it sleeps."""
    return "Asleep" if (picture[:, :9, 0] == 255).any() else ""


def test_what_the_plug_in_says_of_the_picture_is_shown(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EnvironmentPlugin(name="square", picture_status="test_server_browser_page:says")
    monkeypatch.setattr("magrathea.server.frame.environment_plugin", lambda env_id: plugin)
    with serving(square_app()) as address:
        pages = opened(browser, address)
        page = next(pages)
        begin(page)
        expect(page.locator("#pill")).to_be_hidden()
        for step in (1, 2, 3):
            page.keyboard.press("ArrowLeft")
            at_step(page, step)
        expect(page.locator("#pill")).to_have_text("Asleep")
        page.click("#pause")
        expect(page.locator("#pill")).to_have_text("Paused · Asleep")
        pages.close()


def drive(action: Any) -> int:
    """The move of a steering and a pedal: the sideways one wins."""
    side, ahead = action
    return (2 if side > 0 else 1) if abs(side) > 0.5 else 3 if ahead > 0.5 else 0


PAD = """(pressed) => { navigator.getGamepads = () => [{ connected: true, axes: pressed.axes,
  buttons: Array.from({ length: 16 }, (_, i) => ({ pressed: pressed.buttons.includes(i), value: 0 })) }];
  window.dispatchEvent(new Event("gamepadconnected")); }"""


def test_a_world_of_numbers_is_steered_with_keys_sliders_and_a_gamepad(browser: Any) -> None:
    box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 1], np.float32))
    world = SquareWorld(action_space=box, move_of=drive)
    world.metadata |= {"action_names": ["steering", "gas"], "key_map": None}
    with serving(square_app(world)) as address:
        pages = opened(browser, address)
        page = next(pages)
        expect(page.locator(".slider")).to_have_count(2)
        begin(page)
        page.keyboard.press("ArrowRight")
        at_step(page, 1)
        page.keyboard.press("ArrowUp")
        at_step(page, 2)
        assert page.evaluate(SQUARE, "dream") == [2, 4]
        page.locator(".slider input").nth(0).fill("-0.9")
        until(lambda: page.evaluate(SQUARE, "dream") == [2, 0])
        page.locator(".slider input").nth(0).dblclick()
        page.evaluate(PAD, {"axes": [0.0, -1.0, 0.0, 0.0], "buttons": []})
        until(lambda: page.evaluate(SQUARE, "dream")[0] == 0)
        page.evaluate(PAD, {"axes": [0.0, 0.0, 0.0, 0.0], "buttons": [15]})  # right on the pad
        until(lambda: page.evaluate(SQUARE, "dream") == [0, 6])
        page.evaluate(PAD, {"axes": [0.0, 0.0, 0.0, 0.0], "buttons": []})
        page.wait_for_timeout(200)
        step = steps(page)
        page.wait_for_timeout(200)
        assert steps(page) == step
        next(pages, None)


def test_a_gamepad_presses_the_buttons_of_a_world(page: Any) -> None:
    begin(page)
    page.evaluate(PAD, {"axes": [1.0, 0.0], "buttons": []})
    until(lambda: page.evaluate(SQUARE, "dream") == [3, 6])
    page.evaluate(PAD, {"axes": [0.0, 0.0], "buttons": [12]})
    until(lambda: page.evaluate(SQUARE, "dream") == [0, 6])
    page.evaluate(PAD, {"axes": [0.0, 0.0], "buttons": [0]})  # the main button paints
    until(lambda: float(page.locator("#figure-reward").inner_text()) > 0)
    page.evaluate(PAD, {"axes": [0.0, 0.0], "buttons": []})


def test_holding_a_key_rewinds_and_letting_go_continues_from_there(page: Any) -> None:
    begin(page)
    for key in ["ArrowRight"] * 3 + ["ArrowUp"] * 3:
        before = steps(page)
        page.keyboard.press(key)
        at_step(page, before + 1)
    assert page.evaluate(SQUARE, "dream") == [0, 6]
    page.keyboard.down("z")
    until(lambda: "Looking back at step 0" in page.locator("#timeline-text").inner_text())
    page.keyboard.up("z")
    at_step(page, 0)
    until(lambda: page.evaluate(SQUARE, "dream") == [3, 3])
    page.keyboard.press("ArrowLeft")
    at_step(page, 1)
    assert page.evaluate(SQUARE, "dream") == [3, 2]
    with page.expect_download() as download:
        page.locator("#clip").click()
    assert download.value.path().read_bytes()[:6] == b"GIF89a"


def test_the_picture_fills_the_screen(page: Any) -> None:
    begin(page)
    small = page.locator("#dream-screen").bounding_box()["height"]
    page.locator("#full-screen").click()
    until(lambda: page.evaluate("document.fullscreenElement?.className") == "stage")
    until(lambda: page.locator("#dream-screen").bounding_box()["height"] >= small)
    page.keyboard.press("ArrowRight")
    at_step(page, 1)
