"""Move the history: `crowdperf export`, `crowdperf import-sqlite` and `crowdperf migrate`."""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from crowdperf.messaging.redis.client import OUTAGE, connect_async, describe_outage
from crowdperf.primitives.atomic_file import replace_file
from crowdperf.settings.base import CLASSES, ConfigError
from crowdperf.settings.config import Installation
from crowdperf.settings.site import resolve_dsn
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.postgres import driver, migrations
from crowdperf.storage.queries import CrossingFilter
from crowdperf.storage.transfer import sqlite_import
from crowdperf.storage.transfer.export import Format, ParquetUnavailableError, iter_chunks
from crowdperf.storage.transfer.sqlite_rows import COLUMN_ALIASES, RowRejectedError, map_columns, parse_time

DEFAULT_EXPORT_DAYS = 30
"""An export without `--from` covers this many days, the last one included."""


def run_export(words: list[str], installation: Installation) -> int:
    """Run `crowdperf export`: crossings of a time range into a CSV or Parquet file."""
    arguments = _build_export_parser().parse_args(words)
    deployment = installation.load()
    calendar = Calendar(deployment.config.site.timezone)
    end = _parse_time("--to", arguments.end, calendar, time.time())
    today = datetime.fromtimestamp(end, calendar.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    first_day = today - timedelta(days=DEFAULT_EXPORT_DAYS - 1)
    start = _parse_time("--from", arguments.start, calendar, first_day.timestamp())
    if start >= end:
        raise ConfigError("--from is not before --to: the range is empty. Remedy: the range is [from, to).")
    selection = CrossingFilter(start, end, arguments.camera, arguments.line, arguments.klass, arguments.direction)
    file_format: Format = arguments.format or ("parquet" if arguments.out.endswith(".parquet") else "csv")

    async def write_chunks(file: BinaryIO) -> int:
        client = connect_async(deployment.redis_url)
        written = 0
        try:
            async for chunk in iter_chunks(client, selection, calendar, file_format, deployment.config.key_prefix):
                written += file.write(chunk)
        finally:
            await client.aclose()
        return written

    try:
        if arguments.out == "-":
            asyncio.run(write_chunks(sys.stdout.buffer))
            return 0
        path = Path(arguments.out)
        with replace_file(path) as temporary, temporary.open("wb") as file:
            size = asyncio.run(write_chunks(file))
    except OUTAGE as error:
        raise ConfigError(describe_outage(error, "start the site, or see redis.url.")) from None
    except ParquetUnavailableError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(f"cannot write {arguments.out!r}: {error.strerror}. Remedy: choose another --out.") from None
    print(f"{path}: {size:,} bytes, {calendar.format_time(start)} to {calendar.format_time(end)}", file=sys.stderr)
    return 0


def _build_export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crowdperf export",
        description="Crossings as CSV or Parquet, with times in the site's zone.",
    )
    parser.add_argument("--from", dest="start", default="", help="included: 2026-05-01, 2026-05-01T08:00, RFC 3339")
    parser.add_argument("--to", dest="end", default="", help="excluded; default: now")
    parser.add_argument("--out", required=True, help="file (.csv or .parquet), or - for the terminal")
    parser.add_argument("--format", choices=("csv", "parquet"), help="default: by the file's name, else csv")
    parser.add_argument("--camera", default="")
    parser.add_argument("--line", default="")
    parser.add_argument("--class", dest="klass", default="", choices=("", *CLASSES))
    parser.add_argument("--direction", default="", choices=("", "in", "out"))
    return parser


def _parse_time(option: str, text: str, calendar: Calendar, default: float) -> float:
    if not text:
        return default
    try:
        return parse_time(text, calendar.zone)
    except RowRejectedError:
        raise ConfigError(
            f"{option} {text!r} is no time. Remedy: write 2026-05-01, 2026-05-01T08:00 or RFC 3339 with a zone."
        ) from None


