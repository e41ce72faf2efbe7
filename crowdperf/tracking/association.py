"""Which detection belongs to which track: overlap of boxes and linear assignment.

Boxes are (centre x, centre y, width, height) in picture heights, float64, shape (n, 4).
"""

from __future__ import annotations

import lap
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def buffered_iou(first: Floats, second: Floats, buffer: float) -> Floats:
    """Intersection over union of every pair, shape (n, m), after growing each box by `buffer` of its size per side.

    Growing keeps an overlap for small, fast objects at low frame rates, whose successive boxes do not touch (Yang et
    al., Hard to Track Objects with Irregular Motions and Similar Appearances? Make It Easier by Buffering, 2023).
    """
    first, second = first.T, second.T
    half_first = first[2:] * (0.5 + buffer)
    half_second = second[2:] * (0.5 + buffer)
    # (2, n, m) with m innermost: numpy's inner loops then run over a row and not over the two axes of the picture.
    low = np.maximum((first[:2] - half_first)[:, :, None], (second[:2] - half_second)[:, None])
    sides = np.minimum((first[:2] + half_first)[:, :, None], (second[:2] + half_second)[:, None])
    sides -= low
    np.maximum(sides, 0.0, out=sides)
    shared: Floats = sides[0] * sides[1]
    area_first = 4 * half_first[0] * half_first[1]
    area_second = 4 * half_second[0] * half_second[1]
    shared /= area_first[:, None] + area_second - shared + 1e-12
    return shared


def assign(similarity: Floats, rows: Indices, columns: Indices, least: float) -> tuple[Indices, Indices]:
    """Pairs of `rows` and `columns` with the greatest sum of similarities, none of them below `least`.

    Jonker and Volgenant's shortest augmenting paths (`lap`). Returns the row and the column indices of the pairs.
    """
    if not len(rows) or not len(columns):
        return rows[:0], columns[:0]
    part = similarity.take(rows, 0).take(columns, 1)
    row, column = (part >= least).nonzero()
    if not len(row):
        return rows[:0], columns[:0]
    if (row[1:] != row[:-1]).all() and np.bincount(column).max() == 1:
        # Nothing competes, as in most frames: the solution is plain, at a quarter of the solver's time.
        return rows[row], columns[column]
    column_of_row, _ = lap.lapjv(1.0 - part, extend_cost=True, cost_limit=1.0 - least, return_cost=False)
    row = (column_of_row >= 0).nonzero()[0]
    return rows[row], columns[column_of_row[row]]
