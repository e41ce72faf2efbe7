"""Pairs of crossings: as many as possible, and of those the nearest."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.evaluation.matching import Passage, pair_crossings
from tests.support.matching import match_crossings

MOMENTS = st.lists(st.integers(0, 12).map(lambda tenth: tenth / 2), max_size=5)


def passages(moments: list[float], line: str = "door", direction: str = "in") -> list[Passage]:
    return [Passage(at, line, direction) for at in moments]


def best(first: list[float], second: list[float], within_s: float) -> tuple[int, float]:
    """Number and total distance of the best pairs, by trying all."""
    short, long = sorted((first, second), key=len)
    found = []
    for chosen in itertools.permutations(range(len(long)), len(short)):
        apart = [abs(at - long[j]) for at, j in zip(short, chosen)]
        kept = [distance for distance in apart if distance <= within_s]
        # Leaving any of them out is another, poorer choice: fewer pairs.
        found.append((-len(kept), sum(kept)))
    number, total = min(found)
    return -number, total


@settings(deadline=None)
@given(MOMENTS, MOMENTS, st.sampled_from([0.5, 1.0, 2.0]))
def test_pairs_are_the_best_there_are(first: list[float], second: list[float], within_s: float) -> None:
    found = pair_crossings(passages(first), passages(second), within_s)
    apart = [abs(first[i] - second[j]) for i, j in found.pairs]
    assert all(distance <= within_s for distance in apart)
    number, total = best(first, second, within_s)
    assert len(apart) == number
    assert abs(sum(apart) - total) < 1e-9


@settings(deadline=None)
@given(MOMENTS, MOMENTS)
def test_everybody_is_in_one_pair_or_left_over(first: list[float], second: list[float]) -> None:
    found = pair_crossings(passages(first), passages(second), 1.0)
    assert sorted([i for i, _ in found.pairs] + found.unpaired_first) == list(range(len(first)))
    assert sorted([j for _, j in found.pairs] + found.unpaired_second) == list(range(len(second)))


@settings(deadline=None)
@given(MOMENTS)
def test_a_list_matches_itself(moments: list[float]) -> None:
    found = match_crossings(passages(moments), passages(moments), 1.0)
    assert (found.missed, found.surplus) == ([], [])
    assert all(one == other for one, other in found.pairs)


def test_a_nearer_pair_never_costs_another_one() -> None:
    # 2.0 is nearest to 1.9, which is the only one that 1.0 can have.
    found = match_crossings(passages([1.0, 2.0]), passages([1.9, 2.6]), 1.0)
    assert [(one.at, other.at) for one, other in found.pairs] == [(1.0, 1.9), (2.0, 2.6)]


def test_line_and_direction_are_never_mixed() -> None:
    found = match_crossings(passages([1.0]), [*passages([1.0], "gate"), *passages([1.0], direction="out")], 1.0)
    assert (found.pairs, len(found.missed), len(found.surplus)) == ([], 1, 2)


def test_place_tells_two_people_of_one_second_apart() -> None:
    left, right = Passage(1.0, "door", "in", 0.2, 0.5), Passage(1.1, "door", "in", 0.9, 0.5)
    assert pair_crossings([left], [right], 1.0, max_distance=0.3).pairs == []
    assert pair_crossings(
        [left, right], [right._replace(at=1.0), left._replace(at=1.1)], 1.0, max_distance=0.3
    ).pairs == [
        (0, 1),
        (1, 0),
    ]
    assert pair_crossings([left], [Passage(1.0, "door", "in")], 1.0, max_distance=0.3).pairs == [(0, 0)], (
        "an unknown place is any place"
    )


def test_a_long_list_is_matched_in_its_stretches() -> None:
    moments = [index * 1.5 for index in range(3000)]
    found = match_crossings(passages(moments), passages([at + 0.3 for at in moments if at % 7]), 1.0)
    assert len(found.pairs) == sum(1 for at in moments if at % 7)
