"""The capture process of one camera: frames into its ring, for ever. Plumbing only."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from crowdperf.capture.camera import CameraCapture
from crowdperf.capture.report import StateReporter
from crowdperf.capture.source import redactor
from crowdperf.frames.doorbell import answers
from crowdperf.runtime import Runtime
from crowdperf.slices import CaptureSlice

LISTENER_S = 10.0
"""How long a camera waits for inference when both start together; it is ready after two to five seconds."""

log = logging.getLogger(__name__)


def main(slice_: CaptureSlice, runtime: Runtime) -> None:
    """Input: the camera. Outputs: its ring, the doorbell, its state changes as events, metrics."""

    def alive() -> bool:
        runtime.tick()
        return not runtime.stopping

    log.info("camera %s: %s", slice_.camera_id, redactor(slice_.url)(slice_.url))
    reporter = StateReporter(slice_.redis_url, slice_.key_prefix)
    # A stream that begins with its first PLAY is not begun before somebody looks; who never looks stops no camera.
    patience = time.monotonic() + LISTENER_S
    while alive() and not answers(Path(slice_.doorbell)) and time.monotonic() < patience:
        runtime.wait(0.05)
    camera = CameraCapture(slice_, runtime.metrics, reporter.put, alive, runtime.wait)
    try:
        while alive():
            camera.step()
    finally:
        camera.close()
        reporter.close()
