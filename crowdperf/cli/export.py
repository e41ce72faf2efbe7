"""`crowdperf export`: crossings of a range into a CSV or Parquet file."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from crowdperf.messaging.redis.client import OUTAGE, connect_async, describe_outage
from crowdperf.settings.base import CLASSES, ConfigError
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.queries import CrossingFilter
from crowdperf.storage.transfer.export import Format, ParquetUnavailableError, iter_chunks
from crowdperf.storage.transfer.sqlite_rows import RowRejectedError, parse_time


class ExportSource(Struct, frozen=True):
    """Where crossings come from."""

    redis_url: str
    prefix: str
    timezone: str


def main(argv: list[str], source: ExportSource) -> int:
    """The command.

    Raises:
        ConfigError: a time or a format that is none, no pyarrow, a file that cannot be written, Redis away. There is no
            half-written file then.
    """
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
    parser.add_argument("--class", dest="class_name", default="", choices=("", *CLASSES))
    parser.add_argument("--direction", default="", choices=("", "in", "out"))
    arguments = parser.parse_args(argv)
    calendar = Calendar(source.timezone)
    end = _parse_time("--to", arguments.end, calendar, time.time())
    today = datetime.fromtimestamp(end, calendar.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    start = _parse_time("--from", arguments.start, calendar, (today - timedelta(days=29)).timestamp())
    if start >= end:
        raise ConfigError("--from lies behind --to: there is nothing between. Remedy: the range is [from, to).")
    wanted = CrossingFilter(start, end, arguments.camera, arguments.line, arguments.class_name, arguments.direction)
    form: Format = arguments.format or ("parquet" if arguments.out.endswith(".parquet") else "csv")
    try:
        if arguments.out == "-":
            asyncio.run(_write_chunks(source, wanted, calendar, form, sys.stdout.buffer))
        else:
            _write_file(Path(arguments.out), source, wanted, calendar, form)
    except OUTAGE as error:
        raise ConfigError(describe_outage(error, "start the site, or see redis.url.")) from None
    except ParquetUnavailableError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(f"cannot write {arguments.out!r}: {error.strerror}. Remedy: choose another --out.") from None
    return 0


def _parse_time(option: str, text: str, calendar: Calendar, default: float) -> float:
    if not text:
        return default
    try:
        return parse_time(text, calendar.zone)
    except RowRejectedError:
        raise ConfigError(
            f"{option} {text!r} is no time. Remedy: write 2026-05-01, 2026-05-01T08:00 or RFC 3339 with a zone."
        ) from None


def _write_file(
    path: Path, source: ExportSource, crossing_filter: CrossingFilter, calendar: Calendar, file_format: Format
) -> None:
    """Written beside its place and moved there at the end: what has the name is whole."""
    fresh = path.with_name(path.name + ".part")
    try:
        with fresh.open("wb") as file:
            number = asyncio.run(_write_chunks(source, crossing_filter, calendar, file_format, file))
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    print(
        f"{path}: {number:,} bytes, {calendar.format_time(crossing_filter.start)} to "
        f"{calendar.format_time(crossing_filter.end)}",
        file=sys.stderr,
    )


async def _write_chunks(
    source: ExportSource, crossing_filter: CrossingFilter, calendar: Calendar, file_format: Format, file: BinaryIO
) -> int:
    client = connect_async(source.redis_url)
    written = 0
    try:
        async for piece in iter_chunks(client, crossing_filter, calendar, file_format, source.prefix):
            file.write(piece)
            written += len(piece)
    finally:
        await client.aclose()
    return written
