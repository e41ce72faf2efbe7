"""Where regions lie on canvases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crowdperf.inference.regions.packing import GAP, GRID, pack

WIDTH, HEIGHT = 640, 384
sizes = st.lists(st.tuples(st.integers(1, WIDTH), st.integers(1, HEIGHT)), max_size=40)


@given(sizes)
def test_no_region_meets_another_or_leaves_its_canvas(regions: list[tuple[int, int]]) -> None:
    placed = pack(regions, WIDTH, HEIGHT)
    assert len(placed) == len(regions)
    rects = [(p.canvas, p.left, p.top, p.left + w, p.top + h) for p, (w, h) in zip(placed, regions, strict=True)]
    for number, (canvas, left, top, right, bottom) in enumerate(rects):
        assert left % GRID == top % GRID == 0
        assert right <= WIDTH
        assert bottom <= HEIGHT
        for other in rects[number + 1 :]:
            apart = (
                other[0] != canvas
                or other[1] >= right + GAP
                or other[3] + GAP <= left
                or other[2] >= bottom + GAP
                or other[4] + GAP <= top
            )
            assert apart, (rects[number], other)


@given(sizes)
def test_canvases_are_numbered_without_a_gap(regions: list[tuple[int, int]]) -> None:
    numbers = {place.canvas for place in pack(regions, WIDTH, HEIGHT)}
    assert numbers == set(range(len(numbers)))


def test_small_regions_share_a_canvas() -> None:
    assert {place.canvas for place in pack([(150, 120)] * 12, WIDTH, HEIGHT)} == {0}


def test_the_order_of_the_regions_is_kept() -> None:
    first, second = pack([(10, 10), (20, 200)], WIDTH, HEIGHT)
    assert (second.left, second.top) == (0, 0), "the largest is placed first"
    assert (first.left, first.top) != (0, 0)
