"""Clips with the settings that tests give them, through the product's own replay (`crowdperf.evaluation`).

With CROWDPERF_REPLAY_CACHE=1 the detections of a clip are kept below var/replay, by model, clip and settings, for
those who work on the tracker and wait for nothing else. The suite always computes them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from crowdperf.evaluation import clip as footage
from crowdperf.evaluation.clip import CLIP_START_S, detect_clip
from crowdperf.frames.layout import RingSpec
from crowdperf.messaging.schema import Event, FrameDetections
from crowdperf.models.detector import Detector
from crowdperf.models.registry import read_manifest
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Inference, Tracking
from crowdperf.tracking.pipeline import CameraPipeline
from tests.conftest import ROOT

EPOCH_S = CLIP_START_S


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

    def to_product_clip(self) -> footage.Clip:
        """Return the same for the product."""
        return footage.Clip(self.path, self.width, self.height, self.fps)

    def build_ring_spec(self) -> RingSpec:
        """Return the pictures that are analysed."""
        return footage.build_clip_spec(self.to_product_clip(), self.analysis_width)


def pictures(clip: Clip, spec: RingSpec) -> Iterator[np.ndarray]:
    """Yield every picture of the clip as capture would put it into the ring."""
    for picture in footage.read_frames(clip.to_product_clip(), spec):
        yield picture.data


def detections(clip: Clip, detector: Detector) -> list[FrameDetections]:
    """Return what the detector finds; `sequence` is the clip's frame number plus one."""
    cached = _cache_file(clip, detector)
    if cached is not None and cached.exists():
        return msgspec.msgpack.decode(cached.read_bytes(), type=list[FrameDetections])
    spec = clip.build_ring_spec()
    source = footage.read_frames(clip.to_product_clip(), spec)
    frames = detect_clip(source, spec, detector, lambda sequence, _: (sequence - 1) % clip.every == 0).frames
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
    parts = (clip.every, clip.analysis_width, models.get(detector.model), detector.backend.name, detector.precision)
    key.update(repr((*parts, settings.confidence, settings.iou)).encode())
    return ROOT / "var" / "replay" / f"{clip.path.stem}.{key.hexdigest()[:16]}.msgpack"
