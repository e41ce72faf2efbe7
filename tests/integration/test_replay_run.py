"""A whole replay with a model of our own making: it sees one person, the further right the brighter the picture is."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from crowdperf.ffmpeg import ffmpeg_binary
from crowdperf.inference.detector import Detector
from crowdperf.inference.letterbox import Letterbox
from crowdperf.inference.nms import Found
from crowdperf.replay.clip import Clip, open_clip
from crowdperf.replay.run import Replayed, ffmpeg_flags, run
from crowdperf.replay.setup import Setup
from tests.unit.test_replay_difference import setup


class Bright:
    """The runtime of that model."""

    name, device, max_batch, pins = "bright", "cpu", 4, False

    def __init__(self) -> None:
        self.frames = 0
        self._loaded: list[float] = []
        self._box: Letterbox | None = None

    def ready(self, box: Letterbox) -> bool:
        return True

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: str, box: Letterbox) -> None:
        pixels = box.width * box.height
        self._loaded = [float(frame[:pixels].mean()) / 255 for frame in frames]
        self._box = box
        self.frames += len(frames)

    def run(self) -> list[Found]:
        assert self._box is not None
        width, height = self._box.width, self._box.height
        found = []
        for right in self._loaded:
            box = np.array([[right * width - 10, 0.2 * height, right * width + 10, 0.7 * height]], np.float32)
            found.append(Found(box, np.array([0.9], np.float32), np.zeros(1, np.uint8)))
        return found

    def pin(self, buffer: NDArray[np.uint8]) -> None: ...

    def unpin(self, buffer: NDArray[np.uint8]) -> None: ...

    def empty_cache(self) -> None: ...


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Four seconds at 10 frames/s: from dark to bright and back."""
    path = tmp_path_factory.mktemp("clip") / "bright.mkv"
    source = "color=gray:size=160x120:rate=10:duration=4,geq=lum='60+7*(20-abs(N-20))':cb=128:cr=128"
    command = [ffmpeg_binary(), "-v", "error", "-f", "lavfi", "-i", source, "-c:v", "ffv1", str(path)]
    subprocess.run(command, check=True)
    return open_clip(path)


def replayed(clip: Clip, *setups: Setup) -> tuple[Replayed, Bright]:
    runtime = Bright()
    return run(clip, setups, lambda _: Detector(runtime, "bright", "own")), runtime


def test_the_model_s_person_is_counted_there_and_back(clip: Clip) -> None:
    found, runtime = replayed(clip, setup())
    (outcome,) = found.outcomes
    assert (outcome.analysed, runtime.frames) == (40, 40 + 1), "one more to warm it"
    # Brightness 60 + 7 n of 255; the line is at 127.5, and its dead band reaches to 121.8 and 133.2.
    assert [(one.event.direction, one.number) for one in outcome.crossings] == [("out", 11), ("in", 32)]
    for one, brightness in zip(outcome.crossings, (137, 116)):
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
    together, runtime = replayed(clip, every, half, moved)
    assert runtime.frames == 40 + 1
    analysed = [outcome.analysed for outcome in together.outcomes]
    assert analysed[0] == analysed[2] == 40
    assert 20 <= analysed[1] <= 24, "half of them, after a burst"
    for outcome, alone in zip(together.outcomes, (replayed(clip, one)[0].outcomes[0] for one in (every, half, moved))):
        assert outcome.events == alone.events
        assert outcome.crossings == alone.crossings


def test_another_threshold_or_size_is_another_detection(clip: Clip) -> None:
    first = setup()
    assert first.sees(clip) == setup(line={"id": "gate", "p1": [0.1, 0], "p2": [0.1, 1]}).sees(clip)
    assert first.sees(clip) != setup(analysis_width=160, pix_fmt="bgr24").sees(clip)
    other = msgspec.structs.replace(first, inference=msgspec.structs.replace(first.inference, confidence=0.2))
    assert first.sees(clip) != other.sees(clip)
    quicker = msgspec.structs.replace(first, inference=msgspec.structs.replace(first.inference, threads=3))
    assert first.sees(clip) == quicker.sees(clip)
    _, runtime = replayed(clip, first, other)
    assert runtime.frames == 2 * (40 + 1)


def test_flags_for_live_streams_alone_are_left_away() -> None:
    own = setup(ffmpeg_flags="-an -loglevel quiet")
    capture = msgspec.structs.replace(own.capture, ffmpeg_extra_flags="-rtsp_flags prefer_tcp -fflags nobuffer -v 0")
    assert ffmpeg_flags(msgspec.structs.replace(own, capture=capture)) == (("-fflags", "nobuffer"), ("-an",))
