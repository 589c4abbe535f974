"""A world with sound in a real browser: heard after a gesture, in step with the picture, muted, and in clips."""

from __future__ import annotations

import io
import time
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from gymnasium import spaces
from server_square_world import NUM_TOKENS, SquareSession, SquareWorld, draw, serving
from test_server_browser import ARGUMENTS, CHROMIUM, opened
from test_server_browser import pytestmark as browser_marks

from magrathea.server import create_app
from magrathea.server.catalog import Catalog
from magrathea.sounds import Sound

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

pytestmark = [*browser_marks, pytest.mark.slow]

FPS, RATE = 10.0, 16000
MOST_LAG = 100.0  # milliseconds between a picture and its sound
LAG = "() => Number(document.getElementById('sound').dataset.lag)"
TAP = """async () => {
  const { prototype } = AudioWorkletNode;
  const connect = prototype.connect;
  window.loudest = 0;
  prototype.connect = function (...others) {
    const listener = new AnalyserNode(this.context, { fftSize: 2048 });
    connect.call(this, listener);
    const samples = new Float32Array(2048);
    setInterval(() => {
      listener.getFloatTimeDomainData(samples);
      window.loudest = Math.max(window.loudest, ...samples.map(Math.abs));
    }, 20);
    return connect.apply(this, others);
  };
}"""


class SoundingWorld(SquareWorld):
    """The square world, in which a step to the right sounds."""

    def __init__(self) -> None:
        super().__init__(fps=FPS)
        picture, self.sound = self.observation_space, Sound((int(RATE / FPS), 2), np.int16, RATE)
        self.observation_space, self.picture_shape = spaces.Dict(eye=picture, ear=self.sound), picture.shape

    def decode_observation(self, tokens: np.ndarray) -> Any:
        rows = np.asarray(tokens).reshape(-1, NUM_TOKENS)
        pictures = np.stack([draw(row) for row in rows]).reshape(*tokens.shape[:-1], *self.picture_shape)
        right = np.asarray(tokens)[..., 0] == 2
        wave = 0.5 * np.sin(np.arange(self.sound.shape[0]) * 0.2)
        waves = np.where(right[..., None, None], wave, 0.0) * np.ones((2, 1))
        return {"ear": self.sound.values(waves), "eye": pictures}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        arguments = [*ARGUMENTS, "--autoplay-policy=user-gesture-required"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    world = SoundingWorld()
    app = create_app(
        Catalog({"square": "square"}, lambda _: world),
        session_class=SquareSession,
        make_env=lambda _: SimpleNamespace(close=lambda: None),
    )
    with serving(app) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    yield from opened(browser, url)


def test_it_is_heard_after_a_gesture_and_in_step_with_the_picture(page: Page) -> None:
    button = page.locator("#sound")
    expect(button).to_be_visible()
    expect(button).to_have_attribute("data-state", "waiting")
    page.evaluate(TAP)
    page.keyboard.down("ArrowRight")
    expect(button).to_have_attribute("data-state", "heard")
    lags = []
    for _ in range(40):
        page.wait_for_timeout(100)
        if not np.isnan(lag := page.evaluate(LAG)):
            lags.append(lag)
    page.keyboard.up("ArrowRight")
    assert len(lags) > 20
    print(
        f"sound after picture, ms: median {np.median(lags):.0f}, worst {max(map(abs, lags)):.0f}, {len(lags)} samples"
    )
    assert abs(np.median(lags)) < MOST_LAG and np.mean(np.abs(lags) < MOST_LAG) > 0.8
    assert page.evaluate("() => window.loudest") > 0.3


def test_it_is_muted_and_stays_muted_after_a_reload(page: Page) -> None:
    page.locator("#sound").click()
    expect(page.locator("#sound")).to_have_attribute("data-state", "muted")
    expect(page.locator("#sound")).to_have_attribute("aria-pressed", "false")
    page.reload()
    expect(page.locator("#sound")).to_have_attribute("data-state", "muted")
    page.locator("#sound").click()
    expect(page.locator("#sound")).to_have_attribute("data-state", "heard")


def test_a_clip_has_the_sound_of_its_steps(page: Page, url: str) -> None:
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    page.keyboard.down("ArrowRight")
    deadline = time.monotonic() + 60
    while (page.evaluate("() => Number(document.getElementById('figure-step').textContent)") or 0) < 12:
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)
    page.keyboard.up("ArrowRight")
    address = page.locator("#clip").get_attribute("href") or ""
    assert address.endswith(".mp4")
    with urllib.request.urlopen(url + address) as answer:
        assert answer.headers["content-type"] == "video/mp4"
        file = io.BytesIO(answer.read())
    with av.open(file) as container:
        pictures = sum(1 for _ in container.decode(video=0))
        file.seek(0)
    with av.open(file) as container:
        heard = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    assert pictures >= 12 and abs(len(heard) / rate - pictures / FPS) < 0.2
    assert 0.2 < np.abs(heard).max() < 0.8
