"""Weekly windows on the site's clock."""

from __future__ import annotations

import zoneinfo
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.settings.schedule import DAYS, Schedule, Window

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NIGHT = Window(start="22:00", end="06:00")
OFFICE = Window(days=["mon", "tue", "wed", "thu", "fri"], start="08:00", end="18:00")
SATURDAY_NIGHT = Window(days=["sat"], start="22:00", end="06:00")


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


@pytest.mark.parametrize(
    ("window", "when", "holds"),
    [
        (OFFICE, "2026-11-24T08:00", True),
        (OFFICE, "2026-11-24T07:59:59", False),
        (OFFICE, "2026-11-24T18:00", False),
        (OFFICE, "2026-11-28T12:00", False),
        (NIGHT, "2026-11-24T23:00", True),
        (NIGHT, "2026-11-25T05:59:59", True),
        (NIGHT, "2026-11-25T06:00", False),
        (SATURDAY_NIGHT, "2026-11-29T05:00", True),
        (SATURDAY_NIGHT, "2026-11-28T05:00", False),
        (Window(days=["sun"]), "2026-11-29T23:59:59", True),
        (Window(days=["sun"]), "2026-11-30T00:00", False),
        # The night on which clocks go back: 02:30 is there twice, and both belong to it.
        (NIGHT, "2026-10-25T02:30", True),
    ],
)
def test_a_window_holds_on_the_sites_clock(window: Window, when: str, holds: bool) -> None:
    assert Schedule([window], BERLIN).contains(at(when)) is holds


def test_no_windows_mean_always_for_rules_never_for_quiet_hours() -> None:
    assert Schedule([], BERLIN).is_active(0.0)
    assert not Schedule([], BERLIN).contains(0.0)
    assert Schedule([], BERLIN).find_end(5.0) == 5.0


def test_the_end_of_quiet_hours_takes_adjoining_windows_together() -> None:
    windows = [NIGHT, Window(days=["sat", "sun"], start="06:00", end="10:00")]
    assert Schedule(windows, BERLIN).find_end(at("2026-11-27T23:00")) == at("2026-11-28T10:00")
    assert Schedule(windows, BERLIN).find_end(at("2026-11-24T23:00")) == at("2026-11-25T06:00")
    assert Schedule([Window()], BERLIN).find_end(at("2026-11-24T12:00")) >= at("2026-12-02T00:00")


clock = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))


@given(
    st.lists(
        st.builds(
            lambda days, start, end: Window(days=days, start=start, end=end),
            st.lists(st.sampled_from(DAYS), min_size=1),
            clock,
            clock,
        ),
        max_size=3,
    ),
    st.floats(1.7e9, 1.9e9),
)
def test_nothing_holds_at_the_end(windows: list[Window], ts: float) -> None:
    end = Schedule(windows, BERLIN).find_end(ts)
    assert end >= ts
    assert (end > ts) == Schedule(windows, BERLIN).contains(ts)
    assert end - ts >= 8 * 86_400 or not Schedule(windows, BERLIN).contains(end)
