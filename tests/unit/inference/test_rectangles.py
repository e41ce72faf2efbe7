"""Rectangles that grow together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowdperf.inference.regions.rectangles import Rectangle, contains, cover_touched, merge_overlapping

rectangles = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 20), st.integers(1, 20)).map(
        lambda row: (row[0], row[1], row[0] + row[2], row[1] + row[3])
    ),
    max_size=12,
)


def meet(first: Rectangle, second: Rectangle) -> bool:
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]


@given(rectangles)
def test_merged_rectangles_are_apart_and_cover_all(given_: list[Rectangle]) -> None:
    merged = merge_overlapping(given_)
    assert all(any(contains(outer, one) for outer in merged) for one in given_)
    assert not any(meet(first, second) for n, first in enumerate(merged) for second in merged[n + 1 :])


@given(rectangles, rectangles)
def test_touched_boxes_are_covered_with_their_margin(given_: list[Rectangle], boxes: list[Rectangle]) -> None:
    covers = [(x1 - 2, y1 - 2, x2 + 2, y2 + 2) for x1, y1, x2, y2 in boxes]
    merged = cover_touched(given_, boxes, covers)
    for box, cover in zip(boxes, covers, strict=True):
        assert any(contains(one, cover) for one in merged) or not any(meet(one, box) for one in merged)
    assert not any(meet(first, second) for n, first in enumerate(merged) for second in merged[n + 1 :])


def test_one_that_touches_nothing_is_left_alone() -> None:
    assert cover_touched([(0, 0, 10, 10)], [(20, 20, 30, 30)], [(18, 18, 32, 32)]) == [(0, 0, 10, 10)]
    assert cover_touched([], [(20, 20, 30, 30)], [(18, 18, 32, 32)]) == []


def test_a_chain_becomes_one() -> None:
    assert merge_overlapping([(0, 0, 4, 4), (8, 0, 12, 4), (4, 0, 8, 4)]) == [(0, 0, 12, 4)]


def test_a_rectangle_contains_itself_and_smaller_ones_only() -> None:
    assert contains((0, 0, 4, 4), (0, 0, 4, 4))
    assert contains((0, 0, 4, 4), (1, 1, 2, 4))
    assert not contains((0, 0, 4, 4), (1, 1, 2, 5))
