"""Times and ranges as callers write them: whatever comes, a usable range or a refusal, never a calendar's overflow."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crowdperf.messaging.codec import MAX_TIME_S
from crowdperf.storage.buckets import BUCKETS, Calendar
from crowdperf.web.parameters import (
    MAX_RANGE,
    Cursor,
    format_rfc3339,
    parse_cursor,
    parse_instant,
    parse_span,
    parse_stream_id,
)
from crowdperf.web.problems import ApiProblem

ZONES = {
    name: Calendar(name)
    for name in ("UTC", "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Niue", "Asia/Kolkata", "Pacific/Chatham")
}
NOW = 1_777_593_600.0
EDGES = (datetime.min, datetime(1970, 1, 1), datetime(2999, 12, 31), datetime(9000, 1, 1), datetime.max)


def _near(edge: datetime, shift: timedelta) -> datetime:
    try:
        return edge + shift
    except OverflowError:
        return edge


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
days_near_edges = st.builds(_near, st.sampled_from(EDGES), st.timedeltas(timedelta(days=-2), timedelta(days=2)))
moments = st.one_of(st.datetimes(), days_near_edges)
texts = st.builds(lambda moment, offset: moment.replace(tzinfo=offset).isoformat(), moments, offsets)


@given(text=texts)
def test_an_instant_lies_between_1970_and_2999_or_is_refused(text: str) -> None:
    try:
        seconds = parse_instant("from", text)
    except ApiProblem:
        assert datetime.fromisoformat(text).year not in range(1971, 2999)
    else:
        assert 0 <= seconds < MAX_TIME_S
        assert datetime.fromisoformat(format_rfc3339(seconds)[:-1] + "+00:00").year in range(1970, 3000)


@given(start=st.none() | texts, end=st.none() | texts, zone=st.sampled_from(sorted(ZONES)))
@example(start=None, end="9999-12-31T23:59:59+00:00", zone="UTC")
@example(start="9999-12-31T01:00:00+00:00", end="9999-12-31T23:59:59+00:00", zone="Europe/Berlin")
@example(start=None, end="1970-01-01T00:00:00+00:00", zone="Europe/Berlin")
@example(start=None, end="1970-01-01T00:00:01+00:00", zone="Pacific/Niue")
@example(start=None, end="2999-12-31T23:59:59+00:00", zone="Pacific/Kiritimati")
def test_a_range_can_be_counted_or_is_refused(start: str | None, end: str | None, zone: str) -> None:
    calendar = ZONES[zone]
    try:
        asked = parse_span(start, end, NOW, ZoneInfo(zone))
    except ApiProblem:
        return
    assert 0 <= asked.start < asked.end <= MAX_TIME_S
    assert asked.end - asked.start <= MAX_RANGE.total_seconds()
    for bucket in (None, *BUCKETS):
        assert calendar.split_range(*asked, bucket, 0.0)
    assert calendar.list_bucket_starts("day", *asked)
    assert calendar.format_time(asked.end)


@pytest.mark.parametrize(("start", "end", "named"), [("2026-05-02", "2026-05-01", "from"), (None, "1970-01-01", "to")])
def test_an_empty_range_names_the_end_that_was_given(start: str | None, end: str, named: str) -> None:
    begin = f"{start}T00:00:00Z" if start else None
    with pytest.raises(ApiProblem, match=f"parameter '{named}' has the value '(2026|1970)"):
        parse_span(begin, f"{end}T00:00:00Z", NOW, ZoneInfo("Europe/Berlin"))


def test_digits_of_other_scripts_are_no_stream_id() -> None:
    """Redis reads the digits 0 to 9 only, and would answer any others with an error."""
    assert parse_stream_id("cursor", "12-3") == "12-3"
    for text in ("١٢-٣", "12-٣", "１２-３"):
        with pytest.raises(ApiProblem, match="'cursor'"):
            parse_stream_id("cursor", text)
        with pytest.raises(ApiProblem, match="'cursor'"):
            parse_cursor(Cursor("stream", 1.0, text).to_text(), "stream")
