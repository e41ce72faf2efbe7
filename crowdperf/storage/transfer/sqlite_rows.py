"""Rows of an older installation's SQLite file as crossings: columns by name, several time formats. Pure.

A row that is incomplete or ambiguous is rejected with a reason. Nothing is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast
from zoneinfo import ZoneInfo

from msgspec import Struct

from crowdperf.messaging.codec import MAX_TIME_S
from crowdperf.primitives.digest import compute_digest
from crowdperf.settings.base import CLASSES, ConfigError
from crowdperf.storage.counts import CrossingRecord

COLUMN_ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "event_id", "uuid"),
    "ts": ("ts", "timestamp", "time", "event_time", "datetime", "created_at", "date_time"),
    "camera": ("camera", "camera_id", "cam", "cam_id", "camera_name", "source"),
    "line": ("line", "line_id", "line_name", "gate", "roi"),
    "direction": ("direction", "dir", "way", "in_out"),
    "class": ("class", "klass", "class_name", "label", "object", "object_class", "object_type", "cls"),
    "track": ("track", "track_id", "tracker_id", "object_id", "person_id"),
}
"""Accepted column names, case-insensitive; the first match counts."""
REQUIRED_FIELDS = ("ts", "camera", "line", "direction", "class")
DIRECTION_ALIASES = {
    **dict.fromkeys(("in", "entry", "enter", "entered", "entering", "inbound"), "in"),
    **dict.fromkeys(("out", "exit", "leave", "left", "exited", "leaving", "outbound"), "out"),
}
CLASS_ALIASES: dict[str, str] = {
    **dict(zip(CLASSES, CLASSES)),
    **dict.fromkeys(("pedestrian", "people", "persons", "human"), "person"),
    **dict.fromkeys(("bike", "cyclist"), "bicycle"),
    **dict.fromkeys(("motorbike", "scooter"), "motorcycle"),
    **dict.fromkeys(("lorry",), "truck"),
}
MIN_TIME_S = 631_152_000.0
"""The year 1990 in Unix seconds. Earlier times are rejected."""
TIME_UNITS = ((1e16, 1e9), (1e14, 1e6), (1e11, 1e3), (-math.inf, 1.0))
"""(lower bound, units per second): nanoseconds, microseconds, milliseconds, seconds."""
MAX_NAME_BYTES = 64


class RowRejectedError(Exception):
    """The row is not a valid crossing; the message is the same for all rows of one kind."""


class ColumnMapping(Struct, frozen=True):
    """The source of each field of a crossing."""

    places: dict[str, int]
    """Field -> index in the row."""
    constants: dict[str, str]
    """Field -> value of every row."""


def map_columns(
    columns: Sequence[str], maps: Mapping[str, str], constants: Mapping[str, str], table: str
) -> ColumnMapping:
    """Find the fields of a crossing among a table's columns.

    Args:
        columns: names of the table's columns.
        maps: column -> field, given by the operator; precedes the known names.
        constants: field -> value of every row.
        table: name of the table, for messages.

    Returns:
        The source of each field.

    Raises:
        ConfigError: unknown column or field, or no source for a required field.
    """
    by_name = {name.lower(): index for index, name in enumerate(columns)}
    for column, field in maps.items():
        if column.lower() not in by_name:
            raise ConfigError(
                f"--map {column}={field}: the table {table!r} has no column {column!r} (it has: {', '.join(columns)}). "
                "Remedy: use one of those."
            )
    for field in (*maps.values(), *constants):
        if field not in COLUMN_ALIASES:
            raise ConfigError(f"there is no field {field!r}. Remedy: use one of: {', '.join(COLUMN_ALIASES)}.")
    mapped = {field: by_name[column.lower()] for column, field in maps.items()}
    taken = set(mapped.values())
    places = dict(mapped)
    for field, names in COLUMN_ALIASES.items():
        found = [by_name[name] for name in names if name in by_name and by_name[name] not in taken]
        if field not in places and field not in constants and found:
            places[field] = found[0]
    missing = [field for field in REQUIRED_FIELDS if field not in places and field not in constants]
    if missing:
        raise ConfigError(
            f"the table {table!r} has no column for: {', '.join(missing)} (it has: {', '.join(columns)}). Remedy: say "
            "which one it is by --map COLUMN=FIELD, or what every row has by --set FIELD=VALUE. Nothing was changed."
        )
    return ColumnMapping(places, dict(constants))


def parse_row(
    row: Sequence[Any], columns: ColumnMapping, zone: ZoneInfo, values: Mapping[tuple[str, str], str], rowid: int
) -> CrossingRecord:
    """Parse one row.

    Args:
        row: values of the columns.
        columns: source of each field.
        zone: time zone of times without an offset.
        values: (field, text in lower case) -> replacement, given by the operator.
        rowid: number of the row, part of its id where the table has none.

    Returns:
        The crossing.

    Raises:
        RowRejectedError: with the reason.
    """

    def get_text(field: str) -> str:
        place = columns.places.get(field)
        raw: Any = columns.constants.get(field) if place is None else row[place]
        if raw is None:
            return ""
        if isinstance(raw, bytes):
            raise RowRejectedError(f"{field} is binary")
        found = str(raw).strip()
        return values.get((field, found.lower()), found)

    direction = DIRECTION_ALIASES.get(get_text("direction").lower())
    if direction is None:
        raise RowRejectedError(
            f"direction {get_text('direction')[:20]!r} is neither in nor out (--value direction:TEXT=in|out)"
        )
    class_name = CLASS_ALIASES.get(get_text("class").lower())
    if class_name is None:
        raise RowRejectedError(f"class {get_text('class')[:20]!r} is unknown (--value class:TEXT={'|'.join(CLASSES)})")
    place = columns.places.get("ts")
    ts = parse_time(row[place] if place is not None else columns.constants.get("ts"), zone)
    camera, line = get_text("camera"), get_text("line")
    for field, name in (("camera", camera), ("line", line)):
        if not name or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES or not name.isprintable():
            raise RowRejectedError(f"{field} is empty, longer than {MAX_NAME_BYTES} bytes or not printable")
    track = get_text("track")
    number = int(track) if re.fullmatch(r"-?\d{1,18}", track) else 0
    return CrossingRecord(
        id=_build_id(get_text("id"), rowid, ts, camera, line, direction, class_name, number),
        ts=ts,
        camera=camera,
        line=line,
        direction=cast(Literal["in", "out"], direction),
        class_name=class_name,
        track=number,
    )


def _build_id(given: str, rowid: int, *parts: object) -> str:
    """Return the row's own id if it is a longer text, else a hash: numbers repeat between files."""
    if len(given) > 12 and not given.isdigit():
        return given[:200]
    content = "\n".join(str(part) for part in (given or rowid, *parts))
    return f"import:{compute_digest(content.encode('utf-8', 'replace'), 20)}"


