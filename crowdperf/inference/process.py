"""The inference process: newest frames of every due camera, one model, detections to Redis. Plumbing only."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from crowdperf.events.connection import connect
from crowdperf.events.outbox import Outbox
from crowdperf.frames.doorbell import Doorbell
from crowdperf.inference.cameras import Cameras
from crowdperf.inference.detector import Detector, load_detector
from crowdperf.inference.registry import ModelError
from crowdperf.inference.schedule import Schedule
from crowdperf.inference.service import Service
from crowdperf.runtime import Runtime
from crowdperf.slices import InferenceSlice

RETRY_S = 5.0
WAIT_S = 0.5
"""Longest sleep on the doorbell: the pace of scans, gauges and the watchdog while no frame comes."""

log = logging.getLogger(__name__)


def main(slice_: InferenceSlice, runtime: Runtime) -> None:
    """Analyse frames until told to stop."""
    detector = _load(slice_, runtime)
    if detector is None:
        return
    computing, settings = detector.runtime, slice_.settings
    detector.warm(slice_.sizes)
    # /readyz takes this for the sign that frames are analysed.
    runtime.metrics.text("model", detector.model)
    device = f"{computing.device} ({computing.name}, {detector.precision})"
    runtime.metrics.text("device", device)
    log.info("model %s on %s", detector.model, device)
    hooks = (computing.pin, computing.unpin) if computing.pins else (None, None)
    cameras = Cameras(slice_.ring_prefix, settings.staleness_s, *hooks)
    service = Service(
        detector,
        cameras,
        Schedule(slice_.queue_max, settings.staleness_s),
        Outbox(connect(slice_.redis_url), slice_.key_prefix),
        runtime.metrics,
        time.monotonic,
        slice_.cuda_empty_every,
    )
    doorbell = Doorbell(Path(slice_.doorbell))
    try:
        rung = False
        while not runtime.stopping:
            runtime.tick()
            busy = service.turn(rung)
            rung = doorbell.wait(0.0 if busy else WAIT_S)
    finally:
        doorbell.close()
        cameras.close()


def _load(slice_: InferenceSlice, runtime: Runtime) -> Detector | None:
    """The detector; a model that cannot be had is reported and tried again, since a restart would not cure it."""
    said = ""
    while not runtime.stopping:
        runtime.tick()
        try:
            detector = load_detector(slice_.settings, Path(slice_.cache))
        except ModelError as error:
            if str(error) != said:
                log.error("%s", error)
                said = str(error)
            runtime.metrics.text("last_error", said)
            runtime.wait(RETRY_S)
            continue
        runtime.metrics.text("last_error", "")
        return detector
    return None
