"""Which stored crossings are which true ones: the product's own matching."""

from __future__ import annotations

from collections.abc import Sequence

from crowdperf.evaluation import matching
from crowdperf.evaluation.matching import Passage, pair_crossings

__all__ = ["Matching", "Passage", "match_crossings"]


class Matching(matching.Matching):
    """Pairs and crossings without a partner, as shares."""

    @property
    def recall(self) -> float:
        """Share of the true crossings that were counted."""
        return len(self.pairs) / max(1, len(self.pairs) + len(self.missed))

    @property
    def precision(self) -> float:
        """Share of the counted crossings that are true."""
        return len(self.pairs) / max(1, len(self.pairs) + len(self.surplus))


def match_crossings(true: Sequence[Passage], counted: Sequence[Passage], within_s: float) -> Matching:
    """Pair each true crossing with at most one counted crossing."""
    return Matching(*pair_crossings(true, counted, within_s).resolve(true, counted))
