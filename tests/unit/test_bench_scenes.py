"""What the cameras of a bench play, how the counts of a stretch of it are judged, and how others are paced."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import quiet
from bench.__main__ import choose, show
from bench.harness import Counts, Row, compared
from bench.line_peers import name_direction
from bench.mixed import FORTY_BUSY, FORTY_QUIET, Footage, compose
from bench.pipeline import peers
from bench.pipeline.peers import Pace, join, make_capture
from bench.site import Load
from bench.tally import WITHIN, repeat, tally, total
from crowdperf.demo.outlines import FPS
from crowdperf.demo.scenes import Scene
from crowdperf.evaluation.matching import Passage
from crowdperf.geometry import Point, cross
from crowdperf.settings.camera import Line

FRAMES = 100
TRUTH = [Passage(1.0, "gate", "in"), Passage(5.0, "gate", "out")]


def clip(name: str) -> Footage:
    return Footage(name, Path(name), 640, 360, FRAMES, (), (), [])


BUSY = [clip(f"busy-{number}") for number in range(6)]
EMPTY = [clip(f"empty-{number}") for number in range(4)]


def count_busy(clips: list[Footage]) -> int:
    return sum(one in BUSY for one in clips)


@pytest.mark.parametrize("cameras", range(1, 30))
def test_any_number_of_mixed_cameras_is_half_busy(cameras: int) -> None:
    mixed = compose(BUSY, EMPTY, 1)
    played = [mixed[index % len(mixed)] for index in range(cameras)]
    assert count_busy(played) == (cameras + 1) // 2, "the odd camera is a busy one"
    assert {one.name for one in mixed} == {one.name for one in (*BUSY, *EMPTY)}


def test_four_of_forty_cameras_are_busy() -> None:
    played = compose(BUSY[:FORTY_BUSY], EMPTY, FORTY_QUIET)
    assert (len(played), count_busy(played)) == (40, 4)


def test_the_truth_of_a_clip_repeats_with_it() -> None:
    assert repeat(TRUTH, FRAMES, 0, FRAMES) == TRUTH
    assert [one.at for one in repeat(TRUTH, FRAMES, 20, 250)] == [5.0, 11.0, 15.0, 21.0]
    assert repeat(TRUTH, FRAMES, 11, 50) == []


def test_counts_are_judged_by_line_direction_and_time() -> None:
    late = TRUTH[1]._replace(at=5.0 + WITHIN / FPS + 0.1)
    wrong_way = TRUTH[0]._replace(direction="out")
    assert tally(TRUTH, TRUTH, FRAMES, 0, FRAMES) == Counts(counted=2, true=2, matched=2)
    assert tally(TRUTH, [wrong_way, late], FRAMES, 0, FRAMES) == Counts(counted=2, true=2, matched=0)
    assert tally(TRUTH, [], FRAMES, 0, FRAMES).error == 1.0


@pytest.mark.parametrize("cut", range(5, 300, 7))
def test_a_crossing_at_the_end_of_a_stretch_is_judged_once(cut: int) -> None:
    counted = [one._replace(at=one.at + 0.7) for one in repeat(TRUTH, FRAMES, 0, 300)]
    whole = tally(TRUTH, counted, FRAMES, 0, 300)
    parts = [tally(TRUTH, counted, FRAMES, *ends) for ends in ((0, cut), (cut, 300))]
    assert whole == total(parts) == Counts(counted=6, true=6, matched=6)


def test_the_error_counts_what_was_missed_and_what_is_surplus() -> None:
    assert Counts(counted=11, true=10, matched=9).error == pytest.approx(0.3)
    assert Counts(counted=1, true=0, matched=0).error == 1.0


def test_a_row_shows_the_counts_of_its_run() -> None:
    row = compared("a", [(30.0, 10.0)], "the build before", counts=Counts(counted=9, true=8, matched=7))
    assert row.ratio == 3.0
    assert "3.000 x the build before" in show(row)
    assert "counted 9 of 8, 7 matched" in show(row)
    assert "counted" not in show(Row(name="a", value=1.0, unit="ms"))


def test_each_bench_takes_its_own_options_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = argparse.Namespace(name="pipeline/cameras", kills=None, scenes="mixed", before=None)
    monkeypatch.setenv("CROWDPERF_BENCH_BEFORE", "/old")
    assert choose(given, ["short", "scenes", "before"]) == {"scenes": "mixed", "before": Path("/old")}
    assert choose(given, ["short", "scenes"]) == {"scenes": "mixed"}
    given.before = Path("/other")
    assert choose(given, ["short", "scenes", "before"])["before"] == Path("/other")
    with pytest.raises(ValueError, match="--before /other: pipeline/cameras takes none"):
        choose(given, ["short", "scenes"])
    given.before, given.kills = None, 0
    with pytest.raises(ValueError, match="--kills 0"):
        choose(given, ["kills", "scenes"])


def test_the_processes_of_a_peer_are_one_load() -> None:
    counts = Counts(counted=2, true=3, matched=1)
    load = join([Load(10.0, 100.0, 1.0, 0.9, 0.2, {}, counts), Load(5.0, 50.0, 2.0, 0.8, 0.4, {}, counts)])
    assert (load.fps, load.dropped, load.min_camera_share, load.lag_s) == (20.0, 3.0, 0.8, 0.4)
    assert load.counts == Counts(counted=4, true=6, matched=2)


class Clip:
    """Stands in for OpenCV's reader: three frames."""

    def __init__(self, path: str) -> None:
        self.path, self.left = path, 3

    def get(self, what: int) -> float:
        return 3.0

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, Any]:
        return True, 2 - self.left


