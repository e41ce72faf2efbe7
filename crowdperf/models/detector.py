"""Detector: ring frames in, boxes of the source picture out, on any backend.

It is synchronous and needs no process, clock or stream. Live inference, replay and tests use the same object.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.models.postprocess import Detections
from crowdperf.models.preprocess import Letterbox, letterbox
from crowdperf.models.registry import ModelError
from crowdperf.runtime.timings import StageTimings

PPE_CROP_SPEC = RingSpec(192, 384, "bgr24", 192, 384, 2, 1.0, 0)
"""Geometry of one person's crop. Larger crops were measured: slower and no more accurate."""


class InferenceBackend(Protocol):
    """Run a model with one library on one device: OpenVINO on the processor, or torch."""

    name: str
    device: str
    max_batch: int
    """Largest number of frames for one `load`; more bring no speed. It may change with each `load`."""
    pins: bool
    """Whether `pin` has an effect; the ring must then be mapped for writing."""
    overlaps: bool
    """Whether the next batch may be loaded and started before the previous one is finished."""
    names: tuple[str, ...]
    """Class names of the model, in its order."""
    stages: StageTimings
    """Time per stage: copy, preprocess, infer, postprocess."""

    def prepare(self, box: Letterbox) -> None:
        """Build everything that frames of this geometry need, and wait for it."""

    def ready(self, box: Letterbox) -> bool:
        """Check whether `load` needs no delay; if it does, start `prepare` in the background.

        A geometry that cannot be prepared is ready: `load` then raises the reason.
        """

    def retain(self, boxes: Collection[Letterbox]) -> None:
        """Keep what is prepared for these geometries, as far as memory allows; open rings need them."""

    def load(self, frames: Sequence[NDArray[np.uint8]], box: Letterbox) -> None:
        """Copy about `max_batch` ring frames, uint8 (frame_bytes,); their memory is free again on return.

        Every frame gets its result, also if `max_batch` is lower by now.
        """

    def start(self) -> None:
        """Start to compute the loaded frames."""

    def finish(self) -> list[Detections]:
        """Return the oldest started batch's detections, one per frame; boxes in pixels of the model input."""

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """Page-lock a ring's mapping for the device."""

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Undo `pin`; call it before the mapping is closed."""

    def empty_cache(self) -> None:
        """Release unused device memory (CUDA_EMPTY_EVERY)."""


class Detector:
    """Detect with one model on one backend.

    Args:
        backend: computes the boxes.
        model: name for reports.
        precision: "full", "int8", or "own" for the operator's own weights.
    """

    def __init__(self, backend: InferenceBackend, model: str, precision: str) -> None:
        self.backend = backend
        self.model = model
        self.precision = precision

    @property
    def description(self) -> str:
        """Device, backend and precision as readable text."""
        return f"{self.backend.device}, {self.backend.name}, {self.precision}"

    def detect(self, frames: Sequence[NDArray[np.uint8]], spec: RingSpec) -> list[Detections]:
        """Detect in frames of one camera, each uint8 (spec.frame_bytes,), as `FrameReader.read` fills it.

        Returns:
            Per frame, best score first: boxes normalised to the source picture and clipped to it.
        """
        return self.detect_batch(frames, [spec] * len(frames))

    def detect_batch(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> list[Detections]:
        """Detect in frames of several cameras whose rings share width, height and pixel format."""
        detections: list[Detections] = []
        while len(detections) < len(frames):
            # The first batch of a geometry, or one that runs out of memory, may lower `max_batch`.
            part = slice(len(detections), len(detections) + self.backend.max_batch)
            self.load(frames[part], specs[part])
            self.start()
            detections += self.finish(specs[part])
        return detections

    def ready(self, spec: RingSpec) -> bool:
        """Check whether this geometry can be computed at once; if not, the backend starts to prepare it."""
        return self.backend.ready(letterbox(spec))

    def retain(self, specs: Collection[RingSpec]) -> None:
        """Keep what is prepared for these rings, as far as memory allows: call it as rings come and go."""
        self.backend.retain({letterbox(spec) for spec in specs})

    def warm(self, specs: Sequence[RingSpec]) -> None:
        """Prepare for pictures of these rings, and wait until that is done.

        Sizes that the model cannot run at are ignored here as long as one works: `load` reports them per camera.

        Raises:
            ModelError: the model can run at none of them.
        """
        self.retain(specs)
        errors = [error for spec in specs if (error := self.try_warm(spec))]
        if errors and len(errors) == len(specs):
            raise errors[0]

    def try_warm(self, spec: RingSpec) -> ModelError | None:
        """Prepare for pictures of this ring; return the reason if the model cannot run at its size."""
        try:
            self.backend.prepare(letterbox(spec))
            self.detect([np.zeros(spec.frame_bytes, np.uint8)], spec)
        except ModelError as error:
            return error
        return None

    def load(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> None:
        """Copy the frames; a caller that passes ring memory must check `FrameReader.intact` afterwards."""
        self.backend.load(frames, letterbox(specs[0]))

    def start(self) -> None:
        """Start to compute the loaded frames."""
        self.backend.start()

    def finish(self, specs: Sequence[RingSpec]) -> list[Detections]:
        """Return the detections of the oldest started batch, as `detect` does; `specs` belong to that batch."""
        box = letterbox(specs[0])
        return [
            Detections(box.to_source(raw.boxes, spec.content), raw.scores, raw.classes)
            for raw, spec in zip(self.backend.finish(), specs, strict=True)
        ]


def make_warmup_spec(width: int, height: int) -> RingSpec:
    """Build a ring spec of that size for `Detector.warm`."""
    return RingSpec(width, height, "yuv420p", width, height, 4, 1.0, 0)
