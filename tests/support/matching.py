"""Which stored crossings are which true ones: the product's own matching."""

from collections.abc import Sequence

from crowdperf.evaluation.matching import Matching, Passage, pair_crossings

__all__ = ["Matching", "Passage", "match_crossings"]


def match_crossings(true: Sequence[Passage], counted: Sequence[Passage], within_s: float) -> Matching:
    """Pair each true crossing with at most one counted crossing."""
    return pair_crossings(true, counted, within_s).resolve(true, counted)
