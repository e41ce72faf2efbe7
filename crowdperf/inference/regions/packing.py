"""Pack rectangles of several pictures into model inputs of one size ("canvases"). Pure.

Shelves, highest rectangle first (next-fit decreasing height over all open shelves: Coffman et al., 1980). A gap keeps
neighbours apart: the network mixes what lies within some pixels of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

GAP = 8
"""Grey pixels between two regions, and between a region and the canvas edge where there is room for it."""
GRID = 8
"""Regions lie at multiples of this: the finest grid of the network."""


class Placement(NamedTuple):
    """Place of a rectangle."""

    canvas: int
    """Number of the canvas, from 0."""
    left: int
    top: int


class _Shelf:
    """A row of rectangles on a canvas."""

    def __init__(self, canvas: int, top: int, height: int) -> None:
        self.canvas, self.top, self.height = canvas, top, height
        self.right = 0


def pack(sizes: Sequence[tuple[int, int]], width: int, height: int) -> list[Placement]:
    """Place rectangles on as few canvases as shelves allow.

    Args:
        sizes: width and height of each, pixels, none larger than the canvas.
        width: of a canvas, pixels.
        height: of a canvas, pixels.

    Returns:
        The place of each rectangle, in the order of `sizes`.
    """
    placements = [Placement(0, 0, 0)] * len(sizes)
    shelves: list[_Shelf] = []
    bottoms: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index][1], -sizes[index][0])):
        across, down = sizes[index]
        shelf = next((shelf for shelf in shelves if down <= shelf.height and shelf.right + across <= width), None)
        if shelf is None:
            canvas = next((number for number, bottom in enumerate(bottoms) if bottom + down <= height), len(bottoms))
            if canvas == len(bottoms):
                bottoms.append(0)
            shelf = _Shelf(canvas, bottoms[canvas], down)
            bottoms[canvas] = _round_up(bottoms[canvas] + down + GAP)
            shelves.append(shelf)
        placements[index] = Placement(shelf.canvas, shelf.right, shelf.top)
        shelf.right = _round_up(shelf.right + across + GAP)
    return placements


def _round_up(value: int) -> int:
    return -(-value // GRID) * GRID
