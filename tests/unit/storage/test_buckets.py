"""Minutes, hours and days of the site's zone, through every way in which clocks change."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.storage.buckets import BUCKETS, DAY, HOUR, MINUTE, QUARTER, Bucket, Calendar, RangePart

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Pacific/Apia",
    "Pacific/Chatham",
]
CALENDARS = {name: Calendar(name) for name in ZONES}


def at(zone: str, text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=CALENDARS[zone].zone).timestamp()


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Europe/Berlin", "2026-05-01", 24),
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("America/Sao_Paulo", "2018-11-04", 23),
        ("Asia/Kolkata", "2026-05-01", 24),
    ],
)
def test_a_day_is_as_long_as_the_clocks_say(zone: str, day: str, hours: float) -> None:
    calendar = CALENDARS[zone]
    number = datetime.fromisoformat(day).toordinal()
    start, end = calendar.get_day_start(number), calendar.get_day_start(number + 1)
    assert end - start == hours * 3600
    assert calendar.get_day(start) == calendar.get_day(end - 0.001) == number
    assert calendar.get_day(start - 0.001) == number - 1


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    calendar = CALENDARS["Europe/Berlin"]
    first = datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc).timestamp()
    texts = [calendar.format_time(calendar.get_hour_start(moment)) for moment in (first, first + 3600)]
    assert texts == ["2026-10-25T02:00:00.000+02:00", "2026-10-25T02:00:00.000+01:00"]


def test_hours_of_a_half_hour_zone_are_made_of_quarters() -> None:
    calendar = CALENDARS["Asia/Kolkata"]
    assert calendar.grid is QUARTER
    assert CALENDARS["Europe/Berlin"].grid is HOUR
    noon = at("Asia/Kolkata", "2026-05-01T12:20:00")
    assert calendar.format_time(calendar.get_hour_start(noon)) == "2026-05-01T12:00:00.000+05:30"


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("bucket", BUCKETS)
@given(
    start=st.floats(1.5e9, 1.85e9),
    length=st.one_of(st.floats(0.001, 200_000), st.floats(0.001, 5_000_000)),
    minutes_from=st.sampled_from([0.0, 1.65e9, 4e9]),
    automatic=st.booleans(),
)
def test_parts_cover_a_range_once_and_never_cut_a_bucket_wrongly(
    zone: str, bucket: Bucket, start: float, length: float, minutes_from: float, automatic: bool
) -> None:
    calendar = CALENDARS[zone]
    end = start + min(length, 200_000 if bucket == "minute" else length)
    parts = calendar.split_range(start, end, None if automatic else bucket, minutes_from)
    assert parts[0].start == start
    assert parts[-1].stop == end
    for before, after in itertools.pairwise(parts):
        assert before.stop == after.start
    for part in parts:
        assert part.start < part.stop
        if part.level is not None:
            _is_whole(calendar, part)
            if part.level is MINUTE:
                assert part.start >= minutes_from
            if not automatic:
                assert part.level.seconds <= {"minute": 60, "hour": 3600, "day": 86_400}[bucket]


def _is_whole(calendar: Calendar, part: RangePart) -> None:
    """Its slots are exactly its range."""
    assert part.level is not None
    assert calendar.get_slot(part.level, part.start) == part.first
    assert calendar.get_slot(part.level, part.stop) == part.end
    assert calendar.get_slot(part.level, part.stop - 0.001) == part.end - 1
    if part.level is DAY:
        assert calendar.get_day_start(part.first) == part.start


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("bucket", BUCKETS)
@given(start=st.integers(1_500_000_000, 1_850_000_000), length=st.integers(1, 400_000), share=st.floats(0, 0.999))
def test_every_moment_of_a_range_has_its_bucket_in_the_list(
    zone: str, bucket: Bucket, start: int, length: int, share: float
) -> None:
    calendar = CALENDARS[zone]
    starts = calendar.list_bucket_starts(bucket, start, start + length)
    assert starts == sorted(set(starts))
    assert calendar.get_bucket_start(bucket, start + share * length) in starts
    assert starts[0] <= start < start + length
    assert starts[-1] < start + length


def test_clock_going_back_within_an_hour_splits_it() -> None:
    chatham = CALENDARS["Pacific/Chatham"]
    # 3:00 summer time, 2:45 again three quarters later, 3:00 again after another.
    three = int(datetime(2027, 4, 3, 13, 15, tzinfo=timezone.utc).timestamp())
    assert [chatham.format_time(three + n * 900)[11:16] for n in range(5)] == [
        "03:00",
        "03:15",
        "03:30",
        "02:45",
        "03:00",
    ]
    assert chatham.list_bucket_starts("hour", three, three + 3601) == [three, three + 2700, three + 3600]
    assert [chatham.get_hour_start(three + n * 900) for n in range(5)] == [three] * 3 + [three + 2700, three + 3600]


def test_times_are_told_in_the_sites_zone_with_its_offset() -> None:
    assert CALENDARS["Asia/Kathmandu"].format_time(0.0005) == "1970-01-01T05:30:00.000+05:30"
    summer = datetime(2026, 7, 1, 12, tzinfo=timezone.utc) + timedelta(milliseconds=250)
    assert CALENDARS["Europe/Berlin"].format_time(summer.timestamp()) == "2026-07-01T14:00:00.250+02:00"
