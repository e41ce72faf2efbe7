"""Scripts, truth and pictures of the demo: reproducible, countable, and in step with each other and config.json."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowdperf.demo import ground_truth, outlines, scenes
from crowdperf.demo.ground_truth import SceneTruth
from crowdperf.demo.outlines import FPS, HEIGHT, MARGIN, WIDTH, compute_distance
from crowdperf.demo.scenes import DEFAULT_SEED, SCENES, Scene
from crowdperf.demo.script import Actor, Cast, CastingRules, Waypoint, build_track, find_crossings
from crowdperf.demo.stage import BarcodeStamp, Stage
from crowdperf.geometry import Segment, signed_distance
from crowdperf.settings.camera import Line
from crowdperf.settings.config import load
from tests.conftest import missing
from tests.support.barcode import decode_stamp

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module", params=list(SCENES))
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if importlib.util.find_spec("ultralytics") is None:
        missing("the ultralytics package, whose pictures the demo is cut from")
    cv2.setNumThreads(1)
    yield Stage(SCENES[request.param], DEFAULT_SEED)
    cv2.setNumThreads(-1)


@pytest.fixture(scope="module")
def truth(stage: Stage) -> SceneTruth:
    return ground_truth.compute_truth(stage, DEFAULT_SEED)


def person(*way: Waypoint, start_s: float = 0.0, number: int = 1) -> Actor:
    return Actor(number, "person", 0, 1.0, start_s, 1.4, way)


def test_a_walker_keeps_pace_and_pauses() -> None:
    script = build_track(person(Waypoint(100, 400), Waypoint(500, 400, 2.0), Waypoint(500, 480)), 600)
    steps = np.diff(script.walked)
    assert steps.max() <= 1.4 / FPS + 1e-9
    still = np.flatnonzero(steps < 1e-9)
    assert len(still) in (19, 20, 21)
    assert np.allclose(script.ground[still[5]], (500, 400), atol=0.5)
    length = compute_distance((100, 400), (500, 400))
    assert script.walked[still[5]] == pytest.approx(length, rel=0.01)
    assert not script.left[: still[0]].any()


def test_a_moment_has_the_direction_of_the_design() -> None:
    line = Line(id="gate", p1=[0.5, 0.1], p2=[0.5, 0.98])
    rightwards = build_track(person(Waypoint(300, 400), Waypoint(700, 400)), 600)
    leftwards = build_track(person(Waypoint(700, 400), Waypoint(300, 400)), 600)
    # Walking p1 -> p2 is down the picture: its right hand, the positive side, is the picture's left.
    assert [moment.inwards for moment in find_crossings(rightwards, [line])] == [False]
    assert [moment.inwards for moment in find_crossings(leftwards, [line])] == [True]
    beside = build_track(person(Waypoint(300, 30 + HEIGHT), Waypoint(700, 30 + HEIGHT)), 600)
    assert find_crossings(beside, [line]) == []


def test_only_nearer_people_cover() -> None:
    rear = build_track(person(Waypoint(400, 380, 9), number=1), 60)
    front = build_track(person(Waypoint(400, 420, 9), number=2), 60)
    assert rear.compute_covered_share(0, [front]) > 0.6
    assert front.compute_covered_share(0, [rear]) == 0.0


def test_the_cast_refuses_whom_nobody_could_count() -> None:
    line = Line(id="gate", p1=[0.5, 0.98], p2=[0.5, 0.4])
    cast = Cast([line], 600, CastingRules(min_visible_s=1.0, max_covered_share=0.1, min_gap_s=1.0, min_gap_px=100))
    assert cast.try_add(person(Waypoint(100, 400), Waypoint(900, 400)))
    assert not cast.try_add(person(Waypoint(100, 430), Waypoint(900, 430), number=2)), "hides the first at the line"
    assert cast.try_add(person(Waypoint(100, 430), Waypoint(900, 430), start_s=5, number=3))
    assert len(cast.tracks) == 2


def test_a_seed_decides_everything(stage: Stage, truth: SceneTruth) -> None:
    again = Stage(stage.scene, DEFAULT_SEED)
    assert ground_truth.encode_truth(ground_truth.compute_truth(again, DEFAULT_SEED)) == ground_truth.encode_truth(
        truth
    )
    for frame in (0, 333):
        first, second = (hashlib.sha256(one.render_frame(frame)).hexdigest() for one in (stage, again))
        assert first == second
    other = stage.scene.make_cast(stage.scene, DEFAULT_SEED + 1)
    assert [one.actor for one in other] != [one.actor for one in stage.tracks]


def test_the_truth_is_that_of_the_script(stage: Stage, truth: SceneTruth) -> None:
    scripted = Counter(
        (one.actor.id, moment.line, "in" if moment.inwards else "out")
        for one in stage.tracks
        for moment in find_crossings(one, stage.scene.lines)
    )
    assert Counter((one.object, one.line, one.direction) for one in truth.crossings) == scripted
    assert [one.frame for one in truth.crossings] == sorted(one.frame for one in truth.crossings)
    assert all(one.time_s == one.frame / FPS for one in truth.crossings)
    seen = {(one.line, one.direction) for one in truth.crossings}
    assert seen == {(line.id, way) for line in stage.scene.lines for way in ("in", "out")}


def test_nobody_hesitates_on_a_line(truth: SceneTruth) -> None:
    last: dict[tuple[int, str], int] = {}
    for one in truth.crossings:
        before = last.get((one.object, one.line))
        assert before is None or one.frame - before > 2 * FPS, one
        last[one.object, one.line] = one.frame


def test_everybody_is_seen_well_beyond_both_sides(stage: Stage, truth: SceneTruth) -> None:
    places = ground_truth.find_anchors(stage)
    lines = {line.id: line for line in stage.scene.lines}
    for one in truth.crossings:
        p1, p2 = lines[one.line].get_vertices()
        aspect = WIDTH / HEIGHT
        segment = Segment(p1._replace(x=p1.x * aspect), p2._replace(x=p2.x * aspect))
        way = [
            signed_distance(segment, at[one.object]._replace(x=at[one.object].x * aspect))
            for at in places[max(0, one.frame - 40) : one.frame + 40]
            if one.object in at
        ]
        assert min(way) < -0.08, one
        assert max(way) > 0.08, one


def test_occupancy_agrees_with_the_crossings_of_a_closed_zone(stage: Stage, truth: SceneTruth) -> None:
    for counts in truth.occupancy.values():
        assert len(counts) == stage.scene.seconds
        assert max(counts) > counts[0]
        assert counts[0] == counts[-1], "the clip loops"


def test_density_is_what_the_scene_promises(stage: Stage) -> None:
    people = [
        sum(one.track.actor.kind == "person" for one in stage.place_actors(frame))
        for frame in range(0, stage.scene.frames, FPS)
    ]
    busy = people[12:-12]
    if stage.scene is scenes.SPARSE:
        assert min(busy) >= 1
        assert max(people) <= 4
    else:
        assert min(busy) >= 8
        assert 18 <= max(people) <= 25


def test_the_clip_can_be_looped(stage: Stage) -> None:
    first, last = stage.render_frame(0), stage.render_frame(stage.scene.frames - 1)
    assert np.array_equal(first[: HEIGHT - MARGIN], last[: HEIGHT - MARGIN])


def test_frames_carry_their_number(stage: Stage) -> None:
    for frame in (0, 1, stage.scene.frames - 1):
        plane = cv2.cvtColor(stage.render_frame(frame), cv2.COLOR_BGR2YUV_I420)[:HEIGHT]
        assert decode_stamp(plane) == BarcodeStamp(stage.scene.number, frame)


def test_the_extent_is_where_the_pixels_are(stage: Stage) -> None:
    """The truth's anchor against the drawn picture: the lowest changed row that no shadow explains."""
    frame = 200
    alone = stage.place_actors(frame)[-1]
    assert alone.box is not None
    picture = stage.backdrop.copy()
    x, y = alone.x, alone.y
    height, width = alone.sprite.alpha.shape
    solid = np.zeros(picture.shape[:2], np.bool_)
    x0, x1 = max(x, 0), min(x + width, WIDTH)
    solid[y : y + height, x0:x1] = (alone.sprite.alpha >= 128)[:, x0 - x : x1 - x][: HEIGHT - y]
    rows = np.flatnonzero(solid[: HEIGHT - MARGIN].any(axis=1))
    assert alone.box.y2 == rows[-1] + 1
    assert alone.box.y1 == rows[0]
    assert round(alone.track.ground[frame - alone.track.first, 1]) == alone.box.y2


