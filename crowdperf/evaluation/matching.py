"""Pair the crossings of two lists, one to one: same line and direction, close in time and, if known, in place.

The result has as many pairs as possible, and the closest ones of these. That is an assignment problem, which `lap`
solves (Jonker and Volgenant) for each independent stretch of time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import lap
import numpy as np

FORBIDDEN_COST = 1e9


class Passage(NamedTuple):
    """A true or counted crossing; the place is NaN if unknown."""

    at: float
    """Seconds on the common clock of both lists."""
    line: str
    direction: str
    x: float = math.nan
    """Place in picture heights, as `y`."""
    y: float = math.nan


class Pairing(NamedTuple):
    """Indices into the two lists."""

    pairs: list[tuple[int, int]]
    unpaired_first: list[int]
    unpaired_second: list[int]

    def resolve(self, true: Sequence[Passage], counted: Sequence[Passage]) -> Matching:
        """Replace the indices into the two lists by their crossings."""
        return Matching(
            [(true[i], counted[j]) for i, j in self.pairs],
            [true[i] for i in self.unpaired_first],
            [counted[j] for j in self.unpaired_second],
        )


class Matching(NamedTuple):
    """Pairs of crossings, and the crossings without a partner."""

    pairs: list[tuple[Passage, Passage]]
    missed: list[Passage]
    """True crossings that were not counted."""
    surplus: list[Passage]
    """Counted crossings that are not true."""

    def select(self, direction: str) -> Matching:
        """Return the crossings in one direction."""
        missed, surplus = ([one for one in side if one.direction == direction] for side in (self.missed, self.surplus))
        return Matching([pair for pair in self.pairs if pair[0].direction == direction], missed, surplus)


def pair_crossings(
    first: Sequence[Passage], second: Sequence[Passage], within_s: float, max_distance: float = math.inf
) -> Pairing:
    """Pair the crossings of two lists.

    Args:
        first: one list.
        second: the other list.
        within_s: largest difference in time within a pair.
        max_distance: largest distance, picture heights; ignored if a place is unknown.

    Returns:
        Indices into the two lists.
    """
    pairs: list[tuple[int, int]] = []
    first_keys, second_keys = ([(passage.line, passage.direction) for passage in side] for side in (first, second))
    for key in sorted({*first_keys} & {*second_keys}):
        rows = [i for i, other in enumerate(first_keys) if other == key]
        columns = [j for j, other in enumerate(second_keys) if other == key]
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
    """Split both lists at pauses that are too long for a pair."""
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
    # Two unpaired crossings cost more than all possible pairs, so no pair is given up for closer ones.
    limit = 4.0 * (len(rows) + len(columns)) + 4.0
    column_of_row, _ = lap.lapjv(cost, extend_cost=True, cost_limit=limit, return_cost=False)
    return [(rows[i], columns[j]) for i, j in enumerate(column_of_row.tolist()) if j >= 0]


def _compute_cost(first: Passage, second: Passage, within_s: float, max_distance: float) -> float:
    """Compute the cost of a pair: 0 to 2, or FORBIDDEN_COST."""
    delay = abs(first.at - second.at)
    distance = math.hypot(first.x - second.x, first.y - second.y)
    if delay > within_s or distance > max_distance:
        return FORBIDDEN_COST
    distance_cost = distance / max_distance if math.isfinite(distance) and math.isfinite(max_distance) else 0.0
    return (delay / within_s if within_s else 0.0) + distance_cost
