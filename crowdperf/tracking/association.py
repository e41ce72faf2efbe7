"""Assign detections to tracks: overlap of boxes and linear assignment.

Boxes are (centre x, centre y, width, height) in picture heights, float64, shape (n, 4).
"""

from __future__ import annotations

import lap
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def buffered_iou(first: Floats, second: Floats, buffer: float) -> Floats:
    """Compute the intersection over union of every pair after growing each box.

    Growing keeps an overlap for small, fast objects at low frame rates, whose successive boxes do not touch (Yang et
    al., Hard to Track Objects with Irregular Motions and Similar Appearances? Make It Easier by Buffering, 2023).

    Args:
        first: boxes, shape (n, 4).
        second: boxes, shape (m, 4).
        buffer: growth per side as a share of the box's size.

    Returns:
        IoU, float64, shape (n, m).
    """
    first, second = first.T, second.T
    half_first = first[2:] * (0.5 + buffer)
    half_second = second[2:] * (0.5 + buffer)
    # Shape (2, n, m) with m innermost: numpy's inner loops then run over a row, not over the two axes of the picture.
    low = np.maximum((first[:2] - half_first)[:, :, None], (second[:2] - half_second)[:, None])
    sides = np.minimum((first[:2] + half_first)[:, :, None], (second[:2] + half_second)[:, None])
    sides -= low
    np.maximum(sides, 0.0, out=sides)
    shared: Floats = sides[0] * sides[1]
    area_first = 4 * half_first[0] * half_first[1]
    area_second = 4 * half_second[0] * half_second[1]
    shared /= area_first[:, None] + area_second - shared + 1e-12
    return shared


def assign(similarity: Floats, rows: Indices, columns: Indices, minimum: float) -> tuple[Indices, Indices]:
    """Find the pairs with the largest sum of similarities (Jonker and Volgenant, `lap`).

    Args:
        similarity: similarity of every pair, shape (n, m).
        rows: indices of the rows to assign.
        columns: indices of the columns to assign.
        minimum: smallest similarity of a pair.

    Returns:
        Row and column indices of the pairs.
    """
    if not len(rows) or not len(columns):
        return rows[:0], columns[:0]
    part = similarity.take(rows, 0).take(columns, 1)
    row, column = (part >= minimum).nonzero()
    if not len(row):
        return rows[:0], columns[:0]
    if (row[1:] != row[:-1]).all() and np.bincount(column).max() == 1:
        # No two pairs compete, as in most frames: the solution is given, at a quarter of the solver's time.
        return rows[row], columns[column]
    column_of_row, _ = lap.lapjv(1.0 - part, extend_cost=True, cost_limit=1.0 - minimum, return_cost=False)
    row = (column_of_row >= 0).nonzero()[0]
    return rows[row], columns[column_of_row[row]]
