"""How right the counts of a stretch of a repeated clip are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.harness import Counts
from crowdperf.demo.outlines import FPS
from crowdperf.evaluation.matching import Passage, pair_crossings

WITHIN = 2 * FPS
"""A counted crossing may be so many frames away from its true one."""


def repeat(truth: Iterable[Passage], frames: int, first: int, last: int) -> list[Passage]:
    """Return what truly crosses in the frames from `first` on, before `last`, of a clip that plays again and again.

    Args:
        truth: of the clip, in seconds from its first frame.
        frames: of the clip.
        first, last: frames since the clip began to play for the first time.

    Returns:
        Passages in seconds since then, sorted.
    """
    found = []
    for one in truth:
        frame = round(one.at * FPS)
        start = first + (frame - first) % frames
        found += [one._replace(at=number / FPS) for number in range(start, last, frames)]
    return sorted(found)


def tally(truth: Iterable[Passage], counted: Sequence[Passage], frames: int, first: int, last: int) -> Counts:
    """Compare what was counted in some frames of a camera with what is true.

    A pair whose true crossing lies in these frames belongs to them, and so does a surplus crossing that was counted in
    them. So what happens at their two ends is counted once.

    Args:
        truth, frames: of the clip that the camera repeats.
        counted: what was counted in these frames, and in `WITHIN` frames before and after them.
        first, last: the frames, as in `repeat`.
    """
    start, end = first / FPS, last / FPS
    around = repeat(truth, frames, max(0, first - WITHIN), last + WITHIN)
    found = pair_crossings(around, counted, WITHIN / FPS).resolve(around, counted)
    matched = sum(start <= true.at < end for true, _ in found.pairs)
    missed, surplus = (sum(start <= one.at < end for one in side) for side in (found.missed, found.surplus))
    return Counts(counted=matched + surplus, true=matched + missed, matched=matched)


def total(parts: Iterable[Counts]) -> Counts:
    """Add up the counts of several cameras."""
    whole = Counts(counted=0, true=0, matched=0)
    for one in parts:
        whole = Counts(
            counted=whole.counted + one.counted, true=whole.true + one.true, matched=whole.matched + one.matched
        )
    return whole
