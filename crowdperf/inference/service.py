"""One turn of the inference process, step by step: collect, load and verify, infer, publish, look at PPE."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from crowdperf.events.outbox import Sending
from crowdperf.events.schema import FrameDetections, PpeColumns
from crowdperf.frames.ring import FrameReader, FrameStamp, RingSpec
from crowdperf.inference.cameras import Cameras
from crowdperf.inference.detector import Detector
from crowdperf.inference.inspector import Inspector, Kept
from crowdperf.inference.nms import Found
from crowdperf.inference.registry import ModelError
from crowdperf.inference.schedule import Picked, Schedule
from crowdperf.inference.seat import Seat
from crowdperf.inference.stats import Stats
from crowdperf.runtime import Metrics

SCAN_S = 1.0
RESCAN_S = 0.05
"""A doorbell that no open ring explains means a new ring: look at once, but no oftener than this."""

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """A frame whose message waits for what the PPE model sees."""

    kept: Kept
    spec: RingSpec
    stamp: FrameStamp
    found: Found


class Batch(NamedTuple):
    """Frames that are being computed, by the detector that began with them."""

    detector: Detector
    picked: list[Picked]
    specs: list[RingSpec]
    stamps: list[FrameStamp | None]
    """None for a frame that was overwritten while it was loaded."""
    kept: Kept | None
    """The picture that the PPE model is to look at."""
    started: float


class Service:
    """The parts of the inference process, wired; `clock` is the monotonic clock in seconds."""

    def __init__(
        self,
        people: Seat,
        inspector: Inspector,
        cameras: Cameras,
        schedule: Schedule,
        outbox: Sending,
        metrics: Metrics,
        clock: Callable[[], float],
        empty_every_s: float = 0,
    ) -> None:
        self._people, self._inspector = people, inspector
        self._cameras, self._schedule, self._outbox = cameras, schedule, outbox
        self._metrics, self._clock = metrics, clock
        self._stats = Stats(metrics, clock())
        self._scanned_at = float("-inf")
        self._locks = False
        """Whether rings are page-locked."""
        self._flight: Batch | None = None
        self._ended = float("-inf")
        """When the newest batch was finished."""
        self._empty_every_s, self._emptied_at = empty_every_s, clock()
        if people.detector is not None:
            self._announce()

    @property
    def ages_ms(self) -> list[float]:
        """How old the newest published frames were."""
        return list(self._stats.ages_ms.values)

    @property
    def _detector(self) -> Detector:
        detector = self._people.detector
        assert detector is not None, "a turn without a person model analyses nothing"
        return detector

    def _announce(self) -> None:
        """Tell which model works; /readyz takes this for the sign that frames are analysed."""
        self._metrics.text("model", self._detector.model)
        self._metrics.text("device", self._detector.where)
        runtime = self._detector.runtime
        if runtime.pins and not self._locks:
            self._locks = True
            self._cameras.lock_with(runtime.pin, runtime.unpin)
            self._scanned_at = float("-inf")

    def turn(self, rung: bool) -> bool:
        """Analyse one batch if any frame is due.

        Args:
            rung: the doorbell has rung since the last turn.

        Returns:
            Whether a batch was taken: more may be due at once, so come again before waiting.
        """
        # 0. between two batches, a model that has become ready takes over
        if self._people.settle(self._clock()):
            self._announce()
        self._metrics.text("last_error", self._people.error)
        self._inspector.settle(self._clock())
        if self._people.detector is None:
            self._pass_over()
            return False
        # 1. collect
        began = self._clock()
        arrived = self._collect()
        now = self._clock()
        if now - self._scanned_at >= (RESCAN_S if rung and not arrived else SCAN_S):
            self._scan(now)
            self._collect()
        picked = self._schedule.take(self._clock(), self._detector.runtime.max_batch)
        self._stats.stages.add("collect", self._clock() - began)
        # 2, 3. load and verify; begin to compute
        batch = self._begin(picked) if picked else None
        # 4, 5. publish: on a device that overlaps, the batch before this one, while this one is computed
        before, self._flight = self._flight, batch
        if before:
            self._finish(before)
        if batch and not batch.detector.runtime.overlaps:
            self._flight = None
            self._finish(batch)
        self._outbox.flush(self._clock())
        self._stats.stages.add("publish", self._outbox.take_spent())
        self._stats.dropped(self._schedule.drain_drops())
        self._stats.report(self._clock(), list(self._cameras.open), len(self._outbox), self._outbox.lost)
        return bool(picked) or self._flight is not None

    def _pass_over(self) -> None:
        """There is no person model yet: nobody can be found. Frames are counted, and the PPE model is got ready."""
        now = self._clock()
        if now - self._scanned_at >= RESCAN_S:
            self._scan(now)
        for arrival in self._cameras.arrivals():
            self._inspector.expect(self._cameras.open[arrival.camera].reader.spec)
            self._schedule.drop(arrival.camera, "no_model")
        self._stats.dropped(self._schedule.drain_drops())
        self._stats.report(now, list(self._cameras.open), len(self._outbox), self._outbox.lost)

    def _collect(self) -> int:
        count = 0
        for arrival in self._cameras.arrivals():
            # A size that the model has yet to be compiled for delays its own camera, never another.
            if self._detector.ready(self._cameras.open[arrival.camera].reader.spec):
                self._schedule.offer(*arrival)
            else:
                self._schedule.drop(arrival.camera, "warming")
            count += 1
        return count

    def _scan(self, now: float) -> None:
        self._scanned_at = now
        began, ended = self._cameras.scan(now)
        for camera in ended:
            self._schedule.remove(camera)
            self._stats.forget(camera)
            self._inspector.forget(camera)
        for camera in began:
            self._schedule.add(camera, self._cameras.open[camera].reader.spec)

    def _begin(self, picked: list[Picked]) -> Batch | None:
        """Load, verify and start; None where the model cannot run at this geometry."""
        detector, started = self._detector, self._clock()
        # The picture is taken straight out of the ring, so only after `load` is it known to be whole.
        readers = [self._cameras.open[one.camera].reader for one in picked]
        stamps = [reader.stamp(one.sequence) for reader, one in zip(readers, picked)]
        specs = [reader.spec for reader in readers]
        try:
            detector.load([reader.picture(one.sequence) for reader, one in zip(readers, picked)], specs)
            loaded = self._clock()
            kept = self._keep(picked, readers)
            self._stats.stages.add("copy", self._clock() - loaded)
            whole = [
                stamp if reader.intact(one.sequence) else None for reader, one, stamp in zip(readers, picked, stamps)
            ]
            detector.start()
        except ModelError as error:
            self._refuse(picked, str(error))
            return None
        return Batch(detector, picked, specs, whole, kept, started)

    def _finish(self, batch: Batch) -> None:
        """Publish what was found, then let the PPE model look at the one picture that was kept for it."""
        found = batch.detector.finish(batch.specs)
        ended = self._clock()
        # What it waited for the batch before is that one's cost.
        cost = ended - max(batch.started, self._ended)
        self._ended = ended
        self._stats.batch(len(batch.picked), cost)
        self._stats.computed(batch.detector.runtime.stages)
        self._schedule.charge(batch.picked[0].camera, cost / len(batch.picked))
        kept, held = batch.kept, None
        for one, spec, stamp, detections in zip(batch.picked, batch.specs, batch.stamps, found):
            if stamp is None:
                self._schedule.drop(one.camera, "lapped")
                if kept is not None and (kept.camera, kept.sequence) == (one.camera, one.sequence):
                    self._inspector.give_back(one.camera)
            elif kept is not None and (kept.camera, kept.sequence) == (one.camera, one.sequence):
                held = Held(kept, spec, stamp, detections)
            else:
                self._publish(one.camera, spec, stamp, detections)
        self._outbox.flush(self._clock())
        if held:
            # The frames of everybody else are on their way by now.
            began = self._clock()
            columns = self._inspector.look(held.kept, held.spec, held.stamp, held.found, self._clock)
            self._stats.stages.add("ppe", self._clock() - began)
            self._publish(held.kept.camera, held.spec, held.stamp, held.found, columns)
        now = self._clock()
        if self._empty_every_s and now - self._emptied_at >= self._empty_every_s:
            self._emptied_at = now
            batch.detector.runtime.empty_cache()

    def _keep(self, picked: list[Picked], readers: list[FrameReader]) -> Kept | None:
        """A copy of the one picture that the PPE model is to look at: each camera's newest of this batch will do."""
        newest = {one.camera: index for index, one in enumerate(picked)}
        for index in newest.values():
            one = picked[index]
            kept = self._inspector.keep(one.camera, readers[index], one.sequence, one.arrived, self._clock())
            if kept is not None:
                return kept
        return None

    def _publish(
        self, camera: str, spec: RingSpec, stamp: FrameStamp, found: Found, ppe: PpeColumns | None = None
    ) -> None:
        self._outbox.put(message(camera, spec, stamp, found, ppe))
        self._stats.analysed(camera, self._clock() - stamp.monotonic_ns / 1e9)

    def _refuse(self, picked: list[Picked], reason: str) -> None:
        """The model cannot run at this geometry: those cameras get the reason, the others go on."""
        for one in picked:
            self._schedule.drop(one.camera, "refused")
            if self._metrics.counter("drops_refused", one.camera) == 0:
                log.error("camera %s: %s", one.camera, reason)
            self._metrics.text("last_error", reason, one.camera)


def message(
    camera: str, spec: RingSpec, stamp: FrameStamp, found: Found, ppe: PpeColumns | None = None
) -> FrameDetections:
    """The frame's detections in the form that travels."""
    return FrameDetections(
        camera=camera,
        epoch=stamp.epoch,
        sequence=stamp.sequence,
        captured_at_ns=stamp.captured_at_ns,
        boxes=found.boxes.astype("<f4").tobytes(),
        scores=found.scores.astype("<f4").tobytes(),
        classes=found.classes.tobytes(),
        source_width=spec.source_width,
        source_height=spec.source_height,
        ppe=ppe,
    )
