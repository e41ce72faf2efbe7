"""The PPE model's place in a turn: which frames it looks at, and what it makes of them.

It is loaded when the first camera with a PPE rule appears, beside the work. Without it, or while it is prepared, frames
are published as if nobody had asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crowdperf.events.schema import PpeColumns
from crowdperf.frames.ring import FrameReader, FrameStamp, RingSpec
from crowdperf.inference.evidence import Keeper, Scene
from crowdperf.inference.nms import Found
from crowdperf.inference.ppe import Cadence, look
from crowdperf.inference.seat import Seat
from crowdperf.runtime import Metrics


class Kept(NamedTuple):
    """A picture that the PPE model is to look at, copied out of its ring."""

    camera: str
    sequence: int
    pixels: NDArray[np.uint8]


class Inspector:
    """Looks at one picture a turn at most, so that the other cameras' next frames wait for one and not for many.

    Args:
        seat: of the PPE model; empty at first.
        ask: has it prepared, beside the work.
        metrics: where counters and texts go.
        keeper: gets every picture that was looked at.
    """

    def __init__(self, seat: Seat, ask: Callable[[], None], metrics: Metrics, keeper: Keeper) -> None:
        self._seat = seat
        self._ask = ask
        self._metrics = metrics
        self._keeper = keeper
        self._cadence = Cadence()

    def settle(self, now: float) -> None:
        """Between two batches: take a model that has become ready; `now` in monotonic seconds."""
        if self._seat.settle(now) and self._seat.detector is not None:
            self._metrics.text("ppe_model", self._seat.detector.model)
        if self._seat.wanted:
            self._metrics.text("ppe_error", self._seat.error)

    def expect(self, spec: RingSpec) -> None:
        """A camera sends pictures of this geometry: get the model if it has a PPE rule."""
        if spec.ppe_fps and not self._seat.wanted:
            self._ask()

    def keep(self, camera: str, reader: FrameReader, sequence: int, arrived: float, now: float) -> Kept | None:
        """The frame's picture if it is to be looked at: ask `reader.intact` after this."""
        if not reader.spec.ppe_fps:
            return None
        self.expect(reader.spec)
        if self._seat.detector is None or not self._cadence.due(camera, reader.spec.ppe_fps, arrived, now):
            return None
        return Kept(camera, sequence, reader.picture(sequence).copy())

    def look(
        self, kept: Kept, spec: RingSpec, stamp: FrameStamp, found: Found, clock: Callable[[], float]
    ) -> PpeColumns | None:
        """What people wear in a kept picture; None without a model. The picture goes to the keeper."""
        if self._seat.detector is None:
            return None
        began = clock()
        columns = look(self._seat.detector, kept.pixels, spec, found)
        ended = clock()
        self._cadence.worked(ended, ended - began)
        self._metrics.count("ppe_frames", camera=kept.camera)
        self._metrics.count("ppe_people", len(columns.persons) // 2, kept.camera)
        self._metrics.gauge("ppe_ms", (ended - began) * 1000)
        if columns.persons:
            self._keeper.put(kept.camera, kept.pixels, Scene(stamp, spec, found, columns))
        return columns

    def give_back(self, camera: str) -> None:
        """The picture that was kept of this camera was not whole."""
        self._cadence.give_back(camera)

    def forget(self, camera: str) -> None:
        """The camera is gone."""
        self._cadence.forget(camera)
