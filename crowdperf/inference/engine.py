"""One turn of the inference process, step by step: collect, load and verify, infer, publish, look at PPE."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from crowdperf.frames.ring import FrameReader, FrameStamp, RingSpec
from crowdperf.inference.metrics import InferenceMetrics
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_stage import PpeFrame, PpeStage
from crowdperf.inference.rings import RingSet
from crowdperf.inference.scheduler import FrameScheduler, ScheduledFrame
from crowdperf.messaging.outbox import DetectionSink
from crowdperf.messaging.schema import FrameDetections, PpeColumns
from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.registry import ModelError
from crowdperf.runtime.metrics import Metrics

SCAN_S = 1.0
RESCAN_S = 0.05
"""A doorbell that no open ring explains means a new ring: look at once, but no oftener than this."""

log = logging.getLogger(__name__)


class PendingDetections(NamedTuple):
    """A frame whose message waits for what the PPE model sees."""

    ppe_frame: PpeFrame
    spec: RingSpec
    stamp: FrameStamp
    detections: Detections


class Batch(NamedTuple):
    """Frames that are being computed, by the detector that began with them."""

    detector: Detector
    frames: list[ScheduledFrame]
    specs: list[RingSpec]
    stamps: list[FrameStamp | None]
    """None for a frame that was overwritten while it was loaded."""
    ppe_frame: PpeFrame | None
    """The picture that the PPE model is to look at."""
    started: float


class InferenceEngine:
    """The parts of the inference process, wired; `clock` is the monotonic clock in seconds."""

    def __init__(
        self,
        person_slot: ModelSlot,
        ppe_stage: PpeStage,
        rings: RingSet,
        scheduler: FrameScheduler,
        outbox: DetectionSink,
        metrics: Metrics,
        clock: Callable[[], float],
        empty_every_s: float = 0,
    ) -> None:
        self._person_slot, self._ppe_stage = person_slot, ppe_stage
        self._rings, self._scheduler, self._outbox = rings, scheduler, outbox
        self._metrics, self._clock = metrics, clock
        self._stats = InferenceMetrics(metrics, clock())
        self._scanned_at = float("-inf")
        self._pins_rings = False
        """Whether rings are page-locked."""
        self._in_flight: Batch | None = None
        self._last_finished_at = float("-inf")
        """When the newest batch was finished."""
        self._empty_every_s, self._emptied_at = empty_every_s, clock()
        if person_slot.detector is not None:
            self._announce_model()

    @property
    def ages_ms(self) -> list[float]:
        """How old the newest published frames were."""
        return list(self._stats.ages_ms.values)

    @property
    def _detector(self) -> Detector:
        detector = self._person_slot.detector
        assert detector is not None, "a turn without a person model analyses nothing"
        return detector

    def _announce_model(self) -> None:
        """Tell which model works; /readyz takes this for the sign that frames are analysed."""
        self._metrics.set_text("model", self._detector.model)
        self._metrics.set_text("device", self._detector.description)
        runtime = self._detector.backend
        if runtime.pins and not self._pins_rings:
            self._pins_rings = True
            self._rings.enable_pinning(runtime.pin, runtime.unpin)
            self._scanned_at = float("-inf")

    def step(self, doorbell_rang: bool) -> bool:
        """Analyse one batch if any frame is due.

        Args:
            rung: the doorbell has rung since the last turn.

        Returns:
            Whether a batch was taken: more may be due at once, so come again before waiting.
        """
        # 0. between two batches, a model that has become ready takes over
        if self._person_slot.poll(self._clock()):
            self._announce_model()
        self._metrics.set_text("last_error", self._person_slot.error)
        self._ppe_stage.poll(self._clock())
        if self._person_slot.detector is None:
            self._skip_without_model()
            return False
        # 1. collect
        began = self._clock()
        arrived = self._collect()
        now = self._clock()
        if now - self._scanned_at >= (RESCAN_S if doorbell_rang and not arrived else SCAN_S):
            self._scan(now)
            self._collect()
        picked = self._scheduler.take(self._clock(), self._detector.backend.max_batch)
        self._stats.stages.add("collect", self._clock() - began)
        # 2, 3. load and verify; begin to compute
        batch = self._start_batch(picked) if picked else None
        # 4, 5. publish: on a device that overlaps, the batch before this one, while this one is computed
        before, self._in_flight = self._in_flight, batch
        if before:
            self._finish_batch(before)
        if batch and not batch.detector.backend.overlaps:
            self._in_flight = None
            self._finish_batch(batch)
        self._outbox.flush(self._clock())
        self._stats.stages.add("publish", self._outbox.take_send_time_s())
        self._stats.record_drops(self._scheduler.drain_drops())
        self._stats.report(self._clock(), list(self._rings.rings), len(self._outbox), self._outbox.lost)
        return bool(picked) or self._in_flight is not None

    def _skip_without_model(self) -> None:
        """There is no person model yet: nobody can be found. Frames are counted, and the PPE model is got ready."""
        now = self._clock()
        if now - self._scanned_at >= RESCAN_S:
            self._scan(now)
        for arrival in self._rings.iter_arrivals():
            self._ppe_stage.ensure_model(self._rings.rings[arrival.camera].reader.spec)
            self._scheduler.record_drop(arrival.camera, "no_model")
        self._stats.record_drops(self._scheduler.drain_drops())
        self._stats.report(now, list(self._rings.rings), len(self._outbox), self._outbox.lost)

    def _collect(self) -> int:
        count = 0
        for arrival in self._rings.iter_arrivals():
            # A size that the model has yet to be compiled for delays its own camera, never another.
            if self._detector.ready(self._rings.rings[arrival.camera].reader.spec):
                self._scheduler.offer(*arrival)
            else:
                self._scheduler.record_drop(arrival.camera, "warming")
            count += 1
        return count

    def _scan(self, now: float) -> None:
        self._scanned_at = now
        began, ended = self._rings.scan(now)
        for camera in ended:
            self._scheduler.remove(camera)
            self._stats.forget(camera)
            self._ppe_stage.forget(camera)
        for camera in began:
            self._scheduler.add(camera, self._rings.rings[camera].reader.spec)

    def _start_batch(self, frames: list[ScheduledFrame]) -> Batch | None:
        """Load, verify and start; None where the model cannot run at this geometry."""
        detector, started = self._detector, self._clock()
        # The picture is taken straight out of the ring, so only after `load` is it known to be whole.
        readers = [self._rings.rings[one.camera].reader for one in frames]
        stamps = [reader.stamp(one.sequence) for reader, one in zip(readers, frames)]
        specs = [reader.spec for reader in readers]
        try:
            detector.load([reader.picture(one.sequence) for reader, one in zip(readers, frames)], specs)
            loaded = self._clock()
            kept = self._select_ppe_frame(frames, readers)
            self._stats.stages.add("copy", self._clock() - loaded)
            whole = [
                stamp if reader.intact(one.sequence) else None for reader, one, stamp in zip(readers, frames, stamps)
            ]
            detector.start()
        except ModelError as error:
            self._drop_unsupported(frames, str(error))
            return None
        return Batch(detector, frames, specs, whole, kept, started)

    def _finish_batch(self, batch: Batch) -> None:
        """Publish what was found, then let the PPE model look at the one picture that was kept for it."""
        found = batch.detector.finish(batch.specs)
        ended = self._clock()
        # What it waited for the batch before is that one's cost.
        cost = ended - max(batch.started, self._last_finished_at)
        self._last_finished_at = ended
        self._stats.record_batch(len(batch.frames), cost)
        self._stats.add_timings(batch.detector.backend.stages)
        self._scheduler.record_cost(batch.frames[0].camera, cost / len(batch.frames))
        kept, held = batch.ppe_frame, None
        for one, spec, stamp, detections in zip(batch.frames, batch.specs, batch.stamps, found):
            if stamp is None:
                self._scheduler.record_drop(one.camera, "lapped")
                if kept is not None and (kept.camera, kept.sequence) == (one.camera, one.sequence):
                    self._ppe_stage.cancel(one.camera)
            elif kept is not None and (kept.camera, kept.sequence) == (one.camera, one.sequence):
                held = PendingDetections(kept, spec, stamp, detections)
            else:
                self._publish(one.camera, spec, stamp, detections)
        self._outbox.flush(self._clock())
        if held:
            # The frames of everybody else are on their way by now.
            began = self._clock()
            columns = self._ppe_stage.run(held.ppe_frame, held.spec, held.stamp, held.detections, self._clock)
            self._stats.stages.add("ppe", self._clock() - began)
            self._publish(held.ppe_frame.camera, held.spec, held.stamp, held.detections, columns)
        now = self._clock()
        if self._empty_every_s and now - self._emptied_at >= self._empty_every_s:
            self._emptied_at = now
            batch.detector.backend.empty_cache()

    def _select_ppe_frame(self, frames: list[ScheduledFrame], readers: list[FrameReader]) -> PpeFrame | None:
        """A copy of the one picture that the PPE model is to look at: each camera's newest of this batch will do."""
        newest = {one.camera: index for index, one in enumerate(frames)}
        for index in newest.values():
            one = frames[index]
            kept = self._ppe_stage.select(one.camera, readers[index], one.sequence, one.arrived, self._clock())
            if kept is not None:
                return kept
        return None

    def _publish(
        self, camera: str, spec: RingSpec, stamp: FrameStamp, detections: Detections, ppe: PpeColumns | None = None
    ) -> None:
        self._outbox.put(build_frame_detections(camera, spec, stamp, detections, ppe))
        self._stats.record_frame(camera, self._clock() - stamp.monotonic_ns / 1e9)

    def _drop_unsupported(self, frames: list[ScheduledFrame], reason: str) -> None:
        """The model cannot run at this geometry: those cameras get the reason, the others go on."""
        for one in frames:
            self._scheduler.record_drop(one.camera, "refused")
            if self._metrics.get_counter("drops_refused", one.camera) == 0:
                log.error("camera %s: %s", one.camera, reason)
            self._metrics.set_text("last_error", reason, one.camera)


def build_frame_detections(
    camera: str, spec: RingSpec, stamp: FrameStamp, detections: Detections, ppe: PpeColumns | None = None
) -> FrameDetections:
    """The frame's detections in the form that travels."""
    return FrameDetections(
        camera=camera,
        epoch=stamp.epoch,
        sequence=stamp.sequence,
        captured_at_ns=stamp.captured_at_ns,
        boxes=detections.boxes.astype("<f4").tobytes(),
        scores=detections.scores.astype("<f4").tobytes(),
        classes=detections.classes.tobytes(),
        source_width=spec.source_width,
        source_height=spec.source_height,
        ppe=ppe,
    )
