"""Lines with bends: what a straight line promises holds for every shape, and the corner cases of a corner."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.settings.camera import Line
from tests.support.sequences import count, sample, totals

BEND = Line(id="bend", points=[[0.2, 0.2], [0.6, 0.5], [0.2, 0.8]])
"""A wedge that opens to the left; `in` is into it, since the walk from p1 has it on its right."""
STRAIGHT = Line(id="bend", points=[[0.5, 0.1], [0.5, 0.5], [0.5, 0.9]])

PATHS = {
    "through the tip": ([(0.7, 0.5), (0.65, 0.5), (0.55, 0.5), (0.5, 0.5)], (1, 0)),
    "out through the tip": ([(0.5, 0.5), (0.55, 0.5), (0.65, 0.5), (0.7, 0.5)], (0, 1)),
    "near the bend, over the upper piece": ([(0.62, 0.38), (0.6, 0.42), (0.5, 0.48), (0.45, 0.5)], (1, 0)),
    "near the bend, slowly through the band": (
        [(0.66, 0.5), (0.62, 0.5), (0.604, 0.5), (0.6, 0.5), (0.597, 0.5), (0.57, 0.5), (0.5, 0.5)],
        (1, 0),
    ),
    "along the band around the bend, and back": (
        [
            (0.62, 0.42),
            (0.6, 0.45),
            (0.601, 0.5),
            (0.6005, 0.5),
            (0.599, 0.505),
            (0.6, 0.55),
            (0.62, 0.58),
            (0.63, 0.6),
        ],
        (0, 0),
    ),
    "one step cuts the corner from outside to outside": ([(0.5, 0.3), (0.52, 0.32), (0.52, 0.68), (0.5, 0.7)], (0, 0)),
    "in over one piece, out over the other": (
        [(0.4, 0.2), (0.4, 0.25), (0.4, 0.45), (0.4, 0.55), (0.4, 0.75), (0.4, 0.8)],
        (1, 1),
    ),
    "in around the open end": ([(0.1, 0.1), (0.1, 0.2), (0.1, 0.4), (0.2, 0.5), (0.4, 0.5)], (0, 0)),
    "in around the end, out through the tip": (
        [(0.1, 0.1), (0.1, 0.3), (0.2, 0.5), (0.5, 0.5), (0.65, 0.5), (0.7, 0.5)],
        (0, 1),
    ),
    "close past the end": ([(0.21, 0.12), (0.19, 0.17), (0.17, 0.2), (0.17, 0.25), (0.2, 0.3)], (0, 0)),
    "flicker at the tip": ([(0.65, 0.5), (0.64, 0.5), (0.55, 0.5), (0.64, 0.5), (0.65, 0.5)], (0, 0)),
    "exactly over the tip's point": ([(0.7, 0.5), (0.6, 0.5), (0.5, 0.5), (0.45, 0.5)], (1, 0)),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("reverse", [False, True], ids=["as drawn", "drawn from the other end"])
def test_paths(name: str, reverse: bool) -> None:
    path, expected = PATHS[name]
    line = BEND if not reverse else Line(id="bend", points=BEND.points[::-1], in_side="negative")
    assert totals(count([[sample(1, *point, h=0.05)] for point in path], line)) == expected


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=2, max_size=60))
def test_a_bend_of_no_angle_changes_nothing(path: list[tuple[float, float]]) -> None:
    straight = Line(id="bend", p1=[0.5, 0.1], p2=[0.5, 0.9])
    frames = [[sample(1, *point)] for point in path]
    assert totals(count(frames, STRAIGHT)) == totals(count(frames, straight))


@st.composite
def shapes(draw: st.DrawFn) -> list[list[float]]:
    """A zigzag from top to bottom: its x is a function of y, which tells the sides apart without any of our code."""
    ys = sorted(draw(st.lists(st.integers(2, 18), min_size=2, max_size=7, unique=True)))
    return [[0.5 + draw(st.integers(-4, 4)) / 50, y / 20] for y in ys]


def x_of(shape: list[list[float]], y: float) -> float:
    for (ax, ay), (bx, by) in pairwise(shape):
        if ay <= y <= by:
            return ax + (bx - ax) * (y - ay) / (by - ay)
    raise ValueError(y)


@settings(max_examples=120, deadline=None)
@given(shapes(), st.data())
def test_counts_equal_the_changes_of_side(shape: list[list[float]], data: st.DataObject) -> None:
    line = Line(id="bend", points=shape, cooldown_s=0.0)
    y = st.floats(shape[0][1] + 0.004, shape[-1][1] - 0.004)
    path: list[tuple[float, float]] = []
    left, ways = data.draw(st.booleans()), []
    for number in range(data.draw(st.integers(1, 6))):
        if number:
            around = data.draw(st.booleans())
            left = not left
            if around:
                # Far out on one side, past an end, far out on the other: none of it is a crossing.
                beyond = data.draw(st.sampled_from([shape[0][1] - 0.1, shape[-1][1] + 0.1]))
                here, there = (0.95, 0.05) if left else (0.05, 0.95)
                path += [(here, beyond), (here, beyond), (there, beyond), (there, beyond)]
            else:
                ways.append(left)
        for _ in range(data.draw(st.integers(2, 4))):
            at = data.draw(y)
            away = data.draw(st.floats(0.05, 0.3))
            path.append((x_of(shape, at) + (-away if left else away), at))
    assert totals(count([[sample(1, *point, h=0.02)] for point in path], line)) == (
        ways.count(True),
        ways.count(False),
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no course"),
        ({"points": [[0.1, 0.1]]}, "one point"),
        ({"points": [[0.1, 0.1], [0.2, 0.2]], "p1": [0.3, 0.3]}, "beside other points"),
    ],
)
def test_a_line_without_a_clear_course_is_refused(fields: dict[str, object], why: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert({"id": "door", **fields}, Line)


def test_a_polyline_has_ends_and_survives_being_saved() -> None:
    line = msgspec.json.decode(b'{"id": "door", "points": [[0.1, 0.1], [0.5, 0.4], [0.9, 0.1]]}', type=Line)
    assert (line.p1, line.p2) == ([0.1, 0.1], [0.9, 0.1])
    assert msgspec.json.decode(msgspec.json.encode(line), type=Line) == line
