"""Run the PPE model on some of the frames, behind the person model.

The model is loaded when the first camera with a PPE rule appears. Until it is ready, frames are published without PPE.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameStamp, RingSpec
from crowdperf.inference.camera_feed import CAMERA_IDLE_S, CameraFeed
from crowdperf.inference.evidence_cache import EvidenceCache, FrameAnalysis
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_items import detect_ppe
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.postprocess import Detections
from crowdperf.models.registry import ModelError
from crowdperf.runtime.metrics import Metrics

MIN_WAIT_RATIO = 0.5
"""A camera that has waited for less than this share of the longest wait lets others go first."""
PPE_REST_FACTOR = 1.0
"""The model rests this many times as long as it worked: at least half of the machine is left for counting."""

log = logging.getLogger(__name__)


class LoadedFrame(NamedTuple):
    """A frame that the person model has taken out of its ring."""

    feed: CameraFeed
    stamp: FrameStamp | None
    """None if the frame was overwritten while it was loaded."""


class PpeFrame(NamedTuple):
    """A frame for the PPE model, with a copy of its picture."""

    batch_index: int
    """Index in its batch."""
    feed: CameraFeed
    stamp: FrameStamp
    pixels: NDArray[np.uint8]


class PpeCadence:
    """Decides when a camera's turn comes: at most `ppe_fps` times a second.

    The model rests after each frame. If there is not enough time for all cameras, those that have waited longest go
    first. Batches repeat their order, so without this rule their first camera would be served every time.
    """

    def __init__(self) -> None:
        self._rest_until = float("-inf")

    def admit(self, feed: CameraFeed, feeds: Iterable[CameraFeed], arrived: float, now: float) -> bool:
        """Admit a frame if its camera's turn has come; the camera counts as served then.

        Args:
            feed: of the frame's camera.
            feeds: of all cameras.
            arrived: when the frame arrived, monotonic seconds.
            now: monotonic seconds.

        Returns:
            True if the PPE model analyses the frame.
        """
        fps = feed.spec.ppe_fps
        if fps <= 0:
            return False
        if feed.ppe_served_at is None:
            feed.ppe_served_at = arrived - 1 / fps
        feed.ppe_frame_at = now
        # Frames have a rhythm of their own: half a period early is nearer to the rate than half a period late.
        if now < self._rest_until or (arrived - feed.ppe_served_at) * fps < 0.95:
            return False
        longest = max(other.get_ppe_wait(now) for other in feeds if now - other.ppe_frame_at <= CAMERA_IDLE_S)
        if feed.get_ppe_wait(now) < MIN_WAIT_RATIO * longest:
            return False
        feed.ppe_served_at = arrived
        return True

    def cancel(self, feed: CameraFeed) -> None:
        """Give the turn back: the camera's next frame is due at once."""
        if feed.ppe_served_at is not None:
            feed.ppe_served_at -= 1 / feed.spec.ppe_fps

    def record_busy(self, now: float, spent_s: float) -> None:
        """Let the model rest after `spent_s` of work that ended at `now`."""
        self._rest_until = now + PPE_REST_FACTOR * spent_s


class PpeStage:
    """Selects a frame for the PPE model and runs it.

    It takes one frame of a batch at most, so that other cameras wait for one only.

    Args:
        slot: of the PPE model; empty at first.
        request_model: starts to load the model.
        metrics: where counters and texts go.
        cache: receives every picture with people.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        slot: ModelSlot,
        request_model: Callable[[], None],
        metrics: Metrics,
        cache: EvidenceCache,
        clock: Callable[[], float],
    ) -> None:
        self._slot, self._request_model = slot, request_model
        self._metrics, self._cache, self._clock = metrics, cache, clock
        self._cadence = PpeCadence()
        self._failure = ""
        """Why the model failed on its newest frame; empty if it did not."""

    def poll(self) -> None:
        """Take over a model that has become ready; call between two batches."""
        if self._slot.poll(self._clock()) and self._slot.detector is not None:
            self._metrics.set_text("ppe_model", self._slot.detector.model)
        if self._slot.has_model:
            self._metrics.set_text("ppe_error", self._slot.error or self._failure)

    def ensure_model(self, spec: RingSpec) -> None:
        """Request the model if a camera of this geometry has a PPE rule."""
        if spec.ppe_fps and not self._slot.has_model:
            self._request_model()

    def select(self, frames: Sequence[LoadedFrame], feeds: Iterable[CameraFeed]) -> PpeFrame | None:
        """Copy the picture of the frame whose turn has come, before the writer overwrites its slot.

        Of each camera only the newest frame of the batch is considered.
        """
        newest = {frame.feed: index for index, frame in enumerate(frames)}
        for feed, index in newest.items():
            stamp = frames[index].stamp
            if not feed.spec.ppe_fps or stamp is None:
                continue
            self.ensure_model(feed.spec)
            if self._slot.detector is None:
                continue
            if self._cadence.admit(feed, feeds, stamp.monotonic_ns / 1e9, self._clock()):
                pixels = feed.reader.picture(stamp.sequence).copy()
                if feed.reader.intact(stamp.sequence):
                    return PpeFrame(index, feed, stamp, pixels)
                self._cadence.cancel(feed)
                return None
        return None

    def run(self, frame: PpeFrame, detections: Detections) -> PpeColumns | None:
        """Detect what the people of a selected frame wear; a picture with people goes to the evidence cache.

        Where the model fails, the result is None: the frame counts without it.
        """
        detector = self._slot.detector
        assert detector is not None, "frames are selected only when there is a model"
        camera, began = frame.feed.camera, self._clock()
        try:
            columns = detect_ppe(detector, frame.pixels, frame.feed.spec, detections)
        except (ModelError, RuntimeError) as error:
            self._metrics.count("ppe_failures", 1, camera)
            if self._failure != str(error):
                log.error("camera %s: the PPE model failed", camera, exc_info=error)
            self._failure = str(error)
            return None
        finally:
            ended = self._clock()
            self._cadence.record_busy(ended, ended - began)
        self._failure = ""
        self._metrics.count("ppe_frames", 1, camera)
        self._metrics.count("ppe_people", len(columns.persons) // 2, camera)
        self._metrics.set_gauge("ppe_ms", (ended - began) * 1000)
        if columns.persons:
            self._cache.put(camera, frame.pixels, FrameAnalysis(frame.stamp, frame.feed.spec, detections, columns))
        return columns
