"""Rows of older installations: every form of time, every reason to reject."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.settings.base import ConfigError
from crowdperf.storage.transfer.sqlite_rows import ColumnMapping, RowRejectedError, map_columns, parse_row, parse_time

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 5, 1, 10, tzinfo=timezone.utc).timestamp()
HEADS = ["id", "timestamp", "camera_id", "line_name", "direction", "label", "track_id"]
ROW = [7, NOON, "lobby", "door", "IN", "Person", 12]


@pytest.mark.parametrize(
    "raw",
    [
        NOON,
        int(NOON),
        int(NOON * 1000),
        int(NOON * 10**6),
        int(NOON) * 10**9,
        str(NOON),
        f" {int(NOON * 1000)} ",
        "2026-05-01T10:00:00Z",
        "2026-05-01 12:00:00",
        "2026-05-01T12:00:00.000000+02:00",
        "2026-05-01 12:00:00.0",
        "2026-05-01T12:00:00,0",
        "2026/05/01 12:00",
        "2026-05-01T10:00:00.0+0000",
    ],
)
def test_every_form_of_a_time(raw: object) -> None:
    assert parse_time(raw, BERLIN) == NOON


def test_time_without_zone_is_local_when_clocks_change() -> None:
    assert parse_time("2026-01-01 12:00:00", BERLIN) - parse_time("2026-01-01T12:00:00Z", BERLIN) == -3600
    assert parse_time("2026-10-25 02:30:00", BERLIN) == datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize("raw", [None, "", "soon", "2026-13-01", -5, 0, float("nan"), float("inf"), b"x", True, 1e30])
def test_what_is_no_time_is_rejected(raw: object) -> None:
    with pytest.raises(RowRejectedError, match="ts"):
        parse_time(raw, BERLIN)


@given(st.one_of(st.text(max_size=40), st.floats(), st.integers(), st.binary(max_size=10), st.none()))
def test_no_value_raises_anything_else(raw: object) -> None:
    with contextlib.suppress(RowRejectedError):
        assert parse_time(raw, BERLIN) > 0


def columns() -> ColumnMapping:
    return map_columns(HEADS, {}, {}, "events")


def test_columns_are_found_by_their_usual_names() -> None:
    row = parse_row(ROW, columns(), BERLIN, {}, 1)
    assert (row.ts, row.camera, row.line, row.direction, row.class_name, row.track) == (
        NOON, "lobby", "door", "in", "person", 12,
    )  # fmt: skip


def test_renamed_columns_are_mapped_and_missing_ones_set() -> None:
    found = map_columns(["wann", "kamera", "richtung"], {"wann": "ts", "Kamera": "camera", "richtung": "direction"},
                        {"line": "door", "class": "person"}, "events")  # fmt: skip
    values = {("direction", "rein"): "in", ("direction", "raus"): "out"}
    row = parse_row([NOON, "lobby", "Rein"], found, BERLIN, values, 1)
    assert (row.camera, row.line, row.class_name, row.direction) == ("lobby", "door", "person", "in")


@pytest.mark.parametrize(
    ("heads", "maps", "constants", "words"),
    [
        (["ts", "camera"], {}, {}, "line, direction, class"),
        (HEADS, {"colour": "class"}, {}, "no column 'colour'"),
        (HEADS, {"label": "colour"}, {}, "no field 'colour'"),
        (HEADS, {}, {"colour": "red"}, "no field 'colour'"),
    ],
)
def test_a_schema_that_does_not_fit_is_one_clear_error(
    heads: list[str], maps: dict[str, str], constants: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError, match="Remedy") as caught:
        map_columns(heads, maps, constants, "events")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(2, "", "camera"), (2, "x" * 80, "camera"), (3, "a\nb", "line"), (3, None, "line"), (4, "up", "direction 'up'"),
     (5, "dog", "class 'dog'"), (5, b"\x00", "binary"), (1, None, "ts")],
)  # fmt: skip
def test_a_row_that_is_no_crossing_says_why(place: int, value: object, reason: str) -> None:
    row = list(ROW)
    row[place] = value
    with pytest.raises(RowRejectedError, match=reason):
        parse_row(row, columns(), BERLIN, {}, 1)


def test_ids_are_stable_and_differ_by_row_and_file() -> None:
    def id_of(row: list[object], rowid: int = 1, heads: list[str] | None = None) -> str:
        return parse_row(row, map_columns(heads or HEADS, {}, {}, "e"), BERLIN, {}, rowid).id

    assert id_of(ROW) == id_of(ROW)
    assert id_of(ROW) != id_of([7, NOON + 1, *ROW[2:]]), "the same number in another file"
    assert id_of(["plaza:1:2:door:in:0", *ROW[1:]]) == "plaza:1:2:door:in:0"
    without = HEADS[1:]
    assert id_of(ROW[1:], 1, without) != id_of(ROW[1:], 2, without), "two alike are two"
