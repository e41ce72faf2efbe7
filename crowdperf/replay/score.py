"""How well a list of counted crossings agrees with the true ones. Pure.

Confidence intervals, all of 95 %:

* Precision and recall are shares: Wilson's score interval (E. B. Wilson, Probable Inference, the Law of Succession, and
  Statistical Inference, 1927), which stays inside 0..1 and says something even of 6 out of 6.
* The count error is surplus minus missed crossings over the true ones. Both are counts of rare accidents, so Poisson:
  each gets Byar's limits (N. E. Breslow and N. E. Day, Statistical Methods in Cancer Research II, 1987, p. 69), and
  their difference the limits that follow from those (G. Y. Zou and A. Donner, Construction of confidence limits about
  effect measures: a general approach, Statistics in Medicine 27, 2008). No mistake in few crossings is thus no proof.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from crowdperf.replay.matching import Matching, Pairing, Passage, matched, pair
from crowdperf.storage.audits import Estimate, Figures

Z = 1.959963984540054
"""Of 95 %, both sides."""


class Score(NamedTuple):
    """One line's agreement."""

    total: Figures
    directions: dict[str, Figures]
    """in, out."""
    matching: Matching
    pairing: Pairing
    """The same as indices into the two lists."""


def score(true: Sequence[Passage], counted: Sequence[Passage], within_s: float) -> Score:
    """Compare the crossings of ONE line.

    Args:
        within_s: how far apart in time the two of a pair may be.
    """
    pairing = pair(true, counted, within_s)
    found = matched(true, counted, pairing)
    return Score(figures(found), {way: figures(_of(found, way)) for way in ("in", "out")}, found, pairing)


def figures(found: Matching) -> Figures:
    """The numbers of a matching."""
    pairs, missed, surplus = len(found.pairs), len(found.missed), len(found.surplus)
    return Figures(
        true=pairs + missed,
        counted=pairs + surplus,
        matched=pairs,
        precision=wilson(pairs, pairs + surplus),
        recall=wilson(pairs, pairs + missed),
        count_error=count_error(pairs + missed, missed, surplus),
    )


def _of(found: Matching, direction: str) -> Matching:
    return Matching(
        [both for both in found.pairs if both[0].direction == direction],
        [one for one in found.missed if one.direction == direction],
        [one for one in found.surplus if one.direction == direction],
    )


def wilson(hits: int, of: int) -> Estimate | None:
    """The share `hits` / `of`; None of nothing."""
    if not of:
        return None
    share, spread = hits / of, Z * Z / of
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    # At the ends the formula is exact, but not its floating point.
    return Estimate(share, 0.0 if hits == 0 else centre - half, 1.0 if hits == of else centre + half)


def byar(count: int) -> tuple[float, float]:
    """Limits of the mean of a Poisson variable that was seen to be `count`."""
    low = count * (1 - 1 / (9 * count) - Z / (3 * math.sqrt(count))) ** 3 if count else 0.0
    more = count + 1
    return low, more * (1 - 1 / (9 * more) + Z / (3 * math.sqrt(more))) ** 3


def count_error(true: int, missed: int, surplus: int) -> Estimate | None:
    """(surplus - missed) / true; None where nothing was to be counted."""
    if not true:
        return None
    (missed_low, missed_high), (surplus_low, surplus_high) = byar(missed), byar(surplus)
    difference = surplus - missed
    return Estimate(
        difference / true,
        # Nobody can miss more than there were.
        max(-1.0, (difference - math.hypot(surplus - surplus_low, missed_high - missed)) / true),
        (difference + math.hypot(surplus_high - surplus, missed - missed_low)) / true,
    )
