"""Run the inference loop: collect frames, compute a batch, publish detections, run the PPE model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.inference.analyzers import Analyzer, Frame, Looks, WholePictures, create_analyzer
from crowdperf.inference.camera_feed import CameraFeed
from crowdperf.inference.metrics import InferenceMetrics
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_stage import LoadedFrame, PpeFrame, PpeStage
from crowdperf.inference.regions.planner import MergedDetections
from crowdperf.inference.rings import RingSet
from crowdperf.inference.scheduler import FrameScheduler, ScheduledFrame
from crowdperf.messaging.outbox import BackgroundSender
from crowdperf.messaging.schema import FrameDetections, PpeColumns
from crowdperf.models.detector import Detector
from crowdperf.models.postprocess import Detections
from crowdperf.models.registry import ModelError
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import InferenceConfig

SCAN_S = 1.0
RESCAN_S = 0.05
"""Minimum time between two scans when the doorbell rings although no open ring has a frame: a new ring."""
MAX_FAILED_BATCHES = 5
"""Failures of the model in a row that end the process: the device may need a restart."""

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Frames in computation."""

    frames: list[LoadedFrame]
    ppe_frame: PpeFrame | None
    """The frame that the PPE model analyses too."""
    started: float
    looks: Looks


class InferenceEngine:
    """The inference loop over its parts.

    Args:
        config: of the process.
        person_slot: of the person model.
        ppe_stage: runs the PPE model behind it.
        rings: the cameras' rings.
        outbox: where detections go.
        metrics: where counters and texts go.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        config: InferenceConfig,
        person_slot: ModelSlot,
        ppe_stage: PpeStage,
        rings: RingSet,
        outbox: BackgroundSender,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._analysis = config.settings.analysis
        self._analyzer: Analyzer = WholePictures()
        self._person_slot, self._ppe_stage = person_slot, ppe_stage
        self._rings, self._outbox = rings, outbox
        self._scheduler = FrameScheduler(config.queue_max, config.settings.staleness_s)
        self._metrics, self._clock = metrics, clock
        self._stats = InferenceMetrics(metrics, clock())
        self._scanned_at = float("-inf")
        self._pins_rings = False
        """True if rings are page-locked."""
        self._in_flight: Batch | None = None
        self._failed_batches = 0
        """Failures of the model since the last batch that it computed."""
        self._last_finished_at = float("-inf")
        """When the newest batch was finished."""
        self._empty_every_s, self._emptied_at = config.cuda_empty_every, clock()
        if person_slot.detector is not None:
            self._announce_model(person_slot.detector)

    def step(self, doorbell_rang: bool) -> bool:
        """Analyse one batch if any frame is due; True if there was one, since more frames may be due."""
        # 1. Take over models that have become ready.
        detector = self._poll_models()
        if detector is None:
            self._skip_without_model()
            return False
        # 2. Collect new frames and choose those to analyse now.
        frames = self._collect(detector, doorbell_rang)
        # 3. Load them and start the network.
        batch = self._start_batch(detector, frames) if frames else None
        # 4. Publish. A device that overlaps computes this batch while the one before it is published.
        finished, self._in_flight = self._in_flight, batch
        if finished:
            self._finish_batch(finished)
        # Without a region there is nothing to wait for.
        if batch and not (detector.backend.overlaps and batch.looks.inputs):
            self._in_flight = None
            self._finish_batch(batch)
        # 5. Send and report.
        self._outbox.request_flush()
        self._stats.stages.add("publish", self._outbox.take_send_time_s())
        self._report()
        # A camera's next frame may have waited for this one.
        freed = finished is not None and any(frame.feed.pending for frame in finished.frames)
        return bool(frames) or self._in_flight is not None or freed

    def _poll_models(self) -> Detector | None:
        """Return the person model, or None if there is none yet."""
        has_changed = self._person_slot.poll(self._clock())
        detector = self._person_slot.detector
        if has_changed and detector is not None:
            self._announce_model(detector)
        self._metrics.set_text("last_error", self._person_slot.error)
        self._ppe_stage.poll()
        return detector

    def _announce_model(self, detector: Detector) -> None:
        """Report which model works (/readyz waits for it), and page-lock the rings if its device can."""
        self._metrics.set_text("model", detector.model)
        self._metrics.set_text("device", detector.description)
        for feed in self._rings.feeds.values():
            feed.forget_looks()
        if self._in_flight is None:
            self._analyzer = create_analyzer(self._analysis, detector.backend.device)
        backend = detector.backend
        if backend.pins and not self._pins_rings:
            self._pins_rings = True
            self._rings.enable_pinning(backend.pin, backend.unpin)
            self._scanned_at = float("-inf")

    def _skip_without_model(self) -> None:
        """Count the frames that arrive before the person model is loaded, and request the PPE model."""
        now = self._clock()
        if now - self._scanned_at >= RESCAN_S:
            self._scan(now)
        for arrival in self._rings.iter_arrivals():
            self._ppe_stage.ensure_model(arrival.feed.spec)
            arrival.feed.record_drop("no_model")
        self._report()

    def _collect(self, detector: Detector, doorbell_rang: bool) -> list[ScheduledFrame]:
        """Offer new frames to the scheduler and take the frames of the next batch."""
        began = self._clock()
        has_arrivals = self._offer_arrivals(detector)
        now = self._clock()
        if now - self._scanned_at >= (RESCAN_S if doorbell_rang and not has_arrivals else SCAN_S):
            self._scan(now)
            self._offer_arrivals(detector)
        limit = detector.backend.max_batch * self._analyzer.batch_factor
        frames = self._scheduler.take(self._rings.feeds.values(), self._clock(), limit)
        self._stats.stages.add("collect", self._clock() - began)
        return frames

    def _offer_arrivals(self, detector: Detector) -> bool:
        """Offer new frames to the scheduler; True if there were any."""
        has_arrivals = False
        for arrival in self._rings.iter_arrivals():
            # A size for which the model is not compiled yet delays its own camera only.
            if all(map(detector.ready, self._analyzer.get_specs([arrival.feed.spec]))):
                self._analyzer.prepare(arrival.feed)
                self._scheduler.offer(*arrival)
            else:
                arrival.feed.record_drop("warming")
            has_arrivals = True
        return has_arrivals

    def _scan(self, now: float) -> None:
        self._scanned_at = now
        for feed in self._rings.scan(now):
            self._stats.record_gone(feed)
        detector = self._person_slot.detector
        if detector is not None:
            detector.retain(self._analyzer.get_specs([feed.spec for feed in self._rings.feeds.values()]))

    def _start_batch(self, detector: Detector, frames: list[ScheduledFrame]) -> Batch | None:
        """Load and verify frames and start the network; None if the model cannot run at this geometry."""
        started = self._clock()
        stamps = [frame.feed.reader.stamp(frame.sequence) for frame in frames]
        try:
            pictures = [frame.feed.reader.picture(frame.sequence) for frame in frames]
            looks = self._analyzer.load(
                detector, [Frame(frame.feed, picture, frame.arrived) for frame, picture in zip(frames, pictures)]
            )
            # Pictures are loaded straight from the ring: only now is it known which of them are whole.
            loaded = [
                LoadedFrame(frame.feed, stamp if frame.feed.reader.intact(frame.sequence) else None)
                for frame, stamp in zip(frames, stamps, strict=True)
            ]
            copying = self._clock()
            ppe_frame = self._ppe_stage.select(loaded, self._rings.feeds.values())
            self._stats.stages.add("copy", self._clock() - copying)
            self._analyzer.start(looks)
        except ModelError as error:
            self._drop_unsupported(frames, str(error))
            return None
        except RuntimeError as error:
            self._drop_failed([frame.feed for frame in frames], error)
            return None
        return Batch(loaded, ppe_frame, started, looks)

    def _finish_batch(self, batch: Batch) -> None:
        """Publish a batch's detections; the frame that the PPE model analyses comes last."""
        try:
            found = self._analyzer.finish(batch.looks)
        except (ModelError, RuntimeError) as error:
            self._drop_failed([frame.feed for frame in batch.frames], error)
            return
        self._failed_batches = 0
        self._record_cost(batch)
        selected = batch.ppe_frame
        for index, frame in enumerate(batch.frames):
            if frame.stamp is None:
                frame.feed.record_drop("lapped")
                frame.feed.forget_looks()
            elif selected is None or index != selected.batch_index:
                self._publish(frame.feed, frame.stamp, found[index])
        # The other cameras' detections are sent while the PPE model works.
        self._outbox.request_flush()
        if selected is not None:
            began = self._clock()
            result = found[selected.batch_index]
            columns = self._ppe_stage.run(selected, result.detections)
            self._stats.stages.add("ppe", self._clock() - began)
            self._publish(selected.feed, selected.stamp, result, columns)
        now = self._clock()
        if self._empty_every_s and now - self._emptied_at >= self._empty_every_s:
            self._emptied_at = now
            batch.looks.detector.backend.empty_cache()

    def _record_cost(self, batch: Batch) -> None:
        """Charge a finished batch for its own time, without its wait for the batch before it."""
        now = self._clock()
        cost = now - max(batch.started, self._last_finished_at)
        self._last_finished_at = now
        self._stats.record_batch(len(batch.frames), cost)
        self._stats.add_timings(batch.looks.detector.backend.stages)
        if batch.looks.inputs:
            self._scheduler.record_cost(batch.frames[0].feed.geometry, cost / batch.looks.inputs)

    def _publish(
        self, feed: CameraFeed, stamp: FrameStamp, found: MergedDetections, ppe: PpeColumns | None = None
    ) -> None:
        self._outbox.put(build_frame_detections(feed.camera, feed.spec, stamp, found.detections, ppe, found.carried))
        self._stats.record_frame(feed, self._clock() - stamp.monotonic_ns / 1e9)
        if feed.error:
            feed.error = ""
            self._metrics.set_text("last_error", "", feed.camera)

    def _drop_unsupported(self, frames: list[ScheduledFrame], error: str) -> None:
        """Drop frames of a geometry at which the model cannot run; the other cameras go on."""
        for frame in frames:
            frame.feed.record_drop("refused")
            frame.feed.forget_looks()
            self._metrics.set_text("last_error", error, frame.feed.camera)
            if frame.feed.error != error:
                frame.feed.error = error
                log.error("camera %s: %s", frame.feed.camera, error)

    def _drop_failed(self, feeds: list[CameraFeed], error: Exception) -> None:
        """Drop the frames of a batch on which the model failed.

        Raises:
            RuntimeError: it failed on several batches in a row.
        """
        self._failed_batches += 1
        for feed in feeds:
            feed.record_drop("failed")
            feed.forget_looks()
        if self._failed_batches >= MAX_FAILED_BATCHES:
            raise RuntimeError(f"the model failed on {MAX_FAILED_BATCHES} batches in a row") from error
        log.error("the model failed on a batch, inference goes on with the next one", exc_info=error)

    def _report(self) -> None:
        self._stats.report(self._clock(), self._rings.feeds.values(), len(self._outbox), self._outbox.lost)


def build_frame_detections(
    camera: str,
    spec: RingSpec,
    stamp: FrameStamp,
    detections: Detections,
    ppe: PpeColumns | None = None,
    carried: NDArray[np.bool_] | None = None,
) -> FrameDetections:
    """Convert a frame's detections to the message for the stream.

    Args:
        camera: its id.
        spec: geometry of its ring.
        stamp: of the frame.
        detections: of the person model, boxes normalised to the source.
        ppe: what the people wear; None if the PPE model did not analyse the frame.
        carried: (n,), which detections are from a frame before; None for none.

    Returns:
        The message.
    """
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
        carried=carried.astype(np.uint8).tobytes() if carried is not None and carried.any() else b"",
    )