def test_a_peers_clip_plays_again_and_waits_to_be_measured() -> None:
    pace = Pace(float("inf"))
    capture = make_capture(pace, Clip)("clip")
    assert capture.get(peers.CAP_PROP_FRAME_COUNT) == 0, "a camera has no last frame"
    assert capture.path == "clip"
    assert [capture.read()[1] for _ in range(peers.WARM + 1)] == [0, 1, 2]
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(capture.read()[1] for _ in range(4)), daemon=True)
    reader.start()
    reader.join(0.1)
    assert not seen
    pace.go()
    reader.join(5)
    assert seen == [0, 1, 2, 0]


@pytest.mark.parametrize(
    "ends", [([0.5, 0], [0.5, 1]), ([0.5, 1], [0.5, 0]), ([0, 0.4], [1, 0.6]), ([1, 0.4], [0, 0.6])]
)
def test_the_directions_of_object_counter_are_named_as_here(ends: tuple[list[float], list[float]]) -> None:
    line = Line(id="line", p1=ends[0], p2=ends[1])
    beyond = Point(0.6, 0.5) if ends[0][0] == 0.5 else Point(0.5, 0.6)
    inwards = cross(*line.get_vertices(), beyond) > 0
    assert name_direction(line, (640, 360), forwards=True) == ("in" if inwards else "out")
    assert name_direction(line, (640, 360), forwards=False) == ("out" if inwards else "in")


@pytest.fixture(scope="module")
def stage() -> quiet.QuietStage:
    return quiet.QuietStage(quiet.make_scenes()[2])


def test_an_empty_scene_is_noise_and_slow_light_alone(stage: quiet.QuietStage) -> None:
    assert stage.tracks == []
    first, again, next_one = (stage.render_frame(index).astype(int) for index in (10, 10, 11))
    assert (first == again).all(), "a frame is a function of its number"
    assert np.abs(next_one - first).mean() == pytest.approx(2 * quiet.NOISE / np.pi**0.5, rel=0.2)
    assert abs(next_one.mean() - first.mean()) < 0.5
    lights = [stage.render_frame(index).mean() for index in range(0, stage.scene.frames, 60)]
    assert max(lights) - min(lights) > 10


def test_now_and_then_somebody_passes() -> None:
    scenes = quiet.make_scenes()
    casts = {scene.name: scene.make_cast(scene, scene.number) for scene in scenes}
    assert len(casts) == quiet.COUNT
    assert [len(cast) for cast in casts.values()] == [1, 1, 0, 1, 1, 0]
    for scene in scenes:
        assert all(is_brief(scene, len(track.walked)) for track in casts[scene.name])


def is_brief(scene: Scene, frames: int) -> bool:
    return frames < 0.4 * scene.frames
