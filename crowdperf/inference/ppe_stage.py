"""The PPE model's place in a turn: which frames it looks at, and what it makes of them.

It is loaded when the first camera with a PPE rule appears, beside the work. Without it, or while it is prepared, frames
are published as if nobody had asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import FrameReader, FrameStamp, RingSpec
from crowdperf.inference.evidence_cache import EvidenceCache, FrameAnalysis
from crowdperf.inference.model_slots import ModelSlot
from crowdperf.inference.ppe_items import Cadence, detect_ppe
from crowdperf.messaging.schema import PpeColumns
from crowdperf.models.postprocess import Detections
from crowdperf.runtime.metrics import Metrics


class PpeFrame(NamedTuple):
    """A picture that the PPE model is to look at, copied out of its ring."""

    camera: str
    sequence: int
    pixels: NDArray[np.uint8]


class PpeStage:
    """Looks at one picture a turn at most, so that the other cameras' next frames wait for one and not for many.

    Args:
        seat: of the PPE model; empty at first.
        ask: has it prepared, beside the work.
        metrics: where counters and texts go.
        keeper: gets every picture that was looked at.
    """

    def __init__(
        self, slot: ModelSlot, request_model: Callable[[], None], metrics: Metrics, cache: EvidenceCache
    ) -> None:
        self._slot = slot
        self._request_model = request_model
        self._metrics = metrics
        self._cache = cache
        self._cadence = Cadence()

    def poll(self, now: float) -> None:
        """Between two batches: take a model that has become ready; `now` in monotonic seconds."""
        if self._slot.poll(now) and self._slot.detector is not None:
            self._metrics.set_text("ppe_model", self._slot.detector.model)
        if self._slot.has_model:
            self._metrics.set_text("ppe_error", self._slot.error)

    def ensure_model(self, spec: RingSpec) -> None:
        """A camera sends pictures of this geometry: get the model if it has a PPE rule."""
        if spec.ppe_fps and not self._slot.has_model:
            self._request_model()

    def select(self, camera: str, reader: FrameReader, sequence: int, arrived: float, now: float) -> PpeFrame | None:
        """The frame's picture if it is to be looked at: ask `reader.intact` after this."""
        if not reader.spec.ppe_fps:
            return None
        self.ensure_model(reader.spec)
        if self._slot.detector is None or not self._cadence.admit(camera, reader.spec.ppe_fps, arrived, now):
            return None
        return PpeFrame(camera, sequence, reader.picture(sequence).copy())

    def run(
        self, frame: PpeFrame, spec: RingSpec, stamp: FrameStamp, detections: Detections, clock: Callable[[], float]
    ) -> PpeColumns | None:
        """What people wear in a kept picture; None without a model. The picture goes to the keeper."""
        if self._slot.detector is None:
            return None
        began = clock()
        columns = detect_ppe(self._slot.detector, frame.pixels, spec, detections)
        ended = clock()
        self._cadence.record_busy(ended, ended - began)
        self._metrics.count("ppe_frames", camera=frame.camera)
        self._metrics.count("ppe_people", len(columns.persons) // 2, frame.camera)
        self._metrics.set_gauge("ppe_ms", (ended - began) * 1000)
        if columns.persons:
            self._cache.put(frame.camera, frame.pixels, FrameAnalysis(stamp, spec, detections, columns))
        return columns

    def cancel(self, camera: str) -> None:
        """The picture that was kept of this camera was not whole."""
        self._cadence.cancel(camera)

    def forget(self, camera: str) -> None:
        """The camera is gone."""
        self._cadence.forget(camera)
