"""The CPU runtime: OpenVINO. It imports neither torch nor ultralytics, which a core installation does not have.

Every picture is one asynchronous request and the plug-in spreads the requests over its streams, so one compiled model
per geometry serves every batch size. Compiled batches of 2 and 4 were measured against it on two cores: no faster per
frame, and each costs another second of compiling in the middle of the work. Layers that were measured and left in the
model: box decoding and the sigmoid are 2 % of the time, the convolutions 90 %.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor

from crowdperf.inference.letterbox import Letterbox
from crowdperf.inference.nms import Found, decode
from crowdperf.inference.pixels import PixelFormat, canvas, paint
from crowdperf.inference.registry import ModelError, ModelPath, wanted_classes

CORES_PER_STREAM = 4
"""More threads than this on one small network gain little; further cores are better used by a second picture."""
MIN_STREAMS = 2
"""Two pictures on a thread each wait for nobody, two threads on one picture wait for each other at every layer, the
longer the more other programs want the cores (docs/models.md, Streams). No more than two, since a single camera, with
QUEUE_MAX frames waiting, must be able to fill them."""
GEOMETRIES = 8
"""Compiled models that are kept (about 50 MB each); the oldest goes first."""


class _Compiled:
    """The model at one input size, with one request and one input picture per stream."""

    def __init__(self, compiled: Any, box: Letterbox) -> None:
        self.box = box
        lanes = int(compiled.get_property("NUM_STREAMS"))
        self.inputs = canvas(lanes, box)
        self.requests = [compiled.create_infer_request() for _ in range(lanes)]
        self.loaded = 0


class OpenvinoRuntime:
    """Runs a detection model on the processor.

    Raises:
        ModelError: OpenVINO cannot read the model, or its classes or shapes do not fit.
    """

    name = "openvino"
    device = "cpu"
    pins = False

    def __init__(self, model: ModelPath, confidence: float, iou: float, threads: int) -> None:
        self._path = model.path
        self._confidence, self._iou = confidence, iou
        self._threads = threads or len(os.sched_getaffinity(0))
        self._streams = streams(self._threads)
        self.max_batch = self._streams
        self._core = ov.Core()
        self._compiled: dict[Letterbox, _Compiled] = {}
        self._current: _Compiled | None = None
        source = self._read()
        self._wanted = wanted_classes(model.classes or _labels(source, model.path), model.path)
        shape = source.outputs[0].partial_shape
        if len(shape) != 3 or shape[1] != 4 + len(self._wanted):
            raise ModelError(
                f"the model {str(model.path)!r} has the output shape {shape}, not (batch, {4 + len(self._wanted)}, "
                f"anchors) for its {len(self._wanted)} classes. Remedy: export a YOLO detection model with "
                "`yolo export format=openvino dynamic=True nms=False`."
            )

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Convert ring frames into the inputs; the conversion is the only copy."""
        self._current = compiled = self._at(box)
        compiled.loaded = len(frames)
        for frame, picture in zip(frames, compiled.inputs):
            paint(frame, pix_fmt, box, picture)

    def run(self) -> list[Found]:
        """Detections of the loaded frames; boxes in pixels of the model input."""
        assert self._current is not None, "load comes before run"
        box, requests = self._current.box, self._current.requests[: self._current.loaded]
        for request, picture in zip(requests, self._current.inputs):
            request.start_async({0: picture[None]}, share_inputs=True)
        found: list[Found] = []
        for request in requests:
            request.wait()
            raw = request.get_output_tensor(0).data[0]
            found.append(decode(raw, self._wanted, self._confidence, self._iou, box.width, box.height))
        return found

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """The processor reads any memory."""

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Nothing was locked."""

    def empty_cache(self) -> None:
        """There is no device memory to give back."""

    def _read(self) -> Any:
        try:
            return self._core.read_model(self._path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"OpenVINO cannot read the model {str(self._path)!r}: {reason}. "
                "Remedy: check that the .bin lies beside the .xml, or export the model again."
            ) from None

    def _at(self, box: Letterbox) -> _Compiled:
        """The model compiled for this geometry: about 0.7 s the first time."""
        if box not in self._compiled:
            while len(self._compiled) >= GEOMETRIES:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[box] = _Compiled(self.compile(box), box)
        return self._compiled[box]

    def compile(self, box: Letterbox) -> Any:
        """A new `openvino.CompiledModel` for this geometry; the bench measures it bare.

        Raises:
            ModelError: the model cannot run at that size.
        """
        model = self._read()
        try:
            model.reshape([1, 3, box.height, box.width])
        except RuntimeError:
            raise ModelError(
                f"the model {str(self._path)!r} cannot run at {box.width}x{box.height}. "
                "Remedy: export it with dynamic=True, or set the cameras' analysis_width to the size of the export."
            ) from None
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(
            ColorFormat.RGB
        )
        steps.input().model().set_layout(ov.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)
        # No precision hint: in performance mode the plug-in takes bf16 or fp16 where the processor computes in them and
        # float32 elsewhere. A quantised model computes in int8 what it marks for it, whatever the hint.
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": self._streams,
        }
        return self._core.compile_model(steps.build(), "CPU", settings)


def streams(threads: int) -> int:
    """Pictures that are computed at a time. The plug-in gives every stream equally many threads and idles the rest."""
    if threads >= MIN_STREAMS * CORES_PER_STREAM:
        return threads // CORES_PER_STREAM
    return 1 if threads % MIN_STREAMS else MIN_STREAMS


def _labels(model: Any, path: Path) -> tuple[str, ...]:
    """Class names that Ultralytics writes into its exports, separated by spaces."""
    if not model.has_rt_info(["model_info", "labels"]):
        raise ModelError(
            f"the model {str(path)!r} carries no class names (rt_info model_info/labels). "
            "Remedy: export it with Ultralytics: `yolo export model=best.pt format=openvino dynamic=True`."
        )
    return tuple(str(model.get_rt_info(["model_info", "labels"]).astype(str)).split())
