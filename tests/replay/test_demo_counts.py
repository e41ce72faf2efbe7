"""The demo clips through the shipped model, the tracker and the counters, no processes between: counts as scripted.

Nothing here knows the renderer: detections come from decoded frames at the product's own thresholds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import accuracy, clips
from crowdperf.demo import ground_truth
from crowdperf.demo.ground_truth import SceneTruth
from crowdperf.demo.stage import BarcodeStamp
from crowdperf.evaluation.clip import ClipFrame, build_clip_spec, detect_clip, open_clip, read_frames
from crowdperf.messaging.schema import FrameDetections, LineCrossed
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.settings.base import CLASSES
from crowdperf.settings.config import Config
from crowdperf.tracking.pipeline import CameraPipeline
from tests.support.barcode import decode_stamp


@pytest.fixture(scope="module")
def detector(model_cache: Path) -> Detector:
    return load_detector(Config().inference, model_cache)


def detections(detector: Detector, video: Path, truth: SceneTruth) -> list[FrameDetections]:
    """What the product finds in a clip whose every frame is analysed."""
    clip = open_clip(video)
    spec = build_clip_spec(clip)
    stamps: list[BarcodeStamp | None] = []

    def read() -> Iterator[ClipFrame]:
        for picture in read_frames(clip, spec):
            stamps.append(decode_stamp(picture.data[: spec.width * spec.height].reshape(spec.height, spec.width)))
            yield picture

    seen = detect_clip(read(), spec, detector, lambda sequence, at_s: True)
    assert stamps == [BarcodeStamp(truth.number, index) for index in range(truth.frames)]
    assert seen.times == pytest.approx([index / truth.fps for index in range(truth.frames)])
    return seen.frames


def crossings(frames: list[FrameDetections], truth: SceneTruth) -> list[LineCrossed]:
    """What the product counts in them."""
    pipeline = CameraPipeline("demo", Config().tracking, truth.lines, truth.zones, float(truth.fps))
    events = [event for frame in frames for event in pipeline.step(frame)[1]]
    return [event for event in events if isinstance(event, LineCrossed)]


@pytest.mark.parametrize(("scene", "tolerance"), [("demo_sparse", 0.0), ("demo_dense", 0.05)])
def test_counts_equal_the_truth(
    scene: str,
    tolerance: float,
    detector: Detector,
    demo_clips: Path,
    record_property: Callable[[str, object], None],
) -> None:
    truth = ground_truth.decode_truth((demo_clips / f"{scene}.truth.json").read_bytes())
    frames = detections(detector, demo_clips / f"{scene}.mp4", truth)
    events = crossings(frames, truth)
    true = Counter((one.line, one.direction) for one in truth.crossings)
    counted = Counter((event.line, event.direction) for event in events)
    error = sum(abs(true[key] - counted[key]) for key in true | counted)
    record_property("figures", f"count_error/{scene}: {error} of {true.total()}")
    assert error <= tolerance * true.total(), (true, counted)
    assert accuracy.LIMITS[scene] == tolerance
    agrees_with_benches(scene, frames, error)
    assert {event.class_name for event in events if event.line == "street"} <= set(CLASSES[1:])
    if not tolerance:
        # With nobody hidden every crossing is also the right one, at the right time.
        for event, one in zip(sorted(events, key=lambda e: (e.line, e.sequence)), by_line(truth)):
            assert (event.line, event.direction) == (one.line, one.direction)
            assert abs(event.sequence - 1 - one.frame) <= 4


def agrees_with_benches(scene: str, frames: list[FrameDetections], error: int) -> None:
    """Benches print the same error beside their speeds, and would print another one."""
    (one,) = [one for one in clips.demo_scenes() if one.name == scene]
    total = len(one.truth)
    assert clips.errors(one, frames)[0] == error / total
    assert clips.errors(one, frames[: len(frames) // 2])[0] > 0.2
    assert clips.errors(one, []) == (1.0, 0.0, 0.0)


def by_line(truth: SceneTruth) -> list[ground_truth.SceneCrossing]:
    return sorted(truth.crossings, key=lambda one: (one.line, one.frame))
