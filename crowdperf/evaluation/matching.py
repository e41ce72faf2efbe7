"""Which crossings of one list are which of another: one to one, near in time (and place), same line and direction.

As many pairs as possible, and of those the nearest: the assignment problem, solved by Jonker and Volgenant's shortest
augmenting paths (`lap`) for each stretch of time that nothing connects with the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import lap
import numpy as np

FORBIDDEN_COST = 1e9
"""Cost of a pair that may not be."""


class Passage(NamedTuple):
    """A crossing, true or counted: seconds on one common clock, line and direction; where, if that is known."""

    at: float
    line: str
    direction: str
    x: float = math.nan
    """Picture heights."""
    y: float = math.nan


class Pairing(NamedTuple):
    """Indices into the two lists."""

    pairs: list[tuple[int, int]]
    unpaired_first: list[int]
    """Left over of the first list."""
    unpaired_second: list[int]


class Matching(NamedTuple):
    """The pairs, and what is left on both sides."""

    pairs: list[tuple[Passage, Passage]]
    missed: list[Passage]
    """True ones without a counted one."""
    surplus: list[Passage]
    """Counted ones without a true one."""

    @property
    def recall(self) -> float:
        """Share of the true ones that were counted."""
        return len(self.pairs) / max(1, len(self.pairs) + len(self.missed))

    @property
    def precision(self) -> float:
        """Share of the counted ones that are true."""
        return len(self.pairs) / max(1, len(self.pairs) + len(self.surplus))


def match_crossings(true: Sequence[Passage], counted: Sequence[Passage], within_s: float) -> Matching:
    """Pair each true crossing with at most one counted one."""
    return build_matching(true, counted, pair_crossings(true, counted, within_s))


def build_matching(true: Sequence[Passage], counted: Sequence[Passage], found: Pairing) -> Matching:
    """A pairing in terms of crossings."""
    return Matching(
        [(true[i], counted[j]) for i, j in found.pairs],
        [true[i] for i in found.unpaired_first],
        [counted[j] for j in found.unpaired_second],
    )


def pair_crossings(
    first: Sequence[Passage], second: Sequence[Passage], within_s: float, max_distance: float = math.inf
) -> Pairing:
    """The pairs of two lists.

    Args:
        within_s: how far the two of a pair may be apart in time.
        reach: and in place, picture heights; of no matter where a place is unknown.
    """
    pairs: list[tuple[int, int]] = []
    keys = sorted({(one.line, one.direction) for one in first} & {(one.line, one.direction) for one in second})
    for key in keys:
        rows = [i for i, one in enumerate(first) if (one.line, one.direction) == key]
        columns = [j for j, one in enumerate(second) if (one.line, one.direction) == key]
        for part in _split_by_time([first[i].at for i in rows], [second[j].at for j in columns], within_s):
            pairs += _assign_pairs(
                first, second, [rows[i] for i in part[0]], [columns[j] for j in part[1]], within_s, max_distance
            )
    pairs.sort()
    paired_first, paired_second = {i for i, _ in pairs}, {j for _, j in pairs}
    return Pairing(
        pairs,
        [i for i in range(len(first)) if i not in paired_first],
        [j for j in range(len(second)) if j not in paired_second],
    )


def _split_by_time(first: list[float], second: list[float], within_s: float) -> list[tuple[list[int], list[int]]]:
    """Split both lists where no pair can reach over."""
    moments = sorted([(at, 0, i) for i, at in enumerate(first)] + [(at, 1, j) for j, at in enumerate(second)])
    parts: list[tuple[list[int], list[int]]] = []
    for before, (at, side, index) in itertools.zip_longest([None, *moments[:-1]], moments, fillvalue=(0.0, 0, 0)):
        if before is None or at - before[0] > within_s:
            parts.append(([], []))
        parts[-1][side].append(index)
    return [part for part in parts if part[0] and part[1]]


def _assign_pairs(
    first: Sequence[Passage],
    second: Sequence[Passage],
    rows: list[int],
    columns: list[int],
    within_s: float,
    max_distance: float,
) -> list[tuple[int, int]]:
    cost = np.array([[_compute_cost(first[i], second[j], within_s, max_distance) for j in columns] for i in rows])
    # Leaving two alone costs more than all possible pairs together: no pair is given up for nearer ones.
    limit = 4.0 * (len(rows) + len(columns)) + 4.0
    column_of_row, _ = lap.lapjv(cost, extend_cost=True, cost_limit=limit, return_cost=False)
    return [(rows[i], columns[j]) for i, j in enumerate(column_of_row.tolist()) if j >= 0]


def _compute_cost(one: Passage, other: Passage, within_s: float, max_distance: float) -> float:
    """0 to 2, or APART."""
    late = abs(one.at - other.at)
    distance = math.hypot(one.x - other.x, one.y - other.y)
    if late > within_s or distance > max_distance:
        return FORBIDDEN_COST
    near = distance / max_distance if math.isfinite(distance) and math.isfinite(max_distance) else 0.0
    return (late / within_s if within_s else 0.0) + near
