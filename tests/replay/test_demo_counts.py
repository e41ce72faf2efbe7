"""The demo clips through the shipped model, the tracker and the counters, no processes between: counts as scripted.

Nothing here knows the renderer: detections come from decoded frames at the product's own thresholds.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from crowdperf.config import Config
from crowdperf.demo import clip, truth
from crowdperf.demo.barcode import Stamp, decode
from crowdperf.demo.truth import Truth
from crowdperf.events.schema import FrameDetections, LineCrossed
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import Detector, load_detector
from crowdperf.settings.base import CLASSES
from crowdperf.tracking.pipeline import CameraPipeline

WIDTH, HEIGHT = 640, 360
FRAME_BYTES = WIDTH * HEIGHT * 3 // 2
BATCH = 8


def decoded(video: Path) -> Iterator[np.ndarray]:
    """Frames as capture would put them into the ring, uint8 (FRAME_BYTES,)."""
    argv = [clip.ffmpeg(), "-loglevel", "error", "-i", str(video), "-vf", f"scale={WIDTH}:{HEIGHT}"]
    argv += ["-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        while raw := child.stdout.read(FRAME_BYTES):
            yield np.frombuffer(raw, np.uint8)
    assert child.returncode == 0


@pytest.fixture(scope="module")
def detector(model_cache: Path) -> Detector:
    return load_detector(Config().inference, model_cache)


def crossings(detector: Detector, video: Path, facts: Truth) -> list[LineCrossed]:
    """What the product counts in a clip whose every frame is analysed."""
    spec = RingSpec(
        width=WIDTH,
        height=HEIGHT,
        pix_fmt="yuv420p",
        source_width=facts.width,
        source_height=facts.height,
        slots=4,
        target_fps=float(facts.fps),
        frame_skip=0,
    )
    frames = list(decoded(video))
    stamps = [decode(frame[: WIDTH * HEIGHT].reshape(HEIGHT, WIDTH)) for frame in frames]
    assert stamps == [Stamp(facts.number, index) for index in range(facts.frames)]
    pipeline = CameraPipeline("demo", Config().tracking, facts.lines, facts.zones, float(facts.fps))
    events: list[LineCrossed] = []
    sequence = 0
    for first in range(0, len(frames), BATCH):
        for found in detector.detect(frames[first : first + BATCH], spec):
            sequence += 1
            message = FrameDetections(
                camera="demo",
                epoch=1,
                sequence=sequence,
                captured_at_ns=10**18 + sequence * 10**9 // facts.fps,
                boxes=found.boxes.astype("<f4").tobytes(),
                scores=found.scores.astype("<f4").tobytes(),
                classes=found.classes.astype(np.uint8).tobytes(),
                source_width=facts.width,
                source_height=facts.height,
            )
            events += [event for event in pipeline.step(message)[1] if isinstance(event, LineCrossed)]
    return events


@pytest.mark.parametrize(("scene", "tolerance"), [("demo_sparse", 0.0), ("demo_dense", 0.05)])
def test_counts_equal_the_truth(
    scene: str,
    tolerance: float,
    detector: Detector,
    demo_clips: Path,
    record_property: Callable[[str, object], None],
) -> None:
    facts = truth.decoded((demo_clips / f"{scene}.truth.json").read_bytes())
    events = crossings(detector, demo_clips / f"{scene}.mp4", facts)
    true = Counter((one.line, one.direction) for one in facts.crossings)
    counted = Counter((event.line, event.direction) for event in events)
    error = sum(abs(true[key] - counted[key]) for key in true | counted)
    record_property("figures", f"count_error/{scene}: {error} of {true.total()}")
    assert error <= tolerance * true.total(), (true, counted)
    assert {event.klass for event in events if event.line == "street"} <= set(CLASSES[1:])
    if not tolerance:
        # With nobody hidden every crossing is also the right one, at the right time.
        for event, one in zip(sorted(events, key=lambda e: (e.line, e.sequence)), by_line(facts)):
            assert (event.line, event.direction) == (one.line, one.direction)
            assert abs(event.sequence - 1 - one.frame) <= 4


def by_line(facts: Truth) -> list[truth.Crossing]:
    return sorted(facts.crossings, key=lambda one: (one.line, one.frame))
