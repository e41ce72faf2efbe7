"""Truth files: the true crossings of lines in a clip. Their formats: docs/replay.md."""

from __future__ import annotations

import csv
import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from crowdperf.evaluation.camera_setup import CameraSetup
from crowdperf.evaluation.clip import Clip
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Line

DIRECTIONS = ("in", "out")
END_TOLERANCE_S = 1.0
"""A mark may be this much later than the last picture, since players round."""
_CLOCK_PATTERN = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)")
_SIDE_DIRECTIONS = {"neg_to_pos": "in", "pos_to_neg": "out"}


class TruthError(Exception):
    """Report a truth file that cannot be used; the message names the file, the row and the remedy."""


class MarkedCrossing(NamedTuple):
    """One true crossing as the file has it."""

    location: str
    """File and row for error messages."""
    line: str
    direction: str
    class_name: str
    """Empty if the file has no class."""
    picture: int | None
    """Number of the picture, from 0; used instead of `at_s`, since it needs no clock."""
    at_s: float


class TrueCrossing(NamedTuple):
    """One true crossing on the clip's clock."""

    at_s: float
    """Seconds since the clip's first picture."""
    line: str
    direction: str
    class_name: str = ""


class GroundTruth(NamedTuple):
    """Content of a truth file."""

    name: str
    marks: list[MarkedCrossing]
    lines: tuple[Line, ...]
    """The lines that the file draws; empty if it only names them."""

    def select_lines(self, setup: CameraSetup, extra_lines: Sequence[str]) -> list[Line]:
        """Select the camera's lines to judge, those of the file and others, or raise TruthError."""
        selected = {mark.line for mark in self.marks} | {line.id for line in self.lines} | set(extra_lines)
        known = [line.id for line in setup.tracked.lines]
        for name in sorted(selected.difference(known)):
            raise TruthError(
                f"{self.name}: the line {name!r} is none of camera {setup.tracked.camera_id!r} in {setup.name}, which "
                f"has {', '.join(known) or 'no lines'}. Remedy: correct the name, choose --camera, or count the lines "
                "that the truth file itself draws with --lines-from-truth."
            )
        if not selected:
            raise TruthError(f"{self.name} speaks of no line. Remedy: name the lines that were watched with --line.")
        return [line for line in setup.tracked.lines if line.id in selected]

    def replace_lines(self, setup: CameraSetup) -> CameraSetup:
        """Replace the lines of a setup by those that the file draws; raise TruthError if it draws none."""
        if not self.lines:
            raise TruthError(f"{self.name} draws no lines. Remedy: leave --lines-from-truth away.")
        return replace(setup, tracked=replace(setup.tracked, lines=self.lines))

    def get_crossings(self, times: Sequence[float]) -> list[TrueCrossing]:
        """Return the true crossings by time, or raise TruthError for one outside the pictures at `times`."""
        return sorted(
            TrueCrossing(_resolve_time(mark, times), mark.line, mark.direction, mark.class_name) for mark in self.marks
        )


