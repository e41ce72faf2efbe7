"""From a replayed clip and its truth to one audit per line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from crowdperf.audit.truth import TrueCrossing, Truth, TruthError
from crowdperf.replay.matching import Passage
from crowdperf.replay.run import Crossing, Outcome, Replayed
from crowdperf.replay.score import Score, score
from crowdperf.replay.setup import Setup
from crowdperf.settings.camera import Line
from crowdperf.settings.fingerprint import fingerprint
from crowdperf.storage.audits import LineAudit


class Verdict(NamedTuple):
    """One line."""

    line: Line
    score: Score
    surplus: list[Crossing]
    """Counted, and not true."""
    other_class: list[tuple[TrueCrossing, Crossing]]
    """Counted as another class than the truth says. They are right in every other figure."""


def audited_lines(setup: Setup, truth: Truth, marked: Sequence[str], source: str) -> list[Line]:
    """The lines to judge: those that the truth speaks of, and those that were watched although nothing happened.

    Args:
        marked: ids named by the operator.
        source: of the truth, for the message.

    Raises:
        TruthError: one of them is no line of the camera, or there is none.
    """
    wanted = truth.named() | set(marked)
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


def with_lines_of(setup: Setup, truth: Truth, source: str) -> Setup:
    """The setup with the truth's lines in the place of its own.

    Raises:
        TruthError: the truth draws none.
    """
    if not truth.lines:
        raise TruthError(f"{source} draws no lines. Remedy: leave --lines-from-truth away.")
    return replace(setup, tracked=replace(setup.tracked, lines=truth.lines))


def judge(lines: Sequence[Line], outcome: Outcome, true: Sequence[TrueCrossing], within_s: float) -> list[Verdict]:
    """Score each line."""
    return [_verdict(line, outcome, true, within_s) for line in lines]


def _verdict(line: Line, outcome: Outcome, true: Sequence[TrueCrossing], within_s: float) -> Verdict:
    # Classes that the line does not count are no fault of the count.
    real = [one for one in true if one.line == line.id and (not one.klass or one.klass in line.classes)]
    counted = [one for one in outcome.crossings if one.event.line == line.id]
    first = [Passage(one.at_s, one.line, one.direction) for one in real]
    second = [Passage(one.at_s, one.event.line, one.event.direction) for one in counted]
    found = score(first, second, within_s)
    return Verdict(
        line,
        found,
        [counted[j] for j in found.pairing.second],
        [
            (real[i], counted[j])
            for i, j in found.pairing.pairs
            if real[i].klass and real[i].klass != counted[j].event.klass
        ],
    )


def record(verdict: Verdict, outcome: Outcome, replayed: Replayed, within_s: float, at: float) -> LineAudit:
    """What is kept of a verdict; `at` is Unix time in seconds."""
    return LineAudit(
        camera=outcome.setup.tracked.camera_id,
        line=verdict.line.id,
        at=at,
        clip=replayed.clip.path.name,
        clip_s=round(replayed.length_s, 3),
        model=outcome.model,
        within_s=within_s,
        fingerprint=fingerprint(verdict.line),
        total=verdict.score.total,
        directions=verdict.score.directions,
    )