@pytest.mark.parametrize(("camera", "name"), [("plaza", "demo_sparse"), ("gate", "demo_dense")])
def test_config_json_has_the_lines_and_zones_of_the_truth(camera: str, name: str) -> None:
    found = load(ROOT / "config.json").get_camera(camera)
    assert tuple(found.lines) == SCENES[name].lines
    assert tuple(found.zones) == SCENES[name].zones
    assert found.url == f"var/demo/{name}.mp4"
    assert found.loop


def test_truth_survives_its_file(truth: SceneTruth) -> None:
    assert ground_truth.decode_truth(ground_truth.encode_truth(truth)) == truth
    assert b'"class": "person"' in ground_truth.encode_truth(truth)


def test_a_missing_package_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(outlines.DemoError, match=r"ultralytics.*Remedy: pip install"):
        outlines.find_assets_folder()


def test_another_picture_is_one_clear_error() -> None:
    with pytest.raises(outlines.DemoError, match=r"bus\.jpg with 10x10 pixels, but it is 810x1080\. Remedy"):
        outlines.read_asset("bus.jpg", (10, 10))


def test_everybody_leaves_before_the_end() -> None:
    scene: Scene = SCENES["demo_sparse"]
    way = (Waypoint(-60, 400), Waypoint(WIDTH + 60, 400))
    late = person(*way, start_s=scene.seconds - 3.0)
    early = person(*way, start_s=3.0)
    assert not scenes.leaves_before_end(late, scene)
    assert scenes.leaves_before_end(early, scene)