def read_truth(path: Path, clip: Clip) -> GroundTruth:
    """Read a truth file, CSV or JSON, or raise TruthError; the clip's size converts files in pixels."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TruthError(f"cannot read the truth file {str(path)!r}: {error}. Remedy: correct --truth.") from None
    lines: tuple[Line, ...] = ()
    if path.suffix.lower() == ".csv":
        rows = _parse_csv(text, path)
    else:
        rows, lines = _parse_json(text, path, clip)
    marks = [_parse_mark(row, f"{path.name}, crossing {number}") for number, row in enumerate(rows, 1)]
    return GroundTruth(path.name, marks, lines)


def _parse_csv(text: str, path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = reader.fieldnames or []
    if not {"line", "direction"} <= set(names) or not {"time", "time_s", "picture", "frame"} & set(names):
        raise TruthError(
            f"{path.name}: its first row is {', '.join(names) or 'empty'}. "
            "Remedy: name the columns there: time (or picture), line, direction, and class if known."
        )
    return [{name: value for name, value in row.items() if name and value not in ("", None)} for row in reader]


def _parse_json(text: str, path: Path, clip: Clip) -> tuple[list[dict[str, Any]], tuple[Line, ...]]:
    try:
        content = msgspec.json.decode(text)
        if "crossings" in content:
            lines = msgspec.convert(content.get("lines", []), list[Line])
            return msgspec.convert(content["crossings"], list[dict[str, Any]]), tuple(lines)
        if "events" in content["lines"][0]:
            return _parse_side_changes(content, clip)
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, ValueError) as error:
        raise TruthError(f"{path.name} is no truth file: {error}. Remedy: see docs/replay.md for its form.") from None
    raise TruthError(f"{path.name} is no truth file: it has no 'crossings'. Remedy: see docs/replay.md for its form.")


def _parse_side_changes(content: dict[str, Any], clip: Clip) -> tuple[list[dict[str, Any]], tuple[Line, ...]]:
    """Parse the format with lines in pixels, each with its events by frame and change of side."""
    anchor = "centre" if "bottom" not in content.get("anchor", "bottom") else "bottom_centre"
    rows: list[dict[str, Any]] = []
    lines = []
    for line in content["lines"]:
        name = str(line["name"]).lower()
        ends = {end: [line[end][0] / clip.width, line[end][1] / clip.height] for end in ("p1", "p2")}
        lines.append(msgspec.convert({"id": name, "anchor": anchor, **ends}, Line))
        rows += [
            {"picture": event["frame"], "line": name, "direction": _SIDE_DIRECTIONS[event["dir"]]}
            for event in line["events"]
        ]
    return rows, tuple(lines)


def _parse_mark(row: dict[str, Any], location: str) -> MarkedCrossing:
    line, direction, class_name = str(row.get("line", "")), str(row.get("direction", "")), str(row.get("class", ""))
    if not line:
        raise TruthError(f"{location} names no line. Remedy: add it.")
    if direction not in DIRECTIONS:
        raise TruthError(f"{location}: the direction is {direction!r}. Remedy: write in or out.")
    if class_name and class_name not in CLASSES:
        raise TruthError(f"{location}: there is no class {class_name!r}. Remedy: use one of {', '.join(CLASSES)}.")
    number = row.get("picture", row.get("frame"))
    if number is not None:
        if not str(number).isdecimal():
            raise TruthError(f"{location}: there is no picture {number!r}. Remedy: give its number, from 0.")
        return MarkedCrossing(location, line, direction, class_name, int(number), 0.0)
    text = row.get("time", row.get("time_s"))
    at_s = _parse_seconds(text)
    if at_s is None:
        raise TruthError(f"{location}: the time is {text!r}. Remedy: write seconds (83.4) or a clock (1:23.4).")
    return MarkedCrossing(location, line, direction, class_name, None, at_s)


def _resolve_time(mark: MarkedCrossing, times: Sequence[float]) -> float:
    """Return the seconds since the first picture."""
    if mark.picture is not None and mark.picture < len(times):
        return times[mark.picture]
    if mark.picture is None and times and mark.at_s <= times[-1] + END_TOLERANCE_S:
        return mark.at_s
    what = f"second {mark.at_s:g}" if mark.picture is None else f"picture {mark.picture}"
    raise TruthError(
        f"{mark.location}: {what} is not in the clip, which has {len(times)} pictures. "
        "Remedy: check that the file belongs to this clip, and that --fps fits its times."
    )


def _parse_seconds(text: object) -> float | None:
    """Parse 83.4, "83.4", "1:23.4" or "0:01:23.4"."""
    clock = _CLOCK_PATTERN.fullmatch(str(text).strip())
    if clock:
        return int(clock[1] or 0) * 3600 + int(clock[2]) * 60 + float(clock[3])
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def find_picture(times: Sequence[float], at_s: float) -> int:
    """Find the number of the picture that is shown at that second."""
    return max(0, bisect_right(times, at_s) - 1)
