"""Events and summaries in PostgreSQL: one statement per batch, which repeated changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.events.schema import AnyEvent, LineCrossed
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.crossings import Crossing
from crowdperf.storage.postgres import Database

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
COLUMNS = (
    ("id", "text"),
    ("ts", "timestamptz"),
    ("kind", "text"),
    ("camera", "text"),
    ("line", "text"),
    ("direction", "text"),
    ("class", "text"),
    ("track", "bigint"),
    ("payload", "jsonb"),
    ("minute", "timestamptz"),
    ("hour", "timestamptz"),
    ("day", "timestamptz"),
)
NAMES = ", ".join(name for name, _ in COLUMNS)
STORED = ", ".join(name for name, _ in COLUMNS[:9])
WRITE = f"""
WITH given AS (
    SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for _, kind in COLUMNS)}) AS row ({NAMES})
), fresh AS (
    INSERT INTO events ({STORED}) SELECT {STORED} FROM given ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), counted AS (
    INSERT INTO summaries (bucket, period, camera, line, class, direction, count)
    SELECT part.bucket, part.period, camera, line, class, direction, count(*)
    FROM given JOIN fresh USING (id)
    CROSS JOIN LATERAL (VALUES ('minute', minute), ('hour', hour), ('day', day)) AS part (period, bucket)
    WHERE kind = 'LineCrossed'
    GROUP BY part.bucket, part.period, camera, line, class, direction
    ORDER BY part.bucket, part.period, camera, line, class, direction
    ON CONFLICT (bucket, period, camera, line, class, direction)
    DO UPDATE SET count = summaries.count + excluded.count
)
SELECT count(*) FROM fresh
"""
"""Summaries grow by the events that were not there before: in one statement, so all of it or nothing."""


class Stored(Struct, frozen=True):
    """What is common to an event of the stream and a crossing of the history."""

    id: str
    ts: float
    kind: str
    camera: str
    line: str | None
    direction: str | None
    klass: str | None
    track: int | None
    payload: str


def of_event(event: AnyEvent) -> Stored:
    """The row of an event; its payload is the whole event."""
    return Stored(
        event.id,
        event.ts,
        type(event).__name__,
        event.camera,
        getattr(event, "line", None),
        getattr(event, "direction", None),
        getattr(event, "klass", None),
        getattr(event, "track", None),
        msgspec.json.encode(event).decode(),
    )


def of_crossing(row: Crossing) -> Stored:
    """The row of a crossing whose event is no longer in the stream."""
    kind = LineCrossed.__name__
    payload = msgspec.json.encode({"type": kind, **msgspec.to_builtins(row)}).decode()
    return Stored(row.id, row.ts, kind, row.camera, row.line, row.direction, row.klass, row.track, payload)


def write(database: Database, calendar: Calendar, rows: Sequence[Stored]) -> int:
    """Store rows; returns how many were not there before.

    Raises:
        DatabaseAway: it may or may not have happened; write the same again.
        DatabaseRefuses: nothing was stored.
    """
    once = list({row.id: row for row in rows}.values())
    if not once:
        return 0
    columns: list[list[Any]] = [
        [row.id for row in once],
        [_moment(row.ts) for row in once],
        [row.kind for row in once],
        [row.camera for row in once],
        [row.line for row in once],
        [row.direction for row in once],
        [row.klass for row in once],
        [row.track for row in once],
        [row.payload for row in once],
        [_moment(calendar.bucket("minute", row.ts)) for row in once],
        [_moment(calendar.bucket("hour", row.ts)) for row in once],
        [_moment(calendar.bucket("day", row.ts)) for row in once],
    ]
    return int(database.run(WRITE, columns)[0][0])


def recount(
    database: Database, calendar: Calendar, tick: Callable[[], None] = lambda: None, page: int = 20_000
) -> None:
    """Make the summaries of hours and days anew, for another zone; one transaction.

    Raises:
        DatabaseAway, DatabaseRefuses: the summaries are as they were.
    """
    totals: dict[tuple[Any, ...], int] = {}
    after = ("-infinity", "")
    while True:
        tick()
        rows = database.run(
            "SELECT ts, id, camera, line, class, direction FROM events WHERE kind = 'LineCrossed' "
            "AND (ts, id) > (%s::text::timestamptz, %s::text) ORDER BY ts, id LIMIT %s::bigint",
            [after[0], after[1], page],
        )
        for ts, _, *series in rows:
            for period in ("hour", "day"):
                bucket = calendar.bucket(period, ts.timestamp())
                name = (bucket, period, *series)
                totals[name] = totals.get(name, 0) + 1
        if len(rows) < page:
            break
        after = (rows[-1][0].isoformat(), rows[-1][1])
    database.run("BEGIN")
    database.run("DELETE FROM summaries WHERE period IN ('hour', 'day')")
    names = sorted(totals)
    for at in range(0, len(names), page):
        part = names[at : at + page]
        columns = [list(column) for column in zip(*part)]
        database.run(
            "INSERT INTO summaries (bucket, period, camera, line, class, direction, count) SELECT * FROM unnest("
            "%s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[])",
            [[_moment(ts) for ts in columns[0]], *columns[1:], [totals[name] for name in part]],
        )
    database.run("COMMIT")


def _moment(ts: float) -> datetime:
    """Exact to the microsecond, which is what timestamptz keeps."""
    return EPOCH + timedelta(microseconds=round(ts * 1e6))
