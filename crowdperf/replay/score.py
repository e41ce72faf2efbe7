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

from crowdperf.replay.matching import Matching, Pairing, Passage, build_matching, pair_crossings
from crowdperf.storage.audits import CountAccuracy, Estimate

Z_95 = 1.959963984540054
"""Of 95 %, both sides."""


class Score(NamedTuple):
    """One line's agreement."""

    total: CountAccuracy
    directions: dict[str, CountAccuracy]
    """in, out."""
    matching: Matching
    pairing: Pairing
    """The same as indices into the two lists."""


def score_crossings(true: Sequence[Passage], counted: Sequence[Passage], within_s: float) -> Score:
    """Compare the crossings of ONE line.

    Args:
        within_s: how far apart in time the two of a pair may be.
    """
    pairing = pair_crossings(true, counted, within_s)
    found = build_matching(true, counted, pairing)
    return Score(
        compute_figures(found),
        {way: compute_figures(_select_direction(found, way)) for way in ("in", "out")},
        found,
        pairing,
    )


def compute_figures(found: Matching) -> CountAccuracy:
    """The numbers of a matching."""
    pairs, missed, surplus = len(found.pairs), len(found.missed), len(found.surplus)
    return CountAccuracy(
        true=pairs + missed,
        counted=pairs + surplus,
        matched=pairs,
        precision=compute_wilson_interval(pairs, pairs + surplus),
        recall=compute_wilson_interval(pairs, pairs + missed),
        count_error=compute_count_error(pairs + missed, missed, surplus),
    )


def _select_direction(found: Matching, direction: str) -> Matching:
    return Matching(
        [both for both in found.pairs if both[0].direction == direction],
        [one for one in found.missed if one.direction == direction],
        [one for one in found.surplus if one.direction == direction],
    )


def compute_wilson_interval(hits: int, total: int) -> Estimate | None:
    """The share `hits` / `of`; None of nothing."""
    if not total:
        return None
    share, spread = hits / total, Z_95 * Z_95 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # At the ends the formula is exact, but not its floating point.
    return Estimate(share, 0.0 if hits == 0 else centre - half, 1.0 if hits == total else centre + half)


def compute_byar_limits(count: int) -> tuple[float, float]:
    """Limits of the mean of a Poisson variable that was seen to be `count`."""
    low = count * (1 - 1 / (9 * count) - Z_95 / (3 * math.sqrt(count))) ** 3 if count else 0.0
    more = count + 1
    return low, more * (1 - 1 / (9 * more) + Z_95 / (3 * math.sqrt(more))) ** 3


def compute_count_error(true: int, missed: int, surplus: int) -> Estimate | None:
    """(surplus - missed) / true; None where nothing was to be counted."""
    if not true:
        return None
    (missed_low, missed_high), (surplus_low, surplus_high) = compute_byar_limits(missed), compute_byar_limits(surplus)
    difference = surplus - missed
    return Estimate(
        difference / true,
        # Nobody can miss more than there were.
        max(-1.0, (difference - math.hypot(surplus - surplus_low, missed_high - missed)) / true),
        (difference + math.hypot(surplus_high - surplus, missed - missed_low)) / true,
    )
