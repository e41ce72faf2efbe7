"""The inference process: newest frames of every due camera, one batch, detections to Redis. Plumbing only."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from crowdperf.events.connection import connect
from crowdperf.events.outbox import Outbox
from crowdperf.frames.doorbell import Doorbell
from crowdperf.inference.cameras import Cameras
from crowdperf.inference.clerk import Clerk
from crowdperf.inference.detector import Detector, blank_spec, load_detector
from crowdperf.inference.evidence import Keeper
from crowdperf.inference.inspector import Inspector
from crowdperf.inference.ppe import CROP
from crowdperf.inference.schedule import Schedule
from crowdperf.inference.seat import Seat
from crowdperf.inference.service import Service
from crowdperf.runtime import Runtime
from crowdperf.slices import InferenceSlice

WAIT_S = 0.5
"""Longest sleep on the doorbell: the pace of scans, gauges and the watchdog while no frame comes."""

log = logging.getLogger(__name__)


def main(slice_: InferenceSlice, runtime: Runtime) -> None:
    """Analyse frames until told to stop."""
    settings = slice_.settings
    people, ppe = Seat("person"), Seat("ppe")

    def person_model() -> Detector:
        detector = load_detector(settings, Path(slice_.cache))
        detector.warm([blank_spec(width, height) for width, height in slice_.sizes])
        return detector

    def ppe_model() -> Detector:
        detector = load_detector(settings, Path(slice_.cache), role="ppe", confidence=slice_.ppe.confidence)
        detector.warm([CROP])
        return detector

    people.want(person_model)
    # A model that cannot be had is told and tried again, since a restart would not cure it.
    while not runtime.stopping and not people.settle(time.monotonic()):
        runtime.tick()
        if people.error:
            runtime.metrics.text("last_error", people.error)
        runtime.wait(0.02)
    if people.detector is None:
        return
    pins = people.detector.runtime
    hooks = (pins.pin, pins.unpin) if pins.pins else (None, None)
    cameras = Cameras(slice_.ring_prefix, settings.staleness_s, *hooks)
    keeper = Keeper(slice_.ppe.evidence_s)
    runtime.register_cache("evidence", keeper.prune)
    clerk = Clerk(
        *(slice_.redis_url, slice_.key_prefix, keeper, slice_.ring_prefix, Path(slice_.evidence)),
        *(slice_.ppe.blur, runtime.metrics),
    )
    service = Service(
        people,
        Inspector(ppe, ppe_model, runtime.metrics, keeper),
        cameras,
        Schedule(slice_.queue_max, settings.staleness_s),
        Outbox(connect(slice_.redis_url), slice_.key_prefix),
        runtime.metrics,
        time.monotonic,
        slice_.cuda_empty_every,
    )
    clerk.start()
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
        clerk.close()
        keeper.close()
        people.close()
        ppe.close()
