"""The inference process: newest frames of every due camera, one batch, detections to Redis. Plumbing only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from crowdperf.events.connection import connect
from crowdperf.events.outbox import Outbox, Sending
from crowdperf.events.poster import Poster
from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.cameras import Cameras
from crowdperf.inference.clerk import Clerk
from crowdperf.inference.evidence import Keeper
from crowdperf.inference.inspector import Inspector
from crowdperf.inference.schedule import Schedule
from crowdperf.inference.seat import Seat
from crowdperf.inference.service import Service
from crowdperf.inference.staff import Staff
from crowdperf.runtime import Metrics, Runtime
from crowdperf.settings.choice import Choice
from crowdperf.settings.handover import Handover
from crowdperf.slices import InferenceSlice

WAIT_S = 0.5
"""Longest sleep on the doorbell: the pace of scans, gauges and the watchdog while no frame comes."""

log = logging.getLogger(__name__)


def main(slice_: InferenceSlice, runtime: Runtime) -> None:
    """Analyse frames until told to stop."""
    settings = slice_.settings
    staff = Staff(settings, slice_.ppe.confidence, Path(slice_.cache), slice_.sizes)
    people = staff.people
    choice = Handover(Path(slice_.choice), Choice)
    # Cameras begin when the doorbell answers, so the model comes first. One that cannot be had is told and tried again
    # by the service, which goes on without it: a restart would not cure it.
    while not runtime.stopping and not people.settle(time.monotonic()) and not people.error:
        runtime.tick()
        _take_over(staff, choice, [])
        runtime.wait(0.02)
    if runtime.stopping:
        return
    cameras = Cameras(slice_.ring_prefix, settings.staleness_s)
    keeper = Keeper(slice_.ppe.evidence_s)
    runtime.register_cache("evidence", lambda: keeper.prune(time.monotonic_ns()))
    clerk = Clerk(
        *(slice_.redis_url, slice_.key_prefix, keeper, slice_.ring_prefix, Path(slice_.evidence)),
        *(slice_.ppe.blur, runtime.metrics),
    )
    poster = Poster(Outbox(connect(slice_.redis_url), slice_.key_prefix), time.monotonic)
    inspector = Inspector(staff.ppe, staff.ask_for_ppe, runtime.metrics, keeper)
    service = service_of(slice_, people, inspector, cameras, poster, runtime.metrics, time.monotonic)
    clerk.start()
    doorbell = Doorbell(Path(slice_.doorbell))
    try:
        rung = False
        while not runtime.stopping:
            runtime.tick()
            _take_over(staff, choice, [camera.reader.spec for camera in cameras.open.values()])
            busy = service.turn(rung)
            rung = doorbell.wait(0.0 if busy else WAIT_S)
    finally:
        doorbell.close()
        poster.close()
        cameras.close()
        clerk.close()
        keeper.close()
        staff.close()


def service_of(
    slice_: InferenceSlice,
    people: Seat,
    inspector: Inspector,
    cameras: Cameras,
    outbox: Sending,
    metrics: Metrics,
    clock: Callable[[], float],
) -> Service:
    """The service that this configuration asks for; `clock` is monotonic, in seconds."""
    schedule = Schedule(slice_.queue_max, slice_.settings.staleness_s)
    return Service(people, inspector, cameras, schedule, outbox, metrics, clock, slice_.cuda_empty_every)


def _take_over(staff: Staff, choice: Handover[Choice], specs: list[RingSpec]) -> None:
    """Prepare what `supervisorctl update` has newly chosen."""
    changed = choice.changed()
    if changed is not None:
        staff.choose(changed, specs)
