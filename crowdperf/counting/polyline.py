"""A line with any number of bends: distance of a point, and crossings of a step.

Each step of a path is tested alone, and a path's crossings are their sum. Stepping in near a bend and out over the next
segment adds up to zero, and so does a walk around the end. Pure; lengths are in picture heights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from crowdperf.geometry import Point


class Polyline:
    """A polyline of at least two points; successive points differ."""

    def __init__(self, vertices: Sequence[Point], aspect: float) -> None:
        """Scale `vertices` (normalised) by `aspect`, the source's width divided by its height."""
        self.points = [(vertex.x * aspect, vertex.y) for vertex in vertices]
        self._segments = [(*a, *b, b[0] - a[0], b[1] - a[1]) for a, b in zip(self.points, self.points[1:])]

    def distance(self, x: float, y: float) -> float:
        """Return the distance of a point from the polyline."""
        nearest = math.inf
        for ax, ay, _, _, dx, dy in self._segments:
            share = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)
            share = 0.0 if share < 0.0 else 1.0 if share > 1.0 else share
            away = math.hypot(x - ax - share * dx, y - ay - share * dy)
            if away < nearest:
                nearest = away
        return nearest

    def count_crossings(self, x0: float, y0: float, x1: float, y1: float) -> int:
        """Count the crossings of the step from (x0, y0) to (x1, y1), signed by direction.

        A point on the polyline belongs to its negative side, and a vertex on the step's line to the step's left. Steps
        that meet on the line or in a bend therefore count once.

        Args:
            x0: start of the step, picture heights.
            y0: start of the step.
            x1: end of the step.
            y1: end of the step.

        Returns:
            Crossings to the positive side minus those to the negative one.
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
