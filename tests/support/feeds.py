"""Build feeds without a ring, for tests of the scheduler, the PPE cadence and the metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from crowdperf.frames.ring import FrameReader, RingSpec
from crowdperf.inference.camera_feed import CameraFeed


def make_feed(camera: str, spec: RingSpec) -> CameraFeed:
    """Build the feed of a camera whose ring is never read."""
    return CameraFeed(camera, cast(FrameReader, SimpleNamespace(spec=spec)))
