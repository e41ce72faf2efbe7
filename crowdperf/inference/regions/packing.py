"""Pack rectangles of several pictures into model inputs of one size ("canvases"). Pure.

The largest rectangle goes first, into the free rectangle that fits it best by its shorter side (MAXRECTS-BSSF: Jylänki,
"A Thousand Ways to Pack the Bin", 2010). On the test clips it needs 8 % fewer canvases than shelves. A gap keeps
neighbours apart: the network mixes what lies within some pixels of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crowdperf.inference.regions.rectangles import Rectangle, contains

GAP = 8
"""Grey pixels between two regions."""
GRID = 8
"""Regions lie at multiples of this: the finest grid of the network."""


class Placement(NamedTuple):
    """Place of a rectangle."""

    canvas: int
    """Number of the canvas, from 0."""
    left: int
    top: int


def pack(sizes: Sequence[tuple[int, int]], width: int, height: int) -> list[Placement]:
    """Place rectangles on few canvases.

    Args:
        sizes: width and height of each, pixels, none larger than the canvas.
        width: of a canvas, pixels.
        height: of a canvas, pixels.

    Returns:
        The place of each rectangle, in the order of `sizes`.
    """
    placements = [Placement(0, 0, 0)] * len(sizes)
    # Each rectangle takes its gap with it, to the right and below. At the edges it may lie beyond the canvas.
    whole = (0, 0, _add_gap(width), _add_gap(height))
    free: list[list[Rectangle]] = []
    """Per canvas, the largest rectangles that are free; they overlap each other."""
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index][0] * sizes[index][1]):
        across, down = map(_add_gap, sizes[index])
        places = (_find_place(rectangles, across, down) for rectangles in free)
        canvas, place = next(((n, place) for n, place in enumerate(places) if place is not None), (len(free), (0, 0)))
        if canvas == len(free):
            free.append([whole])
        left, top = place
        placements[index] = Placement(canvas, left, top)
        free[canvas] = _take_out(free[canvas], (left, top, left + across, top + down))
    return placements


def _find_place(free: Sequence[Rectangle], across: int, down: int) -> tuple[int, int] | None:
    """Return left and top of the free rectangle that fits best; None if none is large enough."""
    fitting = [
        (min(x2 - x1 - across, y2 - y1 - down), max(x2 - x1 - across, y2 - y1 - down), x1, y1)
        for x1, y1, x2, y2 in free
        if x2 - x1 >= across and y2 - y1 >= down
    ]
    return min(fitting)[2:] if fitting else None


def _take_out(free: Sequence[Rectangle], taken: Rectangle) -> list[Rectangle]:
    """Return the largest rectangles that are free when `taken` is not."""
    left, top, right, bottom = taken
    parts: list[Rectangle] = []
    for x1, y1, x2, y2 in free:
        if left >= x2 or right <= x1 or top >= y2 or bottom <= y1:
            parts.append((x1, y1, x2, y2))
            continue
        around = ((x1, y1, left, y2), (right, y1, x2, y2), (x1, y1, x2, top), (x1, bottom, x2, y2))
        parts += [part for part in around if part[0] < part[2] and part[1] < part[3]]
    unique = list(dict.fromkeys(parts))
    return [part for part in unique if not any(part != other and contains(other, part) for other in unique)]


def _add_gap(length: int) -> int:
    """Return the length with its gap, up to the next place on the grid."""
    return -(-(length + GAP) // GRID) * GRID
