"""The inference process: wire its parts and run the loop."""

from __future__ import annotations

import time
from pathlib import Path

from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.engine import InferenceEngine
from crowdperf.inference.evidence_cache import EvidenceCache
from crowdperf.inference.evidence_writer import EvidenceWriter
from crowdperf.inference.model_slots import ModelSet
from crowdperf.inference.ppe_stage import PpeStage
from crowdperf.inference.rings import RingSet
from crowdperf.messaging.outbox import BackgroundSender
from crowdperf.messaging.redis.client import connect
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.engine import ModelSelection
from crowdperf.settings.process_config import InferenceConfig
from crowdperf.settings.reload import ReloadFile

MAX_DOORBELL_WAIT_S = 0.5
"""Longest wait for the doorbell, and so the pace of scans, gauges and the watchdog without frames."""


def main(config: InferenceConfig, runtime: ProcessRuntime) -> None:
    """Analyse frames until the process is stopped."""
    models = ModelSet(config.settings, config.ppe.confidence, Path(config.cache), config.sizes)
    selection = ReloadFile(Path(config.reload_file), ModelSelection)
    # Cameras start when the doorbell answers, so the model loads first. If it fails, the loop goes on without it and
    # tries again: a restart would not help.
    while not runtime.stopping and not models.person_slot.poll(time.monotonic()) and not models.person_slot.error:
        runtime.tick()
        _apply_selection(models, selection, [])
        runtime.wait_for_stop(0.02)
    if runtime.stopping:
        return
    rings = RingSet(config.ring_prefix, config.settings.staleness_s)
    cache = EvidenceCache(config.ppe.evidence_s)
    runtime.register_cache("evidence", lambda: cache.prune(time.monotonic_ns()))
    evidence_writer = EvidenceWriter(
        *(config.redis_url, config.key_prefix, cache, config.ring_prefix, Path(config.evidence)),
        *(config.ppe.blur, runtime.metrics),
    )
    sender = BackgroundSender(connect(config.redis_url), config.key_prefix)
    ppe_stage = PpeStage(models.ppe_slot, models.request_ppe, runtime.metrics, cache, time.monotonic)
    engine = InferenceEngine(config, models.person_slot, ppe_stage, rings, sender, runtime.metrics, time.monotonic)
    evidence_writer.start()
    doorbell = Doorbell(Path(config.doorbell))
    try:
        doorbell_rang = False
        while not runtime.stopping:
            runtime.tick()
            _apply_selection(models, selection, [feed.spec for feed in rings.feeds.values()])
            is_busy = engine.step(doorbell_rang)
            doorbell_rang = doorbell.wait(0.0 if is_busy else MAX_DOORBELL_WAIT_S)
    finally:
        for part in (doorbell, sender, rings, evidence_writer, cache, models):
            part.close()


def _apply_selection(models: ModelSet, selection: ReloadFile[ModelSelection], specs: list[RingSpec]) -> None:
    """Load the models of a new selection, if `supervisorctl update` has written one."""
    changed = selection.read_if_changed()
    if changed is not None:
        models.apply_selection(changed, specs)
