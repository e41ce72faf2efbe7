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

from crowdperf.events.connection import OUTAGE, connect_async, told
from crowdperf.settings.base import CLASSES, ConfigError
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.export import Format, ParquetMissing, chunks
from crowdperf.storage.queries import Wanted
from crowdperf.storage.sqlite_rows import RowRejected, moment


class Source(Struct, frozen=True):
    """Where crossings come from."""

    redis_url: str
    prefix: str
    timezone: str


def main(words: list[str], source: Source) -> int:
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
    parser.add_argument("--class", dest="klass", default="", choices=("", *CLASSES))
    parser.add_argument("--direction", default="", choices=("", "in", "out"))
    arguments = parser.parse_args(words)
    calendar = Calendar(source.timezone)
    end = _time("--to", arguments.end, calendar, time.time())
    today = datetime.fromtimestamp(end, calendar.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    start = _time("--from", arguments.start, calendar, (today - timedelta(days=29)).timestamp())
    if start >= end:
        raise ConfigError("--from lies behind --to: there is nothing between. Remedy: the range is [from, to).")
    wanted = Wanted(start, end, arguments.camera, arguments.line, arguments.klass, arguments.direction)
    form: Format = arguments.format or ("parquet" if arguments.out.endswith(".parquet") else "csv")
    try:
        if arguments.out == "-":
            asyncio.run(_write(source, wanted, calendar, form, sys.stdout.buffer))
        else:
            _to_file(Path(arguments.out), source, wanted, calendar, form)
    except OUTAGE as error:
        raise ConfigError(told(error, "start the site, or see redis.url.")) from None
    except ParquetMissing as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(f"cannot write {arguments.out!r}: {error.strerror}. Remedy: choose another --out.") from None
    return 0


def _time(option: str, text: str, calendar: Calendar, default: float) -> float:
    if not text:
        return default
    try:
        return moment(text, calendar.zone)
    except RowRejected:
        raise ConfigError(
            f"{option} {text!r} is no time. Remedy: write 2026-05-01, 2026-05-01T08:00 or RFC 3339 with a zone."
        ) from None


def _to_file(path: Path, source: Source, wanted: Wanted, calendar: Calendar, form: Format) -> None:
    """Written beside its place and moved there at the end: what has the name is whole."""
    fresh = path.with_name(path.name + ".part")
    try:
        with fresh.open("wb") as file:
            number = asyncio.run(_write(source, wanted, calendar, form, file))
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    print(f"{path}: {number:,} bytes, {calendar.text(wanted.start)} to {calendar.text(wanted.end)}", file=sys.stderr)


async def _write(source: Source, wanted: Wanted, calendar: Calendar, form: Format, file: BinaryIO) -> int:
    client = connect_async(source.redis_url)
    written = 0
    try:
        async for piece in chunks(client, wanted, calendar, form, source.prefix):
            file.write(piece)
            written += len(piece)
    finally:
        await client.aclose()
    return written
