"""Two configurations on one clip: which crossings differ."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.evaluation.camera_setup import CameraSetup, make_setup
from crowdperf.evaluation.clip import CLIP_START_S, Clip, build_frame_filter
from crowdperf.evaluation.comparison import Comparison, compare_outcomes, find_changed_settings, make_names_distinct
from crowdperf.evaluation.replay import CountedCrossing, NormalizedBox, ReplayOutcome, ReplayResult
from crowdperf.evaluation.thumbnails import compute_arrow
from crowdperf.geometry import Point, cross
from crowdperf.messaging.schema import Direction, LineCrossed
from crowdperf.settings.camera import Line
from crowdperf.settings.config import parse
from crowdperf.settings.environment import Environment, Paths

LINE = {"id": "door", "p1": [0.5, 0.1], "p2": [0.5, 0.9]}


def setup(name: str = "a.json", line: dict | None = None, **camera: object) -> CameraSetup:
    config = parse(
        msgspec.json.encode({"cameras": [{"id": "hall", "url": "a.mp4", "lines": [line or LINE], **camera}]})
    )
    return make_setup(config, Environment(), config.cameras[0], name, Paths(Path("var")), Path())


def crossing(
    at_s: float, direction: Direction = "in", class_name: str = "person", box: NormalizedBox | None = None
) -> CountedCrossing:
    number = round(at_s * 10)
    event = LineCrossed(
        id=f"hall:1:{number + 1}:door:{direction}:0",
        camera="hall",
        ts=CLIP_START_S + at_s,
        line="door",
        direction=direction,
        class_name=class_name,
        track=1,
        epoch=1,
        sequence=number + 1,
    )
    return CountedCrossing(event, at_s, number, box)


PLAIN = setup()


def outcome(*crossings: CountedCrossing, by: CameraSetup | None = None) -> ReplayOutcome:
    return ReplayOutcome(by or PLAIN, [one.event for one in crossings], list(crossings), {}, 0, "")


def compare(first: ReplayOutcome, second: ReplayOutcome, aspect: float = 1.0) -> Comparison:
    clip = Clip(Path("a.mp4"), round(100 * aspect), 100, 10.0)
    return compare_outcomes(ReplayResult(clip, [], [first, second], 0.0))


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_what_is_in_one_list_alone_differs(first: set[int], second: set[int]) -> None:
    # Moments three seconds apart: nothing to mistake for something else.
    found = compare(*(outcome(*(crossing(3.0 * at) for at in sorted(those))) for those in (first, second)))
    assert found.same_count == len(first & second)
    assert {(round(one.crossing.at_s / 3), one.outcome_index) for one in found.differences} == {
        *((at, 0) for at in first - second),
        *((at, 1) for at in second - first),
    }


def test_an_outcome_does_not_differ_from_itself() -> None:
    one = outcome(crossing(1.0), crossing(1.2), crossing(1.4, "out"), crossing(60.0, class_name="car"))
    assert compare(one, one) == (4, [])


def test_the_same_object_counted_another_way_is_one_difference() -> None:
    found = compare(outcome(crossing(1.0, "in")), outcome(crossing(1.3, "out")))
    (one,) = found.differences
    assert (one.kind, one.crossing.event.direction, one.other and one.other.event.direction) == (
        "direction",
        "in",
        "out",
    )


def test_the_same_object_of_another_class_is_one_difference() -> None:
    found = compare(outcome(crossing(1.0)), outcome(crossing(1.0, class_name="bicycle")))
    assert [one.kind for one in found.differences] == ["class"]
    assert found.same_count == 0


def test_two_people_far_apart_in_one_second_are_two() -> None:
    left, right = (0.1, 0.2, 0.2, 0.8), (0.8, 0.2, 0.9, 0.8)
    found = compare(outcome(crossing(1.0, box=left)), outcome(crossing(1.0, box=right)), 1.5)
    assert [(one.kind, one.outcome_index) for one in found.differences] == [("only", 0), ("only", 1)]


def test_changed_settings_name_path_and_values() -> None:
    other = setup("b.json", {**LINE, "cooldown_s": 3.0, "name": "Door"}, target_fps=5.0)
    found = {path: values for path, *values in find_changed_settings(outcome(), outcome(by=other))}
    assert found == {
        "target_fps": [10.0, 5.0],
        "lines.door.cooldown_s": [1.0, 3.0],
        "lines.door.name": ["", "Door"],
    }


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("in_side", ["positive", "negative"])
@pytest.mark.parametrize("ends", [([0.5, 0.1], [0.5, 0.9]), ([0.9, 0.8], [0.1, 0.3]), ([0.2, 0.2], [0.8, 0.2])])
def test_the_arrow_points_where_the_crossing_went(ends: tuple, in_side: str, direction: str) -> None:
    line = msgspec.convert({"id": "door", "p1": ends[0], "p2": ends[1], "in_side": in_side}, Line)
    tail, tip = compute_arrow(line, direction, np.array([640, 360]))
    first, second = (Point(x * 640, y * 360) for x, y in line.get_vertices())
    inside = (cross(first, second, Point(*tip)) > 0) == (in_side == "positive")
    assert inside == (direction == "in")
    assert (cross(first, second, Point(*tail)) > 0) != (cross(first, second, Point(*tip)) > 0)


def test_two_configurations_of_one_name_are_told_apart() -> None:
    assert make_names_distinct(["config.json", "config.json"]) == ["config.json (A)", "config.json (B)"]
    assert make_names_distinct(["a.json", "b.json"]) == ["a.json", "b.json"]


def test_frames_are_picked_by_the_clip_s_own_clock() -> None:
    skipping = build_frame_filter(10.0, 2)
    assert [sequence for sequence in range(1, 10) if skipping(sequence, sequence / 10)] == [3, 6, 9]
    pacing = build_frame_filter(10.0, 0)
    picked = [sequence for sequence in range(1, 301) if pacing(sequence, sequence / 30)]
    # A burst at the start, as after any pause, then one of three.
    assert 100 <= len(picked) <= 106
    assert {b - a for a, b in itertools.pairwise(picked[20:])} <= {2, 3}
