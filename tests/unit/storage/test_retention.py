"""What removes history must not be hurried by a wrong clock, nor flicker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowdperf.storage.retention import update_filling
from crowdperf.storage.steady_clock import DAY_S, SteadyClock

NOW = 1_800_000_000.0


def test_time_passes_as_it_should() -> None:
    clock = SteadyClock(NOW)
    assert [clock.now(NOW + n * 15, n * 15.0) for n in range(5)] == [NOW + n * 15 for n in range(5)]


def test_a_leap_of_ten_years_removes_a_day_per_hour_at_most() -> None:
    clock = SteadyClock(NOW)
    leapt = [clock.now(NOW + 3650 * DAY_S + n * 15, 1000 + n * 15.0) for n in range(241)]
    assert leapt[0] <= NOW + 60
    assert leapt[-1] - leapt[0] <= DAY_S + 1


def test_a_clock_that_is_put_right_again_counts_at_once() -> None:
    clock = SteadyClock(NOW)
    clock.now(NOW + 3650 * DAY_S, 0.0)
    clock.now(NOW + 3650 * DAY_S, 3600.0)
    assert clock.now(NOW + 3620, 3620.0) == NOW + 3620


def test_a_long_outage_catches_up() -> None:
    clock = SteadyClock(NOW)
    away = 90 * DAY_S
    for n in range(int(4 * DAY_S / 900)):
        now = clock.now(NOW + away + n * 900, n * 900.0)
    assert now == NOW + away + n * 900


@given(st.lists(st.floats(0, 1.2), min_size=1))
def test_memory_states_have_hysteresis(shares: list[float]) -> None:
    state = "ok"
    for share in shares:
        before, state = state, update_filling(share, state)
        if share >= 0.9:
            assert state == "dropping"
        elif share < 0.7:
            assert state == "ok"
        else:
            assert state != "dropping" or before == "dropping"
            assert state != "ok" or before == "ok"


def test_dropping_goes_on_until_there_is_room() -> None:
    assert update_filling(0.89, "filling") == "filling"
    assert update_filling(0.80, "dropping") == "dropping"
    assert update_filling(0.74, "dropping") == "filling"
