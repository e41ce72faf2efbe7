"""`crowdperf import-sqlite events.db`: import the history of an older installation.

The file is opened read-only. A repeated import changes nothing: the id of a row is its own or a hash of its content.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote
from zoneinfo import ZoneInfo

from msgspec import Struct, field

from crowdperf.messaging.redis.client import connect
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Deployment
from crowdperf.storage import counts
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import CountersOutdatedError, CrossingRecord
from crowdperf.storage.postgres import backfill
from crowdperf.storage.retention import HistoryRetention
from crowdperf.storage.steady_clock import DAY_S
from crowdperf.storage.transfer.sqlite_rows import COLUMN_ALIASES, ColumnMapping, RowRejectedError, parse_row

BATCH_ROWS = 1000
MAX_AHEAD_S = 86_400.0
MAX_REASONS = 50


class ImportReport(Struct):
    """Counts of the rows by outcome."""

    read: int = 0
    kept: int = 0
    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    durable: bool = True
    """True where the server has an append-only file."""


class ProgressBar:
    """A progress bar; silent unless the output is a terminal."""

    def __init__(self, total: int, out: TextIO) -> None:
        self._total = max(1, total)
        self._out = out if out.isatty() else None
        self._started_at = self._drawn_at = time.monotonic()

    def show(self, done: int, end: bool = False) -> None:
        """Draw the bar at most ten times a second."""
        now = time.monotonic()
        if self._out is None or (now - self._drawn_at < 0.1 and not end):
            return
        self._drawn_at = now
        share = min(1.0, done / self._total)
        rate = done / max(0.001, now - self._started_at)
        left = "" if end else f", {max(0, self._total - done) / max(1.0, rate):.0f} s left"
        bar = "█" * int(share * 30)
        text = f"\r{bar:<30} {share:4.0%}  {done:,} of {self._total:,} rows{left}\x1b[K"
        self._out.write(text + ("\n" if end else ""))
        self._out.flush()


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file read-only, or raise ConfigError."""
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}. Remedy: name the old installation's events.db.")
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ConfigError(
            f"{str(path)!r} is no SQLite database that can be read ({error}). Remedy: name the old installation's "
            "events.db (with its -wal file beside it, if it has one)."
        ) from None
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def list_tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return table -> its columns."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name")
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({_quote_identifier(name)})")]
        for (name,) in names.fetchall()
        if not name.startswith("sqlite_")
    }


def _quote_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def count_rows(connection: sqlite3.Connection, table: str) -> int:
    """Count the rows of a table."""
    return int(connection.execute(f"SELECT count(*) FROM {_quote_identifier(table)}").fetchone()[0])


def inspect(connection: sqlite3.Connection, out: TextIO) -> None:
    """Print each table: columns, number of rows, two samples and the field each column maps to."""
    known = {name: field for field, names in COLUMN_ALIASES.items() for name in names}
    for table, columns in list_tables(connection).items():
        print(f"{table}: {count_rows(connection, table):,} rows", file=out)
        samples = connection.execute(f"SELECT * FROM {_quote_identifier(table)} LIMIT 2").fetchall()
        for index, column in enumerate(columns):
            field = known.get(column.lower(), "")
            shown = ", ".join(repr(row[index])[:40] for row in samples)
            print(f"  {column:<20} {'-> ' + field if field else '':<14} {shown}", file=out)


class SourceTable(NamedTuple):
    """A table of the file, and how its rows become crossings."""

    connection: sqlite3.Connection
    name: str
    columns: ColumnMapping
    values: dict[tuple[str, str], str]
    """(Field, text in lower case) -> replacement."""


def _iter_crossings(source: SourceTable, zone: ZoneInfo, report: ImportReport) -> Iterator[CrossingRecord]:
    """Parse the rows in file order, one row in memory at a time."""
    table = _quote_identifier(source.name)
    without_rowid = False
    try:
        cursor = source.connection.execute(f"SELECT rowid, * FROM {table}")
    except sqlite3.OperationalError:
        without_rowid = True
        cursor = source.connection.execute(f"SELECT 0, * FROM {table}")
    for rowid, *row in cursor:
        report.read += 1
        try:
            yield parse_row(row, source.columns, zone, source.values, 0 if without_rowid else int(rowid or 0))
        except RowRejectedError as reason:
            text = str(reason)
            if text not in report.rejected and len(report.rejected) >= MAX_REASONS:
                text = "other reasons"
            report.rejected[text] += 1


def import_crossings(source: SourceTable, deployment: Deployment, report: ImportReport, progress: ProgressBar) -> None:
    """Add crossings in batches.

    Args:
        source: table of the crossings.
        deployment: the installation that receives them.
        report: receives the outcomes.
        progress: bar to draw.

    Raises:
        redis.ConnectionError, redis.TimeoutError: added crossings stay; run the import again.
    """
    now = time.time()
    client: Any = connect(deployment.redis_url)
    prefix, retention = deployment.config.key_prefix, deployment.config.retention
    calendar = Calendar(deployment.config.site.timezone)
    backfill.prepare(client, calendar, prefix)
    # Retention would remove older minute counters within the hour.
    HistoryRetention(client, prefix).expire_minutes(now - retention.minute_counts_days * DAY_S)
    oldest = now - retention.crossings_days * DAY_S
    batch: list[CrossingRecord] = []

    def flush() -> None:
        try:
            done = counts.add_crossings(client, calendar, batch, prefix)
        except CountersOutdatedError:
            backfill.prepare(client, calendar, prefix)
            done = counts.add_crossings(client, calendar, batch, prefix)
        report.kept += done.added
        report.duplicates += len(batch) - done.added - done.late
        if done.late:
            report.rejected["from a time whose crossings retention has removed"] += done.late
        batch.clear()
        progress.show(report.read)

    for row in _iter_crossings(source, calendar.zone, report):
        if row.ts < oldest:
            report.rejected[f"older than retention.crossings_days ({retention.crossings_days})"] += 1
        elif row.ts > now + MAX_AHEAD_S:
            report.rejected["ts is before 1990 or in the future"] += 1
        else:
            batch.append(row)
        if len(batch) >= BATCH_ROWS:
            flush()
    flush()
    progress.show(report.read, end=True)
    state = client.info("persistence")
    report.durable = bool(int(state.get("aof_enabled", 0)))
