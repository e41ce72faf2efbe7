"""Lines and zones that can never count, found before they stay at 0 for a year without a word.

Called when a configuration is saved, when a shard starts, and by `crowdperf check`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from crowdperf.geometry import Point, Segment, intersects, signed_area, signed_distance
from crowdperf.settings.camera import Line, Zone

SIDE_MARGIN = 0.025
TOP_MARGIN = 0.05
"""How near the picture's edge an anchor can come (picture heights): half the width, or the height, of the smallest
object that is still detected."""
MIN_LINE_LENGTH = 0.02
"""A shorter line (picture heights) is passed by every foot that jitters, or by none."""
MIN_ZONE_AREA = 0.0005
"""A zone of less (squared picture heights) has no room for a pair of feet."""
WALKING_SPEED = 0.2
"""Picture widths per second of somebody near the camera, or of a car on a street."""
MIN_SIGHTINGS = 3
"""A track is confirmed, and may count, with its third sighting."""
DEFAULT_ASPECT = 16 / 9


class ShapeProblem(NamedTuple):
    """Why one line or zone of a camera can never count."""

    shape: str
    """Its id."""
    text: str
    """One sentence, and its remedy."""


def find_problems(
    lines: Iterable[Line], zones: Iterable[Zone], fps: float, aspect: float = DEFAULT_ASPECT
) -> Iterator[ShapeProblem]:
    """What is wrong with a camera's lines and zones; `fps` is how many frames a second are analysed."""
    for line in lines:
        text = validate_line(line, aspect) or validate_frame_rate(f"line {line.id!r}", fps)
        if text:
            yield ShapeProblem(line.id, text)
    for zone in zones:
        text = validate_zone(zone, aspect) or validate_frame_rate(f"zone {zone.id!r}", fps)
        if text:
            yield ShapeProblem(zone.id, text)


def validate_line(line: Line, aspect: float = DEFAULT_ASPECT) -> str:
    """Why `line` can never count anything, or an empty string where it can.

    A line too near the picture's edge has no room beyond its dead band in which an object's anchor could be seen; its
    counter would stay at 0 without a word. `aspect` is the source's width divided by its height.
    """
    vertices = [Point(x * aspect, y) for x, y in line.get_vertices()]
    pieces = [Segment(a, b) for a, b in pairwise(vertices)]
    if any(a == b for a, b in pieces) or sum(_compute_length(piece) for piece in pieces) < MIN_LINE_LENGTH:
        return (
            f"line {line.id!r} can never count: it, or one of its pieces, has no length. Remedy: move its points apart."
        )
    if _crosses_itself(pieces):
        return (
            f"line {line.id!r} can not tell in from out: it crosses itself. Remedy: draw it so that it does not, or as "
            "two lines."
        )
    top, bottom = (SIDE_MARGIN, 1 - SIDE_MARGIN) if line.anchor == "centre" else (TOP_MARGIN, 1.0)
    corners = [Point(x, y) for x in (SIDE_MARGIN, aspect - SIDE_MARGIN) for y in (top, bottom)]
    for piece in pieces:
        distances = [signed_distance(piece, corner) for corner in corners]
        if max(distances) > line.hysteresis and -min(distances) > line.hysteresis:
            return ""
    return (
        f"line {line.id!r} can never count: it is too near the edge of the picture for the {line.anchor} of an "
        "object to be seen on its far side. Remedy: move it into the picture."
    )


def validate_zone(zone: Zone, aspect: float = DEFAULT_ASPECT) -> str:
    """Why nobody can ever be counted inside `zone`, or an empty string."""
    corners = [Point(x * aspect, y) for x, y in zone.get_points()]
    sides = [Segment(a, b) for a, b in zip(corners, corners[1:] + corners[:1]) if a != b]
    if len(sides) < 3 or (not _crosses_itself(sides, closed=True) and abs(signed_area(tuple(corners))) < MIN_ZONE_AREA):
        return f"zone {zone.id!r} can never count: it has no area. Remedy: draw it larger, with three corners or more."
    if _crosses_itself(sides, closed=True):
        return (
            f"zone {zone.id!r} crosses itself, so that parts of it would be outside. Remedy: draw its corners in the "
            "order of a walk around it."
        )
    if max(y for _, y in corners) < TOP_MARGIN:
        return (
            f"zone {zone.id!r} can never count: it is too near the upper edge of the picture for feet to be seen "
            "in it. Remedy: move it down."
        )
    if max(x for x, _ in corners) < SIDE_MARGIN or min(x for x, _ in corners) > aspect - SIDE_MARGIN:
        return (
            f"zone {zone.id!r} can never count: it is too near the edge of the picture for feet to be seen in it. "
            "Remedy: move it into the picture."
        )
    return ""


def validate_frame_rate(name: str, fps: float) -> str:
    """Why nothing can be followed at `fps` analysed frames a second, or an empty string."""
    if WALKING_SPEED / fps * MIN_SIGHTINGS <= 1:
        return ""
    return (
        f"{name} can hardly count: {1 / fps:.3g} s pass between two analysed frames, and a walk through the picture "
        f"takes about {1 / WALKING_SPEED:.3g} s, but a track needs {MIN_SIGHTINGS} sightings. Remedy: raise "
        "target_fps above "
        f"{MIN_SIGHTINGS * WALKING_SPEED:g}."
    )


def _compute_length(piece: Segment) -> float:
    return float(((piece.b.x - piece.a.x) ** 2 + (piece.b.y - piece.a.y) ** 2) ** 0.5)


def _crosses_itself(pieces: list[Segment], closed: bool = False) -> bool:
    """Whether two pieces that are not neighbours meet."""
    for i, first in enumerate(pieces):
        for j in range(i + 2, len(pieces)):
            if closed and i == 0 and j == len(pieces) - 1:
                continue
            if intersects(first, pieces[j]):
                return True
    return False
