"""Where two outcomes of one clip differ, crossing by crossing. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from crowdperf.replay.matching import Passage, pair_crossings
from crowdperf.replay.run import CountedCrossing, ReplayOutcome

DEFAULT_WITHIN_S = 1.0
MAX_CROSSING_DISTANCE = 0.3
"""Picture heights. Two crossings of one line in the same second, further apart than this, are of two people."""
DifferenceKind = Literal["only", "direction", "class"]


class Difference(NamedTuple):
    """A crossing that one configuration counts, and the other does not or not so."""

    kind: DifferenceKind
    """only: the other counts nothing there; direction, class: `other` is the same object, counted differently."""
    outcome_index: int
    """0 where `crossing` is of the first configuration, 1 of the second; 0 unless `kind` is `only`."""
    crossing: CountedCrossing
    other: CountedCrossing | None = None


class Comparison(NamedTuple):
    """Two outcomes side by side."""

    same_count: int
    """Crossings that both count alike."""
    differences: list[Difference]
    """In order of time."""


def compare_outcomes(
    first: ReplayOutcome, second: ReplayOutcome, aspect: float, within_s: float = DEFAULT_WITHIN_S
) -> Comparison:
    """Match the crossings of two outcomes.

    Args:
        aspect: the source's width divided by its height.
        within_s: how far apart in time two counts of one crossing may be.
    """
    one, two = _to_passages(first, aspect), _to_passages(second, aspect)
    found = pair_crossings(one, two, within_s, MAX_CROSSING_DISTANCE)
    differences: list[Difference] = []
    same = 0
    for i, j in found.pairs:
        if first.crossings[i].event.klass == second.crossings[j].event.klass:
            same += 1
        else:
            differences.append(Difference("class", 0, first.crossings[i], second.crossings[j]))
    # What is left of one line, at one time and place, but the other way: one object, counted differently.
    left, right = found.unpaired_first, found.unpaired_second
    turned = [two[j]._replace(direction="out" if two[j].direction == "in" else "in") for j in right]
    other_way = pair_crossings([one[i] for i in left], turned, within_s, MAX_CROSSING_DISTANCE)
    for i, j in other_way.pairs:
        differences.append(Difference("direction", 0, first.crossings[left[i]], second.crossings[right[j]]))
    differences += [Difference("only", 0, first.crossings[left[i]]) for i in other_way.unpaired_first]
    differences += [Difference("only", 1, second.crossings[right[j]]) for j in other_way.unpaired_second]
    differences.sort(key=lambda one: (one.crossing.at_s, one.crossing.event.line, one.outcome_index))
    return Comparison(same, differences)


def find_changed_settings(first: ReplayOutcome, second: ReplayOutcome) -> list[tuple[str, object, object]]:
    """(path, value, value) of each setting in which the two configurations differ; None where one has it not."""
    one, two = first.setup.collect_settings(), second.setup.collect_settings()
    paths = [*one, *(path for path in two if path not in one)]
    return [(path, one.get(path), two.get(path)) for path in paths if one.get(path) != two.get(path)]


def _to_passages(outcome: ReplayOutcome, aspect: float) -> list[Passage]:
    centre = {line.id for line in outcome.setup.tracked.lines if line.anchor == "centre"}
    return [one.to_passage(aspect, one.event.line in centre) for one in outcome.crossings]


def make_names_distinct(names: list[str]) -> list[str]:
    """Two configurations of one name, told apart."""
    return names if len(set(names)) == len(names) else [f"{name} ({letter})" for name, letter in zip(names, "AB")]
