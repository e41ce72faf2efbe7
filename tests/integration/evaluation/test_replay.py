"""A whole replay with a model of our own making: it sees one person, the further right the brighter the picture is."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from crowdperf.evaluation.camera_setup import CameraSetup
from crowdperf.evaluation.clip import Clip, open_clip
from crowdperf.evaluation.replay import ReplayResult, get_ffmpeg_flags, replay_clip
from crowdperf.frames.layout import RingSpec
from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.settings.engine import Analysis
from tests.unit.evaluation.test_comparison import setup


class Bright(Detector):
    """That model."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(name="none", device="cpu"), "bright", "own")
        self.frames = 0

    def warm(self, specs: Sequence[RingSpec]) -> None: ...

    def detect(self, frames: Sequence[NDArray[np.uint8]], spec: RingSpec) -> list[Detections]:
        self.frames += len(frames)
        found = []
        for frame in frames:
            at = float(frame[: spec.width * spec.height].mean()) / 255
            box = np.array([[at - 0.06, 0.2, at + 0.06, 0.7]], np.float32)
            found.append(Detections(box, np.array([0.9], np.float32), np.zeros(1, np.uint8)))
        return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Four seconds at 10 frames/s: from dark to bright and back."""
    path = tmp_path_factory.mktemp("clip") / "bright.mkv"
    source = "color=gray:size=160x120:rate=10:duration=4,geq=lum='60+7*(20-abs(N-20))':cb=128:cr=128"
    command = [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "ffv1", str(path)]
    subprocess.run(command, check=True)
    return open_clip(path)


def replayed(clip: Clip, *setups: CameraSetup) -> tuple[ReplayResult, Bright]:
    model = Bright()
    return replay_clip(clip, [analysed_as(one, "whole") for one in setups], lambda _: model), model


def analysed_as(one: CameraSetup, analysis: Analysis) -> CameraSetup:
    return msgspec.structs.replace(one, inference=msgspec.structs.replace(one.inference, analysis=analysis))


def test_the_model_s_person_is_counted_there_and_back(clip: Clip) -> None:
    found, model = replayed(clip, setup())
    (outcome,) = found.outcomes
    assert (outcome.analysed, model.frames) == (40, 40)
    # Brightness 60 + 7 n of 255, and back; the line is at 127.5.
    assert [(one.event.direction, one.number) for one in outcome.crossings] == [("out", 10), ("in", 31)]
    for one, brightness in zip(outcome.crossings, (130, 123)):
        assert one.box is not None
        assert sum(one.box[::2]) / 2 == pytest.approx(brightness / 255, abs=0.02)
    assert found.length_s == pytest.approx(4.0)
    assert outcome.gaps == []


def test_what_two_configurations_see_alike_is_detected_once(clip: Clip) -> None:
    every, half, moved = (
        setup("a"),
        setup("b", target_fps=5.0),
        setup("c", {"id": "door", "p1": [0.4, 0], "p2": [0.4, 1]}),
    )
    together, model = replayed(clip, every, half, moved)
    assert model.frames == 40
    analysed = [outcome.analysed for outcome in together.outcomes]
    assert analysed[0] == analysed[2] == 40
    assert 20 <= analysed[1] <= 24, "half of them, after a burst"
    for outcome, alone in zip(together.outcomes, (replayed(clip, one)[0].outcomes[0] for one in (every, half, moved))):
        assert outcome.events == alone.events
        assert outcome.crossings == alone.crossings


def test_another_threshold_or_size_is_another_detection(clip: Clip) -> None:
    first = setup()
    assert first.get_detection_key(clip) == setup(
        line={"id": "gate", "p1": [0.1, 0], "p2": [0.1, 1]}
    ).get_detection_key(clip)
    assert first.get_detection_key(clip) != setup(analysis_width=160, pix_fmt="bgr24").get_detection_key(clip)
    other = msgspec.structs.replace(first, inference=msgspec.structs.replace(first.inference, confidence=0.2))
    assert first.get_detection_key(clip) != other.get_detection_key(clip)
    quicker = msgspec.structs.replace(first, inference=msgspec.structs.replace(first.inference, threads=3))
    assert first.get_detection_key(clip) == quicker.get_detection_key(clip)
    _, model = replayed(clip, first, other)
    assert model.frames == 2 * 40


def test_regions_of_another_rate_are_another_detection(clip: Clip) -> None:
    """What is looked at depends on the frames before; a whole picture does not."""
    every, half = setup(), setup(target_fps=5.0)
    for analysis in ("auto", "regions"):
        keys = [analysed_as(one, analysis).get_detection_key(clip) for one in (every, half)]
        assert keys[0] != keys[1]
    keys = [analysed_as(one, "whole").get_detection_key(clip) for one in (every, half)]
    assert keys[0] == keys[1]


def test_flags_for_live_streams_alone_are_left_away() -> None:
    own = setup(ffmpeg_flags="-an -loglevel quiet")
    capture = msgspec.structs.replace(own.capture, ffmpeg_extra_flags="-rtsp_flags prefer_tcp -fflags nobuffer -v 0")
    assert get_ffmpeg_flags(msgspec.structs.replace(own, capture=capture)) == (("-fflags", "nobuffer"), ("-an",))
