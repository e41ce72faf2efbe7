"""Rules and retention go by the accepted time: a wrong clock decides nothing at once."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from crowdperf.storage import steady_clock
from crowdperf.storage.steady_clock import DAY_S, EARLIEST_CLOCK_S, RuleClock, SteadyClock, clock_key, compute_rule_wait

NOW = 1_800_000_000.0
TWO_HOURS, TEN_YEARS = 7200.0, 3650 * DAY_S


def run(clock: SteadyClock, lead: float, seconds: int, at: float = 0.0) -> list[float]:
    """Return how far the accepted time is from the true one, at each second."""
    return [clock.now(NOW + at + n + lead, at + n) - (NOW + at + n) for n in range(seconds)]


@pytest.mark.parametrize("lead", [TWO_HOURS, TEN_YEARS])
def test_a_leap_ahead_is_not_followed_at_once_and_time_goes_on(lead: float) -> None:
    clock = SteadyClock(NOW, 0.0)
    assert set(run(clock, lead, 299)) == {0.0}, "neither the leap nor a faster clock, which would end short waits"
    assert run(clock, 0.0, 10, at=299.0) == [0.0] * 10, "it was put right"


@pytest.mark.parametrize(("lead", "wait_s"), [(TWO_HOURS, 300), (8 * 3600.0, 1200)])
def test_a_leap_that_lasts_is_taken_over(lead: float, wait_s: int) -> None:
    leads = run(SteadyClock(NOW, 0.0), lead, wait_s + 2)
    assert leads == [*[0.0] * wait_s, lead, lead]


def test_a_rule_waits_a_day_at_most() -> None:
    clock = SteadyClock(NOW, 0.0, get_wait=compute_rule_wait)
    assert clock.now(NOW + TEN_YEARS + DAY_S - 1, DAY_S - 1) == NOW + DAY_S - 1
    assert clock.now(NOW + TEN_YEARS + DAY_S, DAY_S) == NOW + TEN_YEARS + DAY_S


@pytest.mark.parametrize("off_s", [8 * 3600.0, 3 * DAY_S])
def test_rules_go_on_five_minutes_after_a_machine_was_off(off_s: float) -> None:
    leads = run(SteadyClock(NOW, 0.0, get_wait=compute_rule_wait), off_s, 302)
    assert leads == [*[0.0] * 300, off_s, off_s]


def test_a_clock_of_a_time_service_is_believed_at_once() -> None:
    assert run(SteadyClock(NOW, 0.0, is_trusted=lambda: True), TWO_HOURS, 2) == [TWO_HOURS] * 2


@pytest.mark.parametrize("back", [1.0, TWO_HOURS, 300 * DAY_S])
def test_a_clock_that_is_set_back_is_followed_at_once(back: float) -> None:
    assert run(SteadyClock(NOW, 0.0), -back, 3) == [-back] * 3


@pytest.mark.parametrize("step", [0.05, -0.05])
def test_a_slow_correction_is_followed(step: float) -> None:
    clock = SteadyClock(NOW, 0.0)
    leads = [clock.now(NOW + n * (1 + step), float(n)) - NOW - n for n in range(20_000)]
    assert leads[-1] == pytest.approx(19_999 * step)


def test_a_clock_that_is_not_set_yet_changes_nothing() -> None:
    clock = SteadyClock(NOW, 0.0)
    assert clock.now(86_400.0, 10.0) == NOW + 10
    assert clock.now(NOW + 20, 20.0) == NOW + 20
    assert SteadyClock().now(EARLIEST_CLOCK_S - 1, 0.0) == EARLIEST_CLOCK_S - 1


class Store:
    """The hash in which housekeeping keeps the clock."""

    def __init__(self, clock: SteadyClock, accepted: float) -> None:
        self.fields = {"clock": repr(accepted).encode(), "state": clock.dump_state().encode()}

    def hmget(self, key: str, *names: str) -> list[bytes | None]:
        assert key == clock_key()
        return [self.fields.get(name) for name in names]


def test_rules_go_on_after_a_restart_during_a_leap(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = SteadyClock(NOW, 0.0)
    run(kept, TWO_HOURS, 201)
    store = Store(kept, NOW + 200)
    at = SimpleNamespace(time=lambda: NOW + 250 + TWO_HOURS, monotonic=lambda: 250.0)
    monkeypatch.setattr(steady_clock, "time", at)
    monkeypatch.setattr(steady_clock, "is_synchronised", lambda: False)
    clock = RuleClock(store)
    assert clock.now() == NOW + 250, "the time between the sweep and the restart is known"
    at.time, at.monotonic = (lambda: NOW + 301 + TWO_HOURS), (lambda: 301.0)
    assert clock.now() == NOW + 301 + TWO_HOURS, "what was waited before the restart counts"
    store.fields["state"] = b"another-boot 7.0 0.0"
    assert RuleClock(store).now() == NOW + 200, "after a restart of the machine the time between is not known"


def test_whether_a_time_service_keeps_the_clock_can_be_asked() -> None:
    assert steady_clock.is_synchronised() in (True, False)
    assert math.isfinite(RuleClock(SimpleNamespace(hmget=lambda *_: [None, None])).now())


def test_a_stored_clock_stays_readable() -> None:
    store = Store(SteadyClock(NOW, 5.0), NOW)
    store.fields["state"] = b"0b0c57a4-another-boot 5.0 12.5"
    clock = steady_clock.load_clock(store)
    assert clock.now(NOW + 7200, 0.0) == NOW
    assert clock.dump_state().split(" ")[1:] == ["0.0", "12.5"]
