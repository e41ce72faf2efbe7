"""Which stored crossings are which true ones: the product's own matching."""

from crowdperf.evaluation.matching import Matching, Passage, match_crossings

__all__ = ["Matching", "Passage", "match_crossings"]
