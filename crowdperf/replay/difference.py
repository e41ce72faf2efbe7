"""Where two outcomes of one clip differ, crossing by crossing. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from crowdperf.replay.matching import Passage, pair
from crowdperf.replay.run import Crossing, Outcome

WITHIN_S = 1.0
REACH = 0.3
"""Picture heights. Two crossings of one line in the same second, further apart than this, are of two people."""
Kind = Literal["only", "direction", "class"]


class Difference(NamedTuple):
    """A crossing that one configuration counts, and the other does not or not so."""

    kind: Kind
    """only: the other counts nothing there; direction, class: `other` is the same object, counted differently."""
    which: int
    """0 where `crossing` is of the first configuration, 1 of the second; 0 unless `kind` is `only`."""
    crossing: Crossing
    other: Crossing | None = None


class Compared(NamedTuple):
    """Two outcomes side by side."""

    same: int
    """Crossings that both count alike."""
    differences: list[Difference]
    """In order of time."""


def compare(first: Outcome, second: Outcome, aspect: float, within_s: float = WITHIN_S) -> Compared:
    """Match the crossings of two outcomes.

    Args:
        aspect: the source's width divided by its height.
        within_s: how far apart in time two counts of one crossing may be.
    """
    one, two = _passages(first, aspect), _passages(second, aspect)
    found = pair(one, two, within_s, REACH)
    differences: list[Difference] = []
    same = 0
    for i, j in found.pairs:
        if first.crossings[i].event.klass == second.crossings[j].event.klass:
            same += 1
        else:
            differences.append(Difference("class", 0, first.crossings[i], second.crossings[j]))
    # What is left of one line, at one time and place, but the other way: one object, counted differently.
    left, right = found.first, found.second
    turned = [two[j]._replace(direction="out" if two[j].direction == "in" else "in") for j in right]
    other_way = pair([one[i] for i in left], turned, within_s, REACH)
    for i, j in other_way.pairs:
        differences.append(Difference("direction", 0, first.crossings[left[i]], second.crossings[right[j]]))
    differences += [Difference("only", 0, first.crossings[left[i]]) for i in other_way.first]
    differences += [Difference("only", 1, second.crossings[right[j]]) for j in other_way.second]
    differences.sort(key=lambda one: (one.crossing.at_s, one.crossing.event.line, one.which))
    return Compared(same, differences)


def changed_settings(first: Outcome, second: Outcome) -> list[tuple[str, object, object]]:
    """(path, value, value) of each setting in which the two configurations differ; None where one has it not."""
    one, two = first.setup.settings(), second.setup.settings()
    paths = [*one, *(path for path in two if path not in one)]
    return [(path, one.get(path), two.get(path)) for path in paths if one.get(path) != two.get(path)]


def _passages(outcome: Outcome, aspect: float) -> list[Passage]:
    centre = {line.id for line in outcome.setup.tracked.lines if line.anchor == "centre"}
    return [one.passage(aspect, one.event.line in centre) for one in outcome.crossings]


def distinct(names: list[str]) -> list[str]:
    """Two configurations of one name, told apart."""
    return names if len(set(names)) == len(names) else [f"{name} ({letter})" for name, letter in zip(names, "AB")]
