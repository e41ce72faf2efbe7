"""Which stored crossings are which true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Passage(NamedTuple):
    """A crossing, true or counted: seconds on one common clock, line and direction."""

    at: float
    line: str
    direction: str


class Matching(NamedTuple):
    """The pairs, and what is left on both sides."""

    pairs: list[tuple[Passage, Passage]]
    missed: list[Passage]
    """True ones without a counted one."""
    surplus: list[Passage]
    """Counted ones without a true one."""

    @property
    def recall(self) -> float:
        """Share of the true ones that were counted."""
        return len(self.pairs) / max(1, len(self.pairs) + len(self.missed))

    @property
    def precision(self) -> float:
        """Share of the counted ones that are true."""
        return len(self.pairs) / max(1, len(self.pairs) + len(self.surplus))


def match(true: Sequence[Passage], counted: Sequence[Passage], within_s: float) -> Matching:
    """Pair each true crossing with at most one counted one of the same line and direction, nearest pairs first."""
    candidates = sorted(
        (abs(t.at - c.at), i, j)
        for i, t in enumerate(true)
        for j, c in enumerate(counted)
        if (t.line, t.direction) == (c.line, c.direction) and abs(t.at - c.at) <= within_s
    )
    left, right = set(range(len(true))), set(range(len(counted)))
    pairs = []
    for _, i, j in candidates:
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            pairs.append((true[i], counted[j]))
    return Matching(pairs, [true[i] for i in sorted(left)], [counted[j] for j in sorted(right)])
