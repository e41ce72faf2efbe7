"""Counts on real clips with truth: one configuration, the default one, for all of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from crowdperf.evaluation.camera_setup import make_setup
from crowdperf.evaluation.ground_truth import read_truth
from crowdperf.evaluation.replay import count_crossings
from crowdperf.evaluation.score import judge_line
from crowdperf.messaging.schema import Direction, Event, FrameDetections, LineCrossed, ZoneChanged
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.config import parse
from crowdperf.settings.engine import Inference
from crowdperf.settings.environment import Environment, Paths
from tests.support.matching import Matching, Passage, match_crossings
from tests.support.replay import EPOCH_S, Clip, detections, replay

VEHICLES = ["bicycle", "car", "motorcycle", "bus", "truck"]
WAYS: dict[str, Direction] = {"neg_to_pos": "in", "pos_to_neg": "out"}


@pytest.fixture(scope="session")
def detector(model_cache: Path) -> Detector:
    return load_detector(Inference(), model_cache)


def line(line_id: str, p1: list[int], p2: list[int], size: tuple[int, int], **settings: object) -> Line:
    """A line given in pixels."""
    ends = [[x / size[0], y / size[1]] for x, y in (p1, p2)]
    return Line(id=line_id.lower(), p1=ends[0], p2=ends[1], **settings)  # type: ignore[arg-type]


def ways(events: list[Event]) -> tuple[int, int]:
    found = Counter(event.direction for event in events if isinstance(event, LineCrossed))
    return found["in"], found["out"]


def matched(clip: Clip, truth: Path, events: list[Event], within_frames: int = 15) -> Matching:
    """The counted crossings beside those of a truth file."""
    true = [
        Passage(event["frame"] / clip.fps, row["name"].lower(), WAYS[event["dir"]])
        for row in json.loads(truth.read_text())["lines"]
        for event in row["events"]
    ]
    counted = [Passage(e.ts - EPOCH_S, e.line, e.direction) for e in events if isinstance(e, LineCrossed)]
    return match_crossings(true, counted, (within_frames + 0.5) / clip.fps)


def truth_lines(truth: Path, size: tuple[int, int], anchor: str) -> tuple[Line, ...]:
    rows = json.loads(truth.read_text())["lines"]
    return tuple(line(row["name"], row["p1"], row["p2"], size, anchor=anchor, classes=["person"]) for row in rows)


@pytest.fixture(scope="session")
def one_by_one(clips: Path, detector: Detector) -> tuple[Clip, list[FrameDetections]]:
    # Five frames a second are analysed, and the end-to-end test plays the whole of it.
    clip = Clip(clips / "intel_one_by_one.mp4", 768, 432, 10.0, 2)
    return clip, detections(clip, detector)


@pytest.mark.clips
def test_one_by_one(one_by_one: tuple[Clip, list[FrameDetections]]) -> None:
    clip, frames = one_by_one
    exit_ = line("exit", [560, 0], [560, 431], (768, 432))
    table = Zone(id="table", polygon=[[370 / 768, 40 / 432], [560 / 768, 40 / 432], [560 / 768, 1.0], [370 / 768, 1.0]])
    events, pipeline = replay(clip, frames, (exit_,), (table,))
    assert ways(events) == (0, 6)
    assert pipeline.get_occupancy() == {"table": 0}
    assert max(event.occupancy for event in events if isinstance(event, ZoneChanged)) == 1


@pytest.mark.clips
def test_audit_of_one_by_one(clips: Path, one_by_one: tuple[Clip, list[FrameDetections]], tmp_path: Path) -> None:
    visits = json.loads((clips / "hand_counts.json").read_text())["intel_one_by_one.mp4"]["visits_first_last_visible"]
    path = tmp_path / "truth.csv"
    # Each of them leaves at the right edge, over the line; and one who was never there.
    rows = [*(f"{last},exit,out" for _, last in visits), "30,exit,in"]
    path.write_text("\n".join(["picture,line,direction", *rows]))
    clip, frames = one_by_one
    exit_ = {"id": "exit", "p1": [560 / 768, 0], "p2": [560 / 768, 1]}
    config = parse(json.dumps({"cameras": [{"id": "hall", "url": "a.mp4", "lines": [exit_]}]}).encode())
    setup = make_setup(config, Environment(), config.cameras[0], "a.json", Paths(tmp_path), tmp_path)
    outcome = count_crossings(frames, setup)
    footage = clip.to_product_clip()
    truth = read_truth(path, footage).get_crossings([number / footage.fps for number in range(1394)])
    (line,) = setup.tracked.lines
    verdict = judge_line(line, outcome, truth, 3.0)
    out, into = verdict.directions["out"], verdict.directions["in"]
    assert (out.true, out.counted, out.matched) == (6, 6, 6)
    assert (into.true, into.counted, into.matched) == (1, 0, 0)
    assert all(one.box is not None for one in outcome.crossings), "the report can draw each of them"


@pytest.mark.clips
@pytest.mark.parametrize("every", [2, 3])
def test_highway(clips: Path, detector: Detector, every: int) -> None:
    clip = Clip(clips / "highway_canersu.mp4", 1280, 720, 29.97, every)
    road = line("road", [0, 420], [1000, 420], (1280, 720), classes=VEHICLES)
    events, _ = replay(clip, detections(clip, detector), (road,))
    towards, away = ways(events)
    assert 22 <= towards <= 25
    assert away == 0


@pytest.fixture(scope="session")
def vtest_frames(clips: Path, detector: Detector) -> tuple[Clip, list[FrameDetections]]:
    clip = Clip(clips / "vtest.avi", 768, 576, 7.0)
    return clip, detections(clip, detector)


@pytest.mark.clips
def test_vtest(clips: Path, vtest_frames: tuple[Clip, list[FrameDetections]]) -> None:
    clip, frames = vtest_frames
    truth = clips / "gt" / "vtest.json"
    events, _ = replay(clip, frames, truth_lines(truth, (768, 576), "bottom_centre"))
    counted = Counter((e.line, e.direction) for e in events if isinstance(e, LineCrossed))
    for row in json.loads(truth.read_text())["lines"]:
        for name, direction in WAYS.items():
            assert abs(counted[row["name"].lower(), direction] - row[name]) <= 3, (row["name"], direction)
    found = matched(clip, truth, events)
    assert found.recall >= 0.9, found.missed
    assert found.precision >= 0.9, found.surplus


@pytest.mark.clips
@pytest.mark.parametrize(
    ("every", "dropped"), [(1, 0.3), (2, 0.0), (3, 0.0), (3, 0.2), (6, 0.0)], ids=lambda value: f"{value:g}"
)
def test_vtest_with_fewer_frames(
    clips: Path, vtest_frames: tuple[Clip, list[FrameDetections]], every: int, dropped: float
) -> None:
    """3.5, 2.3 and 1.2 frames a second, and frames that are missing at random."""
    clip, frames = vtest_frames
    chance = random.Random(1)
    kept = [frame for frame in frames[::every] if chance.random() >= dropped]
    thinned = msgspec.structs.replace(clip, every=every)
    truth = clips / "gt" / "vtest.json"
    events, _ = replay(thinned, kept, truth_lines(truth, (768, 576), "bottom_centre"))
    found = matched(clip, truth, events)
    assert found.recall >= 0.85, found.missed
    assert found.precision >= 0.85, found.surplus


WHOLE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
STANDING = {
    "intel_classroom.mp4": (15.0, 4),
    "intel_face_three.mp4": (12.0, 3),
    "intel_store_aisle.mp4": (15.0, 3),
}
"""Frames a second, and the people of the whole picture: seated, cut by its lower edge, half hidden by shelves."""


@pytest.mark.clips
@pytest.mark.parametrize("name", STANDING)
def test_occupancy_of_people_who_stay(clips: Path, detector: Detector, name: str) -> None:
    fps, people = STANDING[name]
    clip = Clip(clips / name, 480, 270, fps)
    zone = Zone(id="room", polygon=WHOLE)
    events, _ = replay(clip, detections(clip, detector), (), (zone,))
    assert max(event.occupancy for event in events if isinstance(event, ZoneChanged)) == people
    entered = [event for event in events if isinstance(event, ZoneChanged) and event.change == "in"]
    assert len(entered) == people, "nobody is taken for two"


@pytest.mark.clips
def test_vtest_with_lines_the_other_way_round(clips: Path, vtest_frames: tuple[Clip, list[FrameDetections]]) -> None:
    clip, frames = vtest_frames
    lines = truth_lines(clips / "gt" / "vtest.json", (768, 576), "bottom_centre")
    flipped = tuple(Line(id=row.id, p1=row.p2, p2=row.p1, classes=row.classes) for row in lines)
    first, second = (ways(replay(clip, frames, both)[0]) for both in (lines, flipped))
    assert first == second[::-1]


@pytest.mark.clips
def test_towncentre(clips: Path, detector: Detector) -> None:
    clip = Clip(clips / "towncentre_a.mp4", 1920, 1080, 30.0, 3, 1280)
    truth = clips / "gt" / "towncentre_a.json"
    events, _ = replay(clip, detections(clip, detector), truth_lines(truth, (1920, 1080), "centre"))
    found = matched(clip, truth, events)
    assert found.recall >= 0.8, found.missed
    assert found.precision >= 0.8, found.surplus


@pytest.mark.clips
def test_worker_walks_into_the_zone(clips: Path, detector: Detector) -> None:
    clip = Clip(clips / "intel_worker_zone.mp4", 480, 270, 15.0)
    truth = json.loads((clips / "hand_counts.json").read_text())["intel_worker_zone.mp4"]["zone"]
    zone = Zone(id="tape", polygon=[[x / 480, y / 270] for x, y in truth["polygon"]])
    events, pipeline = replay(clip, detections(clip, detector), (), (zone,))
    (entered,) = [event for event in events if isinstance(event, ZoneChanged)]
    assert entered.change == "in"
    # Truth: the foot is inside from frame 33 to 38 on; the zone then settles for 0.3 s.
    assert 33 <= entered.sequence - 1 <= 38 + 5 + 2
    assert pipeline.get_occupancy() == {"tape": 1}
