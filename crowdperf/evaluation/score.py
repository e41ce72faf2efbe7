"""Agreement of counted with true crossings, per line.

All confidence intervals are of 95 %:

* Precision and recall use Wilson's score interval (E. B. Wilson, Probable Inference, the Law of Succession, and
  Statistical Inference, 1927). It stays inside 0..1 and is informative even for 6 out of 6.
* The count error is surplus minus missed crossings, divided by the true ones. Both are Poisson counts of rare events.
  Each gets Byar's limits (N. E. Breslow and N. E. Day, Statistical Methods in Cancer Research II, 1987, p. 69). The
  limits of the difference follow from these (G. Y. Zou and A. Donner, Construction of confidence limits about effect
  measures: a general approach, Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from crowdperf.evaluation.ground_truth import DIRECTIONS, TrueCrossing
from crowdperf.evaluation.matching import Matching, Passage, pair_crossings
from crowdperf.evaluation.replay import CountedCrossing, ReplayOutcome, ReplayResult
from crowdperf.settings.base import compute_fingerprint
from crowdperf.settings.camera import Line
from crowdperf.storage.evaluations import CountAccuracy, Estimate, LineEvaluation

Z_95 = 1.959963984540054
"""Quantile of the normal distribution for a two-sided interval of 95 %."""


def compute_figures(matching: Matching) -> CountAccuracy:
    """Compute precision, recall and count error of a matching."""
    pairs, missed, surplus = len(matching.pairs), len(matching.missed), len(matching.surplus)
    return CountAccuracy(
        true=pairs + missed,
        counted=pairs + surplus,
        matched=pairs,
        precision=compute_wilson_interval(pairs, pairs + surplus),
        recall=compute_wilson_interval(pairs, pairs + missed),
        count_error=compute_count_error(pairs + missed, missed, surplus),
    )


def compute_wilson_interval(hits: int, total: int) -> Estimate | None:
    """Compute the share `hits` / `total` with its interval; None if `total` is 0."""
    if not total:
        return None
    share, spread = hits / total, Z_95 * Z_95 / total
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # At both ends the formula gives exactly 0 and 1, but its floating point does not.
    return Estimate(share, 0.0 if hits == 0 else centre - half, 1.0 if hits == total else centre + half)


def compute_byar_limits(count: int) -> tuple[float, float]:
    """Compute the limits of the mean of a Poisson variable that was observed as `count`."""
    low = count * (1 - 1 / (9 * count) - Z_95 / (3 * math.sqrt(count))) ** 3 if count else 0.0
    more = count + 1
    return low, more * (1 - 1 / (9 * more) + Z_95 / (3 * math.sqrt(more))) ** 3


def compute_count_error(true: int, missed: int, surplus: int) -> Estimate | None:
    """Compute (surplus - missed) / true with its interval.

    Args:
        true: number of true crossings.
        missed: number of true crossings that were not counted.
        surplus: number of counted crossings that are not true.

    Returns:
        None if there are no true crossings.
    """
    if not true:
        return None
    (missed_low, missed_high), (surplus_low, surplus_high) = compute_byar_limits(missed), compute_byar_limits(surplus)
    difference = surplus - missed
    return Estimate(
        difference / true,
        # No more than all can be missed.
        max(-1.0, (difference - math.hypot(surplus - surplus_low, missed_high - missed)) / true),
        (difference + math.hypot(surplus_high - surplus, missed - missed_low)) / true,
    )


class LineAccuracy(NamedTuple):
    """Accuracy of one line, with its mistakes."""

    line: Line
    total: CountAccuracy
    directions: dict[str, CountAccuracy]
    """Keys are `in` and `out`."""
    missed: list[Passage]
    surplus: list[CountedCrossing]
    other_class: list[tuple[TrueCrossing, CountedCrossing]]
    """Pairs of different class. They count as right in every other figure."""


def judge_line(line: Line, outcome: ReplayOutcome, true: Sequence[TrueCrossing], within_s: float) -> LineAccuracy:
    """Score a line.

    Args:
        line: the line.
        outcome: what was counted.
        true: the true crossings of all lines.
        within_s: largest difference in time within a pair.

    Returns:
        The accuracy, with the mistakes.
    """
    # True crossings of classes that the line does not count are not missed.
    real = [item for item in true if item.line == line.id and (not item.class_name or item.class_name in line.classes)]
    counted = [item for item in outcome.crossings if item.event.line == line.id]
    first = [Passage(item.at_s, item.line, item.direction) for item in real]
    second = [Passage(item.at_s, item.event.line, item.event.direction) for item in counted]
    pairing = pair_crossings(first, second, within_s)
    matching = pairing.resolve(first, second)
    pairs = [(real[i], counted[j]) for i, j in pairing.pairs]
    return LineAccuracy(
        line,
        compute_figures(matching),
        {name: compute_figures(matching.select(name)) for name in DIRECTIONS},
        matching.missed,
        [counted[j] for j in pairing.unpaired_second],
        [pair for pair in pairs if pair[0].class_name and pair[0].class_name != pair[1].event.class_name],
    )


def build_line_audit(verdict: LineAccuracy, replayed: ReplayResult, within_s: float, at: float) -> LineEvaluation:
    """Build the stored form of a result.

    Args:
        verdict: the result.
        replayed: the replay of one configuration.
        within_s: largest difference in time within a pair.
        at: Unix time, seconds.

    Returns:
        The record to store.
    """
    (outcome,) = replayed.outcomes
    return LineEvaluation(
        camera=outcome.setup.tracked.camera_id,
        line=verdict.line.id,
        at=at,
        clip=replayed.clip.path.name,
        clip_s=round(replayed.length_s, 3),
        model=outcome.model,
        within_s=within_s,
        fingerprint=compute_fingerprint(verdict.line),
        total=verdict.total,
        directions=verdict.directions,
    )
