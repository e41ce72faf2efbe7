"""The detector: ring frames in, boxes of the source picture out, whichever runtime computes them.

It is synchronous and knows no process, clock or stream, so the inference process, the offline replay and the tests use
the same object.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import Letterbox, PixelFormat, letterbox, to_source
from crowdperf.models.registry import (
    ModelError,
)
from crowdperf.runtime.timings import StageTimings

log = logging.getLogger(__name__)


class InferenceBackend(Protocol):
    """What computes: OpenVINO on the processor, or torch."""

    name: str
    device: str
    max_batch: int
    """Frames that one `load` takes; more bring no speed."""
    pins: bool
    """Whether `pin` does something, which needs the ring mapped for writing."""
    overlaps: bool
    """Whether the next batch may be loaded and started before the one before is finished."""
    names: tuple[str, ...]
    """The model's own class names, in its order."""
    stages: StageTimings
    """Where its time goes: copy, preprocess, infer, postprocess."""

    def prepare(self, box: Letterbox, pix_fmt: PixelFormat) -> None:
        """Make everything that frames of this geometry need; returns when it is there."""

    def ready(self, box: Letterbox, pix_fmt: PixelFormat) -> bool:
        """Whether `load` takes this geometry without delay; else begin to `prepare` for it, beside the work."""

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Take ring frames of one geometry, at most `max_batch`; their memory is free again when this returns."""

    def start(self) -> None:
        """Begin to compute the loaded frames."""

    def finish(self) -> list[Detections]:
        """Detections of the frames that were started first; boxes in pixels of the model input."""

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """Page-lock a ring's mapping for the device."""

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Undo `pin`, before the mapping is closed."""

    def empty_cache(self) -> None:
        """Give unused device memory back (CUDA_EMPTY_EVERY)."""


class Detector:
    """One model on one runtime."""

    def __init__(self, backend: InferenceBackend, model: str, precision: str) -> None:
        self.backend = backend
        self.model = model
        self.precision = precision
        """ "full", "int8", or "own" for a user's own weights."""

    @property
    def description(self) -> str:
        """Device, runtime and precision, for people."""
        return f"{self.backend.device}, {self.backend.name}, {self.precision}"

    def detect(self, frames: Sequence[NDArray[np.uint8]], spec: RingSpec) -> list[Detections]:
        """Detections of frames of one camera.

        Args:
            frames: each uint8 (spec.frame_bytes,), as `FrameReader.read` fills it.
            spec: the ring's geometry.

        Returns:
            Per frame (boxes float32 (n, 4), scores float32 (n,), classes uint8 (n,)), best score first; boxes are
            normalised to the source picture and clipped to it.
        """
        return self.detect_batch(frames, [spec] * len(frames))

    def detect_batch(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> list[Detections]:
        """As `detect`, for frames of several cameras whose rings share width, height and pixel format."""
        found: list[Detections] = []
        for start in range(0, len(frames), self.backend.max_batch):
            part = slice(start, start + self.backend.max_batch)
            self.load(frames[part], specs[part])
            self.start()
            found += self.finish(specs[part])
        return found

    def ready(self, spec: RingSpec) -> bool:
        """Whether frames of this geometry can be computed at once; else the runtime begins to prepare for it."""
        return self.backend.ready(letterbox(spec.width, spec.height, spec.model_width), spec.pix_fmt)

    def warm(self, specs: Sequence[RingSpec]) -> None:
        """Prepare for pictures of these rings, and wait until that is done.

        A size that the model cannot run at concerns its own cameras, as long as there is another: `load` tells them.

        Raises:
            ModelError: it can run at none of them.
        """
        errors = [error for spec in specs if (error := self.try_warm(spec))]
        if errors and len(errors) == len(specs):
            raise errors[0]

    def try_warm(self, spec: RingSpec) -> ModelError | None:
        """Prepare for pictures of this ring; why the model cannot run at its size, or None where it now does."""
        try:
            self.backend.prepare(letterbox(spec.width, spec.height, spec.model_width), spec.pix_fmt)
            self.detect([np.zeros(spec.frame_bytes, np.uint8)], spec)
        except ModelError as error:
            return error
        return None

    def load(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> None:
        """Take the frames out of the ring: whoever passes a ring's own memory asks `FrameReader.intact` after this."""
        first = specs[0]
        self.backend.load(frames, first.pix_fmt, letterbox(first.width, first.height, first.model_width))

    def start(self) -> None:
        """Begin to compute what `load` took."""
        self.backend.start()

    def finish(self, specs: Sequence[RingSpec]) -> list[Detections]:
        """Detections of the batch that was started first, as `detect` returns them; `specs` are its own."""
        box = letterbox(specs[0].width, specs[0].height, specs[0].model_width)
        return [
            Detections(to_source(found.boxes, box, spec.content), found.scores, found.classes)
            for found, spec in zip(self.backend.finish(), specs)
        ]


def make_warmup_spec(width: int, height: int) -> RingSpec:
    """Some ring of that size, for `Detector.warm`."""
    return RingSpec(width, height, "yuv420p", width, height, 4, 1.0, 0)


PPE_CROP_SPEC = RingSpec(192, 384, "bgr24", 192, 384, 2, 1.0, 0)
"""The picture that a person fills. Larger ones were measured: no better, and dearer."""