def run_import_sqlite(words: list[str], installation: Installation) -> int:
    """Run `crowdperf import-sqlite`; the status is 1 when no row could be used."""
    arguments = _build_import_parser().parse_args(words)
    deployment = installation.load()
    connection = sqlite_import.open_file(arguments.file)
    if arguments.inspect:
        sqlite_import.inspect(connection, sys.stdout)
        return 0
    tables = sqlite_import.list_tables(connection)
    if arguments.table not in tables:
        raise ConfigError(
            f"{str(arguments.file)!r} has no table {arguments.table!r} (it has: {', '.join(tables) or 'none'}). "
            "Remedy: name one by --table; --inspect shows them. Nothing was changed."
        )
    columns = map_columns(
        tables[arguments.table],
        _parse_pairs("--map", arguments.map),
        _parse_pairs("--set", arguments.set),
        arguments.table,
    )
    values = {}
    for key, value in _parse_pairs("--value", arguments.value).items():
        field, _, text = key.partition(":")
        values[field, text.lower()] = value
    report = sqlite_import.ImportReport()
    total = sqlite_import.count_rows(connection, arguments.table)
    source = sqlite_import.SourceTable(connection, arguments.table, columns, values)
    progress = sqlite_import.ProgressBar(total, sys.stderr)
    try:
        sqlite_import.import_crossings(source, deployment, report, progress)
    except OUTAGE as error:
        remedy = "start the site (or Redis), then run the import again: it goes on where it is needed."
        raise ConfigError(f"{report.read:,} of {total:,} rows were read. {describe_outage(error, remedy)}") from None
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"{str(arguments.file)!r} is damaged after {report.read:,} rows ({error}). What was read is kept. Remedy: "
            "repair it with `sqlite3 FILE .recover`, then import the result: nothing is there twice."
        ) from None
    finally:
        connection.close()
    return _print_report(report, arguments.file)


def _build_import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crowdperf import-sqlite",
        description="Import the crossings of an older installation's SQLite file. It may be repeated.",
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--inspect", action="store_true", help="only show what is in the file")
    parser.add_argument("--table", default="events")
    parser.add_argument(
        "--map", action="append", default=[], metavar="COLUMN=FIELD", help=f"fields: {', '.join(COLUMN_ALIASES)}"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="the same for every row")
    parser.add_argument("--value", action="append", default=[], metavar="FIELD:TEXT=MEANT", help="direction:up=in")
    return parser


def _parse_pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise ConfigError(f"{option} {text!r} is not of the form A=B. Remedy: see crowdperf import-sqlite --help.")
        pairs[left] = right
    return pairs


def _print_report(report: sqlite_import.ImportReport, file: Path) -> int:
    rejected = sum(report.rejected.values())
    print(f"read      {report.read:>12,}")
    print(f"kept      {report.kept:>12,}")
    print(f"already   {report.duplicates:>12,}  (were in the history before)")
    print(f"rejected  {rejected:>12,}")
    for reason, number in report.rejected.most_common():
        print(f"          {number:>12,}  {reason}")
    if report.read and not report.kept and not report.duplicates:
        print(f"Nothing of {file} could be used. Remedy: see the reasons above; --inspect shows the columns.")
        return 1
    if not report.durable:
        print(f"This Redis keeps no append-only file: make its data durable before you delete {file}.")
    elif rejected:
        print(f"All that can be used is in Redis. Look at what was rejected; then {file} may be deleted.")
    else:
        print(f"Everything is in Redis. {file} is no longer needed and may now be deleted.")
    return 0


def run_migrate(words: list[str], installation: Installation) -> int:
    """Run `crowdperf migrate`: create or update the tables in PostgreSQL."""
    parser = argparse.ArgumentParser(prog="crowdperf migrate", description="Bring PostgreSQL to this version's tables.")
    parser.add_argument("--status", action="store_true", help="only say what is applied and what is not")
    arguments = parser.parse_args(words)
    dsn = resolve_dsn(installation.load().postgres_dsn, installation.root)
    if not dsn:
        raise ConfigError(
            "postgres.dsn is not set: there is nothing to migrate. Remedy: set it in config.json, or set the "
            "environment variable CROWDPERF_POSTGRES_DSN."
        )
    files = migrations.list_migrations()
    try:
        database = driver.connect(dsn)
        status = arguments.status
        rows = migrations.list_pending(database, files) if status else migrations.migrate(database, files)
        applied = migrations.list_applied(database)
        database.close()
    except driver.DatabaseUnavailableError as error:
        raise ConfigError(f"PostgreSQL does not answer: {error}. Remedy: see that it runs, and postgres.dsn.") from None
    except driver.DatabaseRejectedError as error:
        raise ConfigError(f"PostgreSQL refuses: {error}. Nothing was changed. Remedy: see docs/postgres.md.") from None
    for row in rows:
        print(f"{'pending' if status else 'applied'}  {row.name}")
    print(f"{len(applied)} of {len(files)} migrations are applied")
    return 1 if status and rows else 0
