"""From what single frames show of one item to a verdict about a person. Pure.

One frame proves little: a helmet is hidden, blurred, or taken for hair. Each frame votes with the model's score and the
person's size, or abstains; the newest votes decide, and only when they are enough and nearly of one mind.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["missing", "worn", "unsure"]

MAX_VOTES = 8
"""Votes that decide: the newest ones, so that somebody who puts the helmet on is soon believed."""
MIN_VOTES = 3
MIN_TOTAL_WEIGHT = 1.0
"""Sum of the votes' weights: three clear frames of a tall person, or more of a small one."""
MIN_AGREEMENT = 0.7
"""Share of the weight that a verdict needs."""
MIN_VOTE_SCORE = 0.35
"""A frame in which neither the item nor its absence was found better than this abstains."""
FULL_HEIGHT_PX = 160.0
"""A person of this height votes with full weight, a smaller one with less."""


def compute_vote(worn_score: float, missing_score: float, height_px: float, min_height_px: float) -> float | None:
    """One frame's vote: positive for missing, negative for worn, None where it abstains.

    Args:
        worn: best score of the item on the person, 0 where it was not found.
        missing: the same for its absence.
        height_px: the person's height in the picture that was looked at, pixels.
        least_height_px: smaller people cannot be judged.
    """
    if height_px < min_height_px or max(worn_score, missing_score) < MIN_VOTE_SCORE:
        return None
    return (missing_score - worn_score) * min(1.0, height_px / FULL_HEIGHT_PX)


def decide_verdict(votes: list[float]) -> Verdict:
    """What the newest votes of an item say."""
    recent = votes[-MAX_VOTES:]
    total = sum(abs(value) for value in recent)
    if len(recent) < MIN_VOTES or total < MIN_TOTAL_WEIGHT:
        return "unsure"
    missing = sum(value for value in recent if value > 0)
    if missing >= MIN_AGREEMENT * total:
        return "missing"
    return "worn" if missing <= (1 - MIN_AGREEMENT) * total else "unsure"
