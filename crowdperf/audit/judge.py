"""From a replayed clip and its truth to one audit per line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from crowdperf.audit.truth import GroundTruth, TrueCrossing, TruthError
from crowdperf.replay.matching import Passage
from crowdperf.replay.run import CountedCrossing, ReplayOutcome, ReplayResult
from crowdperf.replay.score import Score, score_crossings
from crowdperf.replay.setup import CameraSetup
from crowdperf.settings.camera import Line
from crowdperf.settings.fingerprint import compute_fingerprint
from crowdperf.storage.audits import LineEvaluation


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
            if real[i].class_name and real[i].class_name != counted[j].event.klass
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
