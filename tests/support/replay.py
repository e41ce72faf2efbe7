"""Clips through FFmpeg, the detector and a camera's pipeline, without processes: counts on real pictures, offline.

With CROWDPERF_REPLAY_CACHE=1 the detections of a clip are kept below var/replay, by model, clip and settings, for
those who work on the tracker and wait for nothing else. The suite always computes them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from crowdperf.capture.probe import analysis_size
from crowdperf.events.schema import Event, FrameDetections
from crowdperf.ffmpeg import ffmpeg_binary
from crowdperf.frames.layout import RingSpec
from crowdperf.inference.detector import Detector
from crowdperf.inference.registry import read_manifest
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Inference, Tracking
from crowdperf.tracking.pipeline import CameraPipeline
from tests.conftest import ROOT

BATCH = 8
EPOCH_S = 1_700_000_000


class Clip(msgspec.Struct, frozen=True):
    """A clip and how it is analysed."""

    path: Path
    width: int
    height: int
    fps: float
    """True frames per second, which the container need not know."""
    every: int = 1
    """Analyse one of this many frames."""
    analysis_width: int = 640


def pictures(clip: Clip, spec: RingSpec) -> Iterator[np.ndarray]:
    """Every picture of the clip as capture would put it into the ring."""
    scale = f"scale={spec.width}:{spec.height}:flags=fast_bilinear:out_color_matrix=bt601:out_range=tv"
    command = [ffmpeg_binary(), "-loglevel", "error", "-threads", "1", "-i", str(clip.path), "-vf", scale]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        while len(data := child.stdout.read(spec.frame_bytes)) == spec.frame_bytes:
            yield np.frombuffer(data, np.uint8)
    assert child.returncode == 0, f"FFmpeg could not read {clip.path}"


def detections(clip: Clip, detector: Detector) -> list[FrameDetections]:
    """What the detector finds; `sequence` is the clip's frame number plus one."""
    cached = _cache_file(clip, detector)
    if cached is not None and cached.exists():
        return msgspec.msgpack.decode(cached.read_bytes(), type=list[FrameDetections])
    width, height = analysis_size(clip.width, clip.height, clip.analysis_width)
    spec = RingSpec(width, height, "yuv420p", clip.width, clip.height, 4, clip.fps, 0)
    frames: list[FrameDetections] = []
    numbers: list[int] = []
    waiting: list[np.ndarray] = []

    def analyse() -> None:
        for number, (boxes, scores, classes) in zip(numbers, detector.detect(waiting, spec) if waiting else []):
            at_ns = round((EPOCH_S + number / clip.fps) * 1e9)
            columns = (boxes.tobytes(), scores.tobytes(), classes.tobytes())
            frames.append(FrameDetections("clip", 1, number + 1, at_ns, *columns, clip.width, clip.height))
        numbers.clear()
        waiting.clear()

    for number, picture in enumerate(pictures(clip, spec)):
        if number % clip.every == 0:
            numbers.append(number)
            waiting.append(picture)
        if len(waiting) == BATCH:
            analyse()
    analyse()
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(msgspec.msgpack.encode(frames))
    return frames


def replay(
    clip: Clip, frames: list[FrameDetections], lines: tuple[Line, ...], zones: tuple[Zone, ...] = ()
) -> tuple[list[Event], CameraPipeline]:
    """Events of a whole clip with the default configuration, and the pipeline as it is at its end."""
    pipeline = CameraPipeline("clip", Tracking(), lines, zones, clip.fps / clip.every)
    return [event for frame in frames for event in pipeline.step(frame)[1]], pipeline


def _cache_file(clip: Clip, detector: Detector) -> Path | None:
    if os.environ.get("CROWDPERF_REPLAY_CACHE") != "1":
        return None
    key = hashlib.sha256(clip.path.read_bytes())
    settings = Inference()
    models = {entry.name: entry.sha256 for entry in read_manifest().models}
    parts = (clip.every, clip.analysis_width, models.get(detector.model), detector.runtime.name, detector.precision)
    key.update(repr((*parts, settings.confidence, settings.iou)).encode())
    return ROOT / "var" / "replay" / f"{clip.path.stem}.{key.hexdigest()[:16]}.msgpack"
