"""Detection of lines and zones that can never count anything.

Called when a configuration is saved, when a shard starts, and by `crowdperf check`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from crowdperf.geometry import Point, Segment, intersects, signed_area, signed_distance
from crowdperf.settings.camera import Line, Zone

SIDE_MARGIN = 0.025
TOP_MARGIN = 0.05
"""Minimum distance of an anchor from the edge of the picture, in picture heights: half the width, or the height, of the
smallest detectable object."""
MIN_LINE_LENGTH = 0.02
"""Picture heights. Jitter alone crosses a shorter line, or nothing does."""
MIN_ZONE_AREA = 0.0005
"""Squared picture heights. A smaller zone has no room for a pair of feet."""
WALKING_SPEED = 0.2
"""Picture widths per second of a person near the camera, or of a car on a street."""
MIN_SIGHTINGS = 3
"""A track is confirmed, and may count, at its third detection."""
DEFAULT_ASPECT = 16 / 9


class ShapeProblem(NamedTuple):
    """The reason why a line or zone of a camera can never count."""

    shape: str
    """Id of the line or zone."""
    text: str
    """One sentence with its remedy."""


def find_problems(
    lines: Iterable[Line], zones: Iterable[Zone], fps: float, aspect: float = DEFAULT_ASPECT
) -> Iterator[ShapeProblem]:
    """Find the problems of a camera's lines and zones.

    Args:
        lines: lines of the camera.
        zones: zones of the camera.
        fps: analysed frames per second.
        aspect: the source's width divided by its height.

    Yields:
        At most one problem per line or zone.
    """
    for line in lines:
        text = validate_line(line, aspect) or validate_frame_rate(f"line {line.id!r}", fps)
        if text:
            yield ShapeProblem(line.id, text)
    for zone in zones:
        text = validate_zone(zone, aspect) or validate_frame_rate(f"zone {zone.id!r}", fps)
        if text:
            yield ShapeProblem(zone.id, text)


def validate_line(line: Line, aspect: float = DEFAULT_ASPECT) -> str:
    """Return why `line` can never count, or an empty string.

    A line too near the edge of the picture has no room beyond its dead band for an object's anchor. Its counter would
    stay at 0 without a warning. `aspect` is the source's width divided by its height.
    """
    vertices = [Point(x * aspect, y) for x, y in line.get_vertices()]
    pieces = [Segment(a, b) for a, b in pairwise(vertices)]
    if any(a == b for a, b in pieces) or sum(math.dist(*piece) for piece in pieces) < MIN_LINE_LENGTH:
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
    """Return why `zone` can never count, or an empty string."""
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
    """Return why `fps` analysed frames per second are too few, or an empty string."""
    if WALKING_SPEED / fps * MIN_SIGHTINGS <= 1:
        return ""
    return (
        f"{name} can hardly count: {1 / fps:.3g} s pass between two analysed frames, and a walk through the picture "
        f"takes about {1 / WALKING_SPEED:.3g} s, but a track needs {MIN_SIGHTINGS} sightings. Remedy: raise "
        "target_fps above "
        f"{MIN_SIGHTINGS * WALKING_SPEED:g}."
    )


def _crosses_itself(pieces: list[Segment], closed: bool = False) -> bool:
    """Return whether two segments that are not neighbours intersect."""
    for i, first in enumerate(pieces):
        for j in range(i + 2, len(pieces)):
            if closed and i == 0 and j == len(pieces) - 1:
                continue
            if intersects(first, pieces[j]):
                return True
    return False
