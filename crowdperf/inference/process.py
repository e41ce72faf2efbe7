"""The inference process: newest frames of every due camera, one batch, detections to Redis. Plumbing only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.engine import InferenceEngine
from crowdperf.inference.evidence_cache import EvidenceCache
from crowdperf.inference.evidence_writer import EvidenceWriter
from crowdperf.inference.model_slots import ModelSet, ModelSlot
from crowdperf.inference.ppe_stage import PpeStage
from crowdperf.inference.rings import RingSet
from crowdperf.inference.scheduler import FrameScheduler
from crowdperf.messaging.outbox import BackgroundSender, DetectionSink, Outbox
from crowdperf.messaging.redis.client import connect
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.engine import ModelSelection
from crowdperf.settings.process_config import InferenceConfig
from crowdperf.settings.reload import ReloadFile

MAX_DOORBELL_WAIT_S = 0.5
"""Longest sleep on the doorbell: the pace of scans, gauges and the watchdog while no frame comes."""

log = logging.getLogger(__name__)


def main(config: InferenceConfig, runtime: ProcessRuntime) -> None:
    """Analyse frames until told to stop."""
    settings = config.settings
    staff = ModelSet(settings, config.ppe.confidence, Path(config.cache), config.sizes)
    people = staff.person_slot
    choice = ReloadFile(Path(config.choice), ModelSelection)
    # Cameras begin when the doorbell answers, so the model comes first. One that cannot be had is told and tried again
    # by the service, which goes on without it: a restart would not cure it.
    while not runtime.stopping and not people.poll(time.monotonic()) and not people.error:
        runtime.tick()
        _apply_selection(staff, choice, [])
        runtime.wait_for_stop(0.02)
    if runtime.stopping:
        return
    cameras = RingSet(config.ring_prefix, settings.staleness_s)
    keeper = EvidenceCache(config.ppe.evidence_s)
    runtime.register_cache("evidence", lambda: keeper.prune(time.monotonic_ns()))
    clerk = EvidenceWriter(
        *(config.redis_url, config.key_prefix, keeper, config.ring_prefix, Path(config.evidence)),
        *(config.ppe.blur, runtime.metrics),
    )
    poster = BackgroundSender(Outbox(connect(config.redis_url), config.key_prefix), time.monotonic)
    inspector = PpeStage(staff.ppe_slot, staff.request_ppe, runtime.metrics, keeper)
    service = build_engine(config, people, inspector, cameras, poster, runtime.metrics, time.monotonic)
    clerk.start()
    doorbell = Doorbell(Path(config.doorbell))
    try:
        rung = False
        while not runtime.stopping:
            runtime.tick()
            _apply_selection(staff, choice, [camera.reader.spec for camera in cameras.rings.values()])
            busy = service.step(rung)
            rung = doorbell.wait(0.0 if busy else MAX_DOORBELL_WAIT_S)
    finally:
        doorbell.close()
        poster.close()
        cameras.close()
        clerk.close()
        keeper.close()
        staff.close()


def build_engine(
    config: InferenceConfig,
    person_slot: ModelSlot,
    ppe_stage: PpeStage,
    rings: RingSet,
    outbox: DetectionSink,
    metrics: Metrics,
    clock: Callable[[], float],
) -> InferenceEngine:
    """The service that this configuration asks for; `clock` is monotonic, in seconds."""
    schedule = FrameScheduler(config.queue_max, config.settings.staleness_s)
    return InferenceEngine(person_slot, ppe_stage, rings, schedule, outbox, metrics, clock, config.cuda_empty_every)


def _apply_selection(models: ModelSet, selection_file: ReloadFile[ModelSelection], specs: list[RingSpec]) -> None:
    """Prepare what `supervisorctl update` has newly chosen."""
    changed = selection_file.read_if_changed()
    if changed is not None:
        models.apply_selection(changed, specs)
