"""Events and summaries in PostgreSQL: one idempotent statement per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.messaging.schema import AnyEvent, LineCrossed
from crowdperf.storage.buckets import BUCKETS, Calendar
from crowdperf.storage.counts import CrossingRecord
from crowdperf.storage.postgres.driver import Database

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
COLUMN_NAMES = ", ".join(name for name, _ in COLUMNS)
EVENT_COLUMN_NAMES = ", ".join(name for name, _ in COLUMNS[:9])
WRITE_STATEMENT = f"""
WITH given AS (
    SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for _, kind in COLUMNS)}) AS row ({COLUMN_NAMES})
), fresh AS (
    INSERT INTO events ({EVENT_COLUMN_NAMES}) SELECT {EVENT_COLUMN_NAMES} FROM given ORDER BY id
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
"""Store events and raise the summaries by the new ones, in one atomic statement."""


class EventRow(Struct, frozen=True):
    """The columns of an event, from the stream or from the history."""

    id: str
    ts: float
    kind: str
    camera: str
    line: str | None
    direction: str | None
    class_name: str | None
    track: int | None
    payload: str


def build_event_row(event: AnyEvent) -> EventRow:
    """Build the row of an event; its payload is the whole event."""
    return EventRow(
        event.id,
        event.ts,
        type(event).__name__,
        event.camera,
        getattr(event, "line", None),
        getattr(event, "direction", None),
        getattr(event, "class_name", None),
        getattr(event, "track", None),
        msgspec.json.encode(event).decode(),
    )


def build_crossing_row(row: CrossingRecord) -> EventRow:
    """Build the row of a crossing whose event has left the stream."""
    kind = LineCrossed.__name__
    payload = msgspec.json.encode({"type": kind, **msgspec.to_builtins(row)}).decode()
    return EventRow(row.id, row.ts, kind, row.camera, row.line, row.direction, row.class_name, row.track, payload)


def write_rows(database: Database, calendar: Calendar, rows: Sequence[EventRow]) -> int:
    """Store rows. Known ones change nothing.

    Args:
        database: open connection.
        calendar: calendar of the site.
        rows: rows to store.

    Returns:
        Number of new rows.

    Raises:
        DatabaseUnavailableError: the outcome is unknown; write the same rows again.
        DatabaseRejectedError: nothing was stored.
    """
    once = list({row.id: row for row in rows}.values())
    if not once:
        return 0
    columns: list[list[Any]] = [[getattr(row, name) for row in once] for name in EventRow.__struct_fields__]
    columns[1] = [_to_datetime(row.ts) for row in once]
    columns += [[_to_datetime(calendar.get_bucket_start(bucket, row.ts)) for row in once] for bucket in BUCKETS]
    return int(database.run(WRITE_STATEMENT, columns)[0][0])


def recount_summaries(
    database: Database, calendar: Calendar, tick: Callable[[], None] = lambda: None, page: int = 20_000
) -> None:
    """Rebuild the summaries of hours and days for another time zone, in one transaction.

    Args:
        database: open connection.
        calendar: calendar of the site.
        tick: called once per page.
        page: rows per page.

    Raises:
        DatabaseUnavailableError, DatabaseRejectedError: the summaries are unchanged.
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
                bucket = calendar.get_bucket_start(period, ts.timestamp())
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
            [[_to_datetime(ts) for ts in columns[0]], *columns[1:], [totals[name] for name in part]],
        )
    database.run("COMMIT")


def _to_datetime(ts: float) -> datetime:
    """Convert exactly to microseconds, the precision of timestamptz."""
    return EPOCH + timedelta(microseconds=round(ts * 1e6))
