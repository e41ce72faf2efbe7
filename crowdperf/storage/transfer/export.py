"""Export of crossings as CSV or Parquet, chunk by chunk in bounded memory."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any, Literal

import redis.asyncio

from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import CrossingRecord
from crowdperf.storage.queries import CrossingFilter, iter_crossings

Format = Literal["csv", "parquet"]
MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
COLUMN_NAMES = ("time", "ts", "camera", "line", "direction", "class", "track", "id")
CSV_CHUNK_ROWS = 500
PARQUET_CHUNK_ROWS = 20_000
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


class ParquetUnavailableError(Exception):
    """pyarrow is not installed; the message names the remedy."""


async def _iter_ordered(
    client: redis.asyncio.Redis, crossing_filter: CrossingFilter, prefix: str = ""
) -> AsyncIterator[CrossingRecord]:
    """Merge the matching crossings of both logs, oldest first."""
    sources = [iter_crossings(client, crossing_filter, prefix, log) for log in crossing_filter.get_logs()]
    heads = [await anext(source, None) for source in sources]
    while True:
        alive = [index for index, head in enumerate(heads) if head is not None]
        if not alive:
            return
        first = min(alive, key=lambda index: (heads[index].ts, heads[index].id))  # type: ignore[union-attr]
        row = heads[first]
        heads[first] = await anext(sources[first], None)
        if row is not None:
            yield row


async def iter_chunks(
    client: redis.asyncio.Redis,
    crossing_filter: CrossingFilter,
    calendar: Calendar,
    file_format: Format,
    prefix: str = "",
) -> AsyncIterator[bytes]:
    """Export crossings as one file, with times in the site's zone.

    Args:
        client: redis.asyncio client.
        crossing_filter: which crossings.
        calendar: calendar of the site.
        file_format: CSV or Parquet.
        prefix: prefix of every key.

    Yields:
        The bytes of the file, piece by piece.

    Raises:
        ParquetUnavailableError: before the first piece.
        redis.ConnectionError, redis.TimeoutError: Redis is unavailable; the file is incomplete.
    """
    writer = _CsvWriter(calendar) if file_format == "csv" else _ParquetWriter(calendar, import_pyarrow())
    rows: list[CrossingRecord] = []
    yield writer.begin()
    async for row in _iter_ordered(client, crossing_filter, prefix):
        rows.append(row)
        if len(rows) == writer.rows:
            yield writer.chunk(rows)
            rows.clear()
    if rows:
        yield writer.chunk(rows)
    end = writer.end()
    if end:
        yield end


def import_pyarrow() -> ModuleType:
    """Import the optional package, or raise ParquetUnavailableError."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise ParquetUnavailableError(
            "Parquet needs the package pyarrow, which is not installed. Remedy: pip install pyarrow into .venv, or "
            "export CSV."
        ) from None


def escape_formula(text: str) -> str:
    """Escape a cell that a spreadsheet would run as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(FORMULA_PREFIXES) else text


class _CsvWriter:
    """RFC 4180, with a byte order mark so that spreadsheets detect UTF-8."""

    rows = CSV_CHUNK_ROWS

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar

    def begin(self) -> bytes:
        return b"\xef\xbb\xbf" + ",".join(COLUMN_NAMES).encode() + b"\r\n"

    def chunk(self, rows: list[CrossingRecord]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(
            (
                self._calendar.format_time(row.ts),
                f"{row.ts:.3f}",
                escape_formula(row.camera),
                escape_formula(row.line),
                row.direction,
                escape_formula(row.class_name),
                row.track,
                escape_formula(row.id),
            )
            for row in rows
        )
        return text.getvalue().encode("utf-8", "replace")

    def end(self) -> bytes:
        return b""


class _BufferSink(io.RawIOBase):
    """A write-only file whose content can be taken away piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self._buffer = bytearray()
        self._before = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        return len(data)

    def tell(self) -> int:
        return self._before + len(self._buffer)

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = bytes(self._buffer)
        self._before += len(taken)
        self._buffer.clear()
        return taken


class _ParquetWriter:
    """One row group per chunk; `time` is a timestamp in the site's zone."""

    rows = PARQUET_CHUNK_ROWS

    def __init__(self, calendar: Calendar, arrow: ModuleType) -> None:
        self._arrow = arrow
        text = arrow.dictionary(arrow.int32(), arrow.string())
        types = (arrow.timestamp("ms", tz=calendar.name), arrow.float64(), *[text] * 4, arrow.int64(), arrow.string())
        self._schema = arrow.schema(list(zip(COLUMN_NAMES, types)))
        self._sink = _BufferSink()
        self._writer = arrow.parquet.ParquetWriter(self._sink, self._schema, compression="zstd")

    def begin(self) -> bytes:
        return self._sink.take()

    def chunk(self, rows: list[CrossingRecord]) -> bytes:
        fields = ("ts", "camera", "line", "direction", "class_name", "track", "id")
        columns = [[round(row.ts * 1000) for row in rows], *([getattr(row, name) for row in rows] for name in fields)]
        arrays = [self._arrow.array(column, type=field.type) for column, field in zip(columns, self._schema)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()