def parse_time(raw: Any, zone: ZoneInfo) -> float:
    """Parse a number in any of `TIME_UNITS`, or ISO 8601 text, to Unix seconds.

    A text without an offset is in `zone`; an ambiguous local time is the first of the two.

    Raises:
        RowRejectedError: not a time.
    """
    if isinstance(raw, str):
        raw = raw.strip()
        try:
            return _require_plausible(_scale_to_seconds(float(raw)))
        except ValueError:
            return _require_plausible(_parse_iso(raw, zone))
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return _require_plausible(_scale_to_seconds(float(raw)))
    raise RowRejectedError("ts is empty or no time")


def _scale_to_seconds(number: float) -> float:
    return next(number / scale for bound, scale in TIME_UNITS if number >= bound) if math.isfinite(number) else number


def _parse_iso(text: str, zone: ZoneInfo) -> float:
    normal = text.replace(",", ".").replace("/", "-")
    if normal.endswith(("Z", "z")):
        normal = normal[:-1] + "+00:00"
    # Python 3.10 reads fractions of three or six digits only, and offsets with a colon.
    normal = re.sub(r"\.(\d+)", lambda found: "." + (found[1] + "000000")[:6], normal)
    normal = re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", normal) if ":" in normal else normal
    try:
        parsed = datetime.fromisoformat(normal)
    except ValueError:
        raise RowRejectedError("ts is no time that can be read (a number, or ISO 8601)") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=zone)
    try:
        return parsed.timestamp()
    except (OverflowError, ValueError):
        raise RowRejectedError("ts is before 1990 or in the future") from None


def _require_plausible(ts: float) -> float:
    if not MIN_TIME_S <= ts < MAX_TIME_S:
        raise RowRejectedError("ts is before 1990 or in the future")
    return ts
