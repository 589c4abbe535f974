"""Keys become actions, control passes between viewers, and rates are limited."""

from __future__ import annotations

import pytest
from gymnasium import spaces

from magrathea.server.action_inputs import ActionInputs
from magrathea.server.controls import MAX_PENDING, REPEAT_DELAY, Controls
from magrathea.server.protocol import ProtocolError
from magrathea.server.rate_limiter import RateLimiter
from magrathea.server.viewers import IDLE_SECONDS, TURN_SECONDS, ControlLock, Viewer

WITH_NOOP = ActionInputs(spaces.Discrete(10), {"action_names": ["noop"]})
WITHOUT_NOOP = ActionInputs(spaces.Discrete(10), {})


def test_a_rate_limiter_allows_bursts_and_refills() -> None:
    now = [0.0]
    limiter = RateLimiter(rate=10, clock=lambda: now[0])
    assert [limiter.allow() for _ in range(12)] == [True] * 10 + [False] * 2
    assert limiter.seconds_left() == pytest.approx(0.1)
    now[0] = 0.25
    assert [limiter.allow() for _ in range(3)] == [True, True, False]
    limiter.reset(rate=1)
    assert [limiter.allow() for _ in range(2)] == [True, False]
    limiter.reset(rate=None)
    assert all(limiter.allow() for _ in range(100))


def test_late_steps_are_made_up_for_but_never_come_in_a_burst() -> None:
    now = [0.0]
    limiter = RateLimiter(rate=10, burst=1.5, clock=lambda: now[0])
    limiter.reset(rate=10)
    limiter.take()
    now[0] = 0.13  # 0.03 late
    limiter.take()
    assert limiter.seconds_left() == pytest.approx(0.07)
    now[0] = 5.0
    limiter.take()
    assert limiter.seconds_left() == pytest.approx(0.05)


def test_a_key_press_between_two_steps_is_not_lost() -> None:
    controls = Controls(10, WITH_NOOP)
    controls.press(3, now=0.0)
    controls.release(3)
    assert [controls.take_step(0.1), controls.take_step(0.2)] == [(3,), ()]


def test_the_latest_key_wins_and_the_one_held_before_returns() -> None:
    controls = Controls(10, WITH_NOOP)
    controls.press(1, 0.0)
    assert [controls.take_step(0.1), controls.take_step(0.2)] == [(1,), (1,)]
    controls.press(2, 0.25)
    assert [controls.take_step(0.3), controls.take_step(0.4)] == [(2,), (2,)]
    controls.release(2)
    assert controls.take_step(0.5) == (1,)
    controls.release(None)
    assert controls.take_step(0.6) == ()


def test_a_world_without_a_noop_waits_for_a_key() -> None:
    controls = Controls(1000, WITHOUT_NOOP)
    assert controls.take_step(0.0) is None and controls.seconds_until_step(0.0, True) == float("inf")
    controls.press(4, 0.0)
    assert controls.take_step(0.0) == (4,)
    left = controls.seconds_until_step(0.1, True)
    assert controls.take_step(0.1) is None and left == pytest.approx(REPEAT_DELAY - 0.1)
    assert controls.take_step(REPEAT_DELAY) == (4,)
    with pytest.raises(ProtocolError, match="no no-op"):
        Controls(10, WITHOUT_NOOP).single_step(None)


def test_old_key_presses_do_not_pile_up() -> None:
    controls = Controls(10, WITH_NOOP)
    for action in range(10):
        controls.press(action, 0.0)
        controls.release(action)
    assert [controls.take_step(1.0) for _ in range(MAX_PENDING + 1)] == [(6,), (7,), (8,), (9,), ()]


def test_a_single_step_takes_the_chosen_action_then_the_noop() -> None:
    controls = Controls(10, WITH_NOOP)
    controls.pause(True)
    controls.press(5, 0.0)
    controls.press(6, 0.0)
    assert controls.next_buttons == (6,)
    controls.single_step(None)
    controls.single_step(None)
    assert controls.seconds_until_step(0.0, False) == 0
    assert [controls.take_step(0.0), controls.take_step(0.0)] == [(6,), ()]


def test_control_passes_to_the_viewers_who_request_it() -> None:
    first, second, third = Viewer(), Viewer(), Viewer()
    lock = ControlLock()
    assert lock.acquire(first, 0.0) and not lock.acquire(second, 1.0)
    lock.request(second, 2.0)
    lock.request(third, 2.5)
    lock.acquire(first, 5.0)
    assert lock.expire(9.0) == pytest.approx(5.0 + IDLE_SECONDS - 9.0)
    lock.expire(5.0 + IDLE_SECONDS)
    assert lock.holder is second and lock.requests == [third]
    now = 5.0 + IDLE_SECONDS
    while lock.holder is second and now < 200:
        now += 1.0
        lock.acquire(second, now)
        lock.expire(now)
    assert lock.holder is third and now == 5.0 + IDLE_SECONDS + TURN_SECONDS
    lock.request(first, now)
    lock.release(first, now)
    assert lock.requests == []
    lock.release(third, now)
    assert lock.holder is None and lock.acquire(second, now)
    lock.request(first, now)
    lock.release(second, now)
    assert lock.holder is first
