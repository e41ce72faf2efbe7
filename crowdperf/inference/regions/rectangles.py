"""Rectangles that grow together. Pure, and in plain integers: there are too few of them for numpy to pay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Rectangle = tuple[int, int, int, int]
"""Corners x1 y1 x2 y2; x2 and y2 are outside."""


def merge_overlapping(rectangles: Iterable[Rectangle]) -> list[Rectangle]:
    """Replace rectangles that overlap or touch by the smallest one around them, until none do."""
    merged: list[Rectangle] = []
    for rectangle in rectangles:
        index = 0
        while index < len(merged):
            if _meet(rectangle, merged[index]):
                # The larger rectangle may meet one that the smaller one did not.
                rectangle = _unite(rectangle, merged.pop(index))
                index = 0
            else:
                index += 1
        merged.append(rectangle)
    return merged


def cover_touched(
    rectangles: Iterable[Rectangle], boxes: Sequence[Rectangle], covers: Sequence[Rectangle]
) -> list[Rectangle]:
    """Let rectangles grow until each box that one of them touches is wholly covered.

    Args:
        rectangles: to begin with.
        boxes: which may be touched.
        covers: for each box, the rectangle that covers it with its margin.

    Returns:
        Rectangles that do not meet each other.
    """
    merged = merge_overlapping(rectangles)
    left = list(zip(boxes, covers, strict=True))
    while True:
        touched = [cover for box, cover in left if any(_meet(box, rectangle) for rectangle in merged)]
        if not touched:
            return merged
        left = [row for row in left if not any(_meet(row[0], rectangle) for rectangle in merged)]
        merged = merge_overlapping([*merged, *touched])


def contains(outer: Rectangle, inner: Rectangle) -> bool:
    """Check whether all of `inner` lies in `outer`."""
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _meet(first: Rectangle, second: Rectangle) -> bool:
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]


def _unite(first: Rectangle, second: Rectangle) -> Rectangle:
    return (
        min(first[0], second[0]),
        min(first[1], second[1]),
        max(first[2], second[2]),
        max(first[3], second[3]),
    )
