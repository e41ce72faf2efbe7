"""How well a list of counted crossings agrees with the true ones. Pure.

Confidence intervals, all of 95 %:

* Precision and recall are shares: Wilson's score interval (E. B. Wilson, Probable Inference, the Law of Succession, and
  Statistical Inference, 1927), which stays inside 0..1 and says something even of 6 out of 6.
* The count error is surplus minus missed crossings over the true ones. Both are counts of rare accidents, so Poisson:
  each gets Byar's limits (N. E. Breslow and N. E. Day, Statistical Methods in Cancer Research II, 1987, p. 69), and
  their difference the limits that follow from those (G. Y. Zou and A. Donner, Construction of confidence limits about
  effect measures: a general approach, Statistics in Medicine 27, 2008). No mistake in few crossings is thus no proof.

From a replayed clip and its truth to one audit per line. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from crowdperf.evaluation.camera_setup import CameraSetup
from crowdperf.evaluation.ground_truth import GroundTruth, TrueCrossing, TruthError
from crowdperf.evaluation.matching import Matching, Pairing, Passage, build_matching, pair_crossings
from crowdperf.evaluation.replay import CountedCrossing, ReplayOutcome, ReplayResult
from crowdperf.settings.base import compute_fingerprint
from crowdperf.settings.camera import Line
from crowdperf.storage.evaluations import CountAccuracy, Estimate, LineEvaluation

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


class LineAccuracy(NamedTuple):
    """One line."""

    line: Line
    score: Score
    surplus: list[CountedCrossing]
    """Counted, and not true."""
    other_class: list[tuple[TrueCrossing, CountedCrossing]]
    """Counted as another class than the truth says. They are right in every other figure."""


def select_lines(setup: CameraSetup, truth: GroundTruth, extra_lines: Sequence[str], source: str) -> list[Line]:
    """The lines to judge: those that the truth speaks of, and those that were watched although nothing happened.

    Args:
        marked: ids named by the operator.
        source: of the truth, for the message.

    Raises:
        TruthError: one of them is no line of the camera, or there is none.
    """
    wanted = truth.get_line_ids() | set(extra_lines)
    known = [line.id for line in setup.tracked.lines]
    for name in sorted(wanted):
        if name not in known:
            raise TruthError(
                f"{source}: the line {name!r} is none of camera {setup.tracked.camera_id!r} in {setup.name}, which has "
                f"{', '.join(known) or 'no lines'}. Remedy: correct the name, choose --camera, or count the lines that "
                "the truth file itself draws with --lines-from-truth."
            )
    if not wanted:
        raise TruthError(f"{source} speaks of no line. Remedy: name the lines that were watched with --line.")
    return [line for line in setup.tracked.lines if line.id in wanted]


def use_truth_lines(setup: CameraSetup, truth: GroundTruth, source: str) -> CameraSetup:
    """The setup with the truth's lines in the place of its own.

    Raises:
        TruthError: the truth draws none.
    """
    if not truth.lines:
        raise TruthError(f"{source} draws no lines. Remedy: leave --lines-from-truth away.")
    return replace(setup, tracked=replace(setup.tracked, lines=truth.lines))


def judge_lines(
    lines: Sequence[Line], outcome: ReplayOutcome, true: Sequence[TrueCrossing], within_s: float
) -> list[LineAccuracy]:
    """Score each line."""
    return [_judge_line(line, outcome, true, within_s) for line in lines]


def _judge_line(line: Line, outcome: ReplayOutcome, true: Sequence[TrueCrossing], within_s: float) -> LineAccuracy:
    # Classes that the line does not count are no fault of the count.
    real = [one for one in true if one.line == line.id and (not one.class_name or one.class_name in line.classes)]
    counted = [one for one in outcome.crossings if one.event.line == line.id]
    first = [Passage(one.at_s, one.line, one.direction) for one in real]
    second = [Passage(one.at_s, one.event.line, one.event.direction) for one in counted]
    found = score_crossings(first, second, within_s)
    return LineAccuracy(
        line,
        found,
        [counted[j] for j in found.pairing.unpaired_second],
        [
            (real[i], counted[j])
            for i, j in found.pairing.pairs
            if real[i].class_name and real[i].class_name != counted[j].event.class_name
        ],
    )


def build_line_audit(
    verdict: LineAccuracy, outcome: ReplayOutcome, replayed: ReplayResult, within_s: float, at: float
) -> LineEvaluation:
    """What is kept of a verdict; `at` is Unix time in seconds."""
    return LineEvaluation(
        camera=outcome.setup.tracked.camera_id,
        line=verdict.line.id,
        at=at,
        clip=replayed.clip.path.name,
        clip_s=round(replayed.length_s, 3),
        model=outcome.model,
        within_s=within_s,
        fingerprint=compute_fingerprint(verdict.line),
        total=verdict.score.total,
        directions=verdict.score.directions,
    )
