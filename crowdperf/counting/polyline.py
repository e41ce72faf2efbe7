"""The course of a line with any number of bends: how far away a point is, and which way a step crosses it.

Every step of a path is asked for itself, and a path's crossings are their sum: in near a bend and out over the next
piece is nothing, and around the end is nothing, whatever shape the line has. Pure; lengths are in picture heights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from crowdperf.geometry import Point


class Polyline:
    """A polyline of at least two points, no two successive ones alike."""

    def __init__(self, vertices: Sequence[Point], aspect: float) -> None:
        """`vertices` normalised; `aspect` is the source's width divided by its height."""
        self.points = [(vertex.x * aspect, vertex.y) for vertex in vertices]
        self._segments = [(*a, *b, b[0] - a[0], b[1] - a[1]) for a, b in zip(self.points, self.points[1:])]

    def distance(self, x: float, y: float) -> float:
        """Distance of a point from the nearest point of the course."""
        nearest = math.inf
        for ax, ay, _, _, dx, dy in self._segments:
            share = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)
            share = 0.0 if share < 0.0 else 1.0 if share > 1.0 else share
            away = math.hypot(x - ax - share * dx, y - ay - share * dy)
            if away < nearest:
                nearest = away
        return nearest

    def count_crossings(self, x0: float, y0: float, x1: float, y1: float) -> int:
        """Crossings to the positive side less those to the negative one, of the step from (x0, y0) to (x1, y1).

        A point on the course belongs to its negative side, and a vertex on the step's line to the step's left, so that
        steps that meet on the line, or in a bend, count once between them.
        """
        net = 0
        for ax, ay, bx, by, dx, dy in self._segments:
            before = dx * (y0 - ay) - dy * (x0 - ax) > 0
            after = dx * (y1 - ay) - dy * (x1 - ax) > 0
            if before != after:
                step_x, step_y = x1 - x0, y1 - y0
                start = step_x * (ay - y0) - step_y * (ax - x0) >= 0
                end = step_x * (by - y0) - step_y * (bx - x0) >= 0
                if start != end:
                    net += 1 if after else -1
        return net
