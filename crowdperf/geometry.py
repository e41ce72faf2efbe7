"""Plane geometry of pictures: points, segments, polygons, boxes.

Coordinates are normalised to 0..1 of the source picture (before any padding), x to the right and y DOWN, unless a name
states otherwise. Pure: no I/O, no clock, no numpy.
"""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """A point of the picture, normalised, y down."""

    x: float
    y: float


class Segment(NamedTuple):
    """A directed segment from `a` to `b`."""

    a: Point
    b: Point


class Box(NamedTuple):
    """An axis-parallel box by its top-left (x1, y1) and bottom-right (x2, y2) corners."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def bottom_centre(self) -> Point:
        """Return the bottom centre, where a standing person or a vehicle touches the ground."""
        return Point((self.x1 + self.x2) / 2, self.y2)

    @property
    def centre(self) -> Point:
        """Return the centre, the better anchor for cameras that look straight down."""
        return Point((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2)


def cross(origin: Point, first: Point, second: Point) -> float:
    """Return z of the cross product (first - origin) x (second - origin).

    With y down, a positive value means that `second` lies to the RIGHT of the walk from `origin` to `first`, as seen on
    the screen. By this sign a line tells `in` from `out` (docs/workers.md).

    Args:
        origin: start of both vectors.
        first: end of the first vector.
        second: end of the second vector.

    Returns:
        The z component, in squared units of the points.
    """
    return (first.x - origin.x) * (second.y - origin.y) - (first.y - origin.y) * (second.x - origin.x)


def signed_distance(segment: Segment, point: Point) -> float:
    """Return the distance of `point` from the infinite line through `segment`, signed as `cross`.

    A degenerate segment has distance 0.0.
    """
    length = ((segment.b.x - segment.a.x) ** 2 + (segment.b.y - segment.a.y) ** 2) ** 0.5
    return cross(segment.a, segment.b, point) / length if length else 0.0


def intersects(first: Segment, second: Segment) -> bool:
    """Return whether two segments share a point, including touching ends and collinear overlap.

    The orientation test of Cormen et al., Introduction to Algorithms, 33.1.
    """
    d1 = cross(second.a, second.b, first.a)
    d2 = cross(second.a, second.b, first.b)
    d3 = cross(first.a, first.b, second.a)
    d4 = cross(first.a, first.b, second.b)
    if ((d1 > 0) != (d2 > 0)) and d1 and d2 and ((d3 > 0) != (d4 > 0)) and d3 and d4:
        return True
    return (
        (d1 == 0 and _is_between_ends(second, first.a))
        or (d2 == 0 and _is_between_ends(second, first.b))
        or (d3 == 0 and _is_between_ends(first, second.a))
        or (d4 == 0 and _is_between_ends(first, second.b))
    )


def _is_between_ends(segment: Segment, point: Point) -> bool:
    """Return whether `point`, KNOWN to be collinear with `segment`, lies between its ends."""
    return min(segment.a.x, segment.b.x) <= point.x <= max(segment.a.x, segment.b.x) and min(
        segment.a.y, segment.b.y
    ) <= point.y <= max(segment.a.y, segment.b.y)


def contains(polygon: tuple[Point, ...], point: Point) -> bool:
    """Return whether `point` lies inside `polygon`.

    Even-odd rule; edges are half-open, so that adjacent polygons never share a point.
    """
    inside = False
    previous = polygon[-1]
    for corner in polygon:
        if (corner.y > point.y) != (previous.y > point.y):
            at_x = (previous.x - corner.x) * (point.y - corner.y) / (previous.y - corner.y) + corner.x
            if point.x < at_x:
                inside = not inside
        previous = corner
    return inside


def signed_area(polygon: tuple[Point, ...]) -> float:
    """Return the area by the shoelace formula, positive for corners clockwise on the screen (y down)."""
    return sum(a.x * b.y - b.x * a.y for a, b in zip(polygon, polygon[1:] + polygon[:1])) / 2
