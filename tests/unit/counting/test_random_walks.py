"""Random walks whose crossings are known because they were built from them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.counting.samples import Sample
from crowdperf.counting.zones import ZoneCounter
from crowdperf.settings.camera import Line, Zone
from tests.support.sequences import count, moment, sample, totals

FREE = Line(id="door", p1=[0.5, 0.1], p2=[0.5, 0.9], cooldown_s=0.0)
Y = st.floats(0.25, 0.75)


@st.composite
def stays(draw: st.DrawFn) -> tuple[list[tuple[float, float]], int, int]:
    """A path that stays on one side, passes the band, stays on the other, ...; with its counts (in, out)."""
    path: list[tuple[float, float]] = []
    left = draw(st.booleans())
    ways = []
    for number in range(draw(st.integers(1, 8))):
        if number:
            left = not left
            ways.append(left)
            path += [(0.5 + draw(st.floats(-0.004, 0.004)), draw(Y)) for _ in range(draw(st.integers(0, 3)))]
        length = draw(st.integers(2, 6))
        far = [draw(st.floats(0.02, 0.4)) for _ in range(length)]
        path += [(0.5 - x if left else 0.5 + x, draw(Y)) for x in far]
        if length >= 4 and draw(st.booleans()):
            # One sample on the other side: a flicker, which must not count.
            flicker = len(path) - 2
            path[flicker] = (1 - path[flicker][0], path[flicker][1])
    return path, ways.count(True), ways.count(False)


@settings(max_examples=300, deadline=None)
@given(st.lists(stays(), min_size=1, max_size=4))
def test_counts_equal_what_the_paths_were_built_from(walks: list[tuple[list[tuple[float, float]], int, int]]) -> None:
    length = max(len(path) for path, _, _ in walks)
    frames: list[list[Sample]] = [
        [sample(track, *path[n]) for track, (path, _, _) in enumerate(walks, 1) if n < len(path)] for n in range(length)
    ]
    # All tracks are there from the first frame on, so that none is taken for the continuation of another.
    events = count(frames, FREE)
    assert totals(events) == (sum(row[1] for row in walks), sum(row[2] for row in walks))
    assert len({event.id for event in events}) == len(events)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.91, 1.0)), min_size=2, max_size=60))
def test_nothing_counts_beyond_the_end_of_the_segment(path: list[tuple[float, float]]) -> None:
    assert count([[sample(1, *point)] for point in path], FREE) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=80), st.booleans())
def test_in_and_out_alternate_for_every_path(xs: list[float], positive: bool) -> None:
    line = Line(id="door", p1=FREE.p1, p2=FREE.p2, cooldown_s=0.0, in_side="positive" if positive else "negative")
    ways = [event.direction for event in count([[sample(1, x)] for x in xs], line)]
    assert all(before != after for before, after in pairwise(ways))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(4, 9)), min_size=1, max_size=10), st.integers(0, 2))
def test_occupancy_ignores_visits_shorter_than_settling(parts: list[tuple[bool, int]], flicker: int) -> None:
    zone = ZoneCounter(
        "lobby", Zone(id="hall", polygon=[[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]], settle_s=0.3), 1.5
    )
    zone.set_aspect(1.0)
    number, occupancy = 0, 0
    for inside, length in parts:
        for _ in range(flicker):
            zone.update(moment(number), [sample(1, 0.9 if inside else 0.5)], [])
            number += 1
        for _ in range(length):
            for event in zone.update(moment(number), [sample(1, 0.5 if inside else 0.9)], []):
                occupancy += 1 if event.change == "in" else -1
                assert event.occupancy == occupancy == zone.occupancy
            number += 1
        assert zone.occupancy == int(inside)
    zone.update(moment(number), [], [1])
    assert zone.occupancy == 0
