"""From what single frames show of one item to a verdict about a person. Pure.

One frame proves little: a helmet is hidden, blurred, or taken for hair. Each frame votes with the model's score and the
person's size, or abstains; the newest votes decide, and only when they are enough and nearly of one mind.
"""

from __future__ import annotations

from typing import Literal

Verdict = Literal["missing", "worn", "unsure"]

WINDOW = 8
"""Votes that decide: the newest ones, so that somebody who puts the helmet on is soon believed."""
LEAST_VOTES = 3
LEAST_WEIGHT = 1.0
"""Sum of the votes' weights: three clear frames of a tall person, or more of a small one."""
AGREEMENT = 0.7
"""Share of the weight that a verdict needs."""
LEAST_SCORE = 0.35
"""A frame in which neither the item nor its absence was found better than this abstains."""
FULL_HEIGHT_PX = 160.0
"""A person of this height votes with full weight, a smaller one with less."""


def vote(worn: float, missing: float, height_px: float, least_height_px: float) -> float | None:
    """One frame's vote: positive for missing, negative for worn, None where it abstains.

    Args:
        worn: best score of the item on the person, 0 where it was not found.
        missing: the same for its absence.
        height_px: the person's height in the picture that was looked at, pixels.
        least_height_px: smaller people cannot be judged.
    """
    if height_px < least_height_px or max(worn, missing) < LEAST_SCORE:
        return None
    return (missing - worn) * min(1.0, height_px / FULL_HEIGHT_PX)


def verdict(votes: list[float]) -> Verdict:
    """What the newest votes of an item say."""
    recent = votes[-WINDOW:]
    total = sum(abs(value) for value in recent)
    if len(recent) < LEAST_VOTES or total < LEAST_WEIGHT:
        return "unsure"
    missing = sum(value for value in recent if value > 0)
    if missing >= AGREEMENT * total:
        return "missing"
    return "worn" if missing <= (1 - AGREEMENT) * total else "unsure"
