"""The CPU runtime: OpenVINO. It imports neither torch nor ultralytics, which a core installation does not have.

Every picture is one asynchronous request and the plug-in spreads the requests over its streams, so one compiled model
per geometry serves every batch size. Compiled batches of 2 and 4 were measured against it on two cores: no faster per
frame, and each costs another second of compiling in the middle of the work. Layers that were measured and left in the
model: box decoding and the sigmoid are 2 % of the time, the convolutions 90 %.
"""

from __future__ import annotations

import ast
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor

from crowdperf.models.postprocess import Detections, decode, decode_end_to_end
from crowdperf.models.preprocess import Letterbox, PixelFormat, make_canvas, paint
from crowdperf.models.registry import ModelError, ModelPath, build_class_map
from crowdperf.runtime.timings import StageTimings

CORES_PER_STREAM = 4
"""More threads than this on one small network gain little; further cores are better used by a second picture."""
MIN_STREAMS = 2
"""Two pictures on a thread each wait for nobody, two threads on one picture wait for each other at every layer, the
longer the more other programs want the cores (docs/models.md, Streams). No more than two, since a single camera, with
QUEUE_MAX frames waiting, must be able to fill them."""
MAX_BATCHES_IN_FLIGHT = 2
"""Batches that are under way: the streams go on with the next one while boxes are taken out of the one before."""
MAX_GEOMETRIES = 8
"""Compiled models that are kept (about 50 MB each); the oldest goes first."""


class _CompiledModel:
    """The model at one input size: one request per stream, and a request for a lone picture."""

    def __init__(self, single: Any, batched: Any) -> None:
        self.stream_count = int(batched.get_property("NUM_STREAMS"))
        self.requests = [
            [batched.create_infer_request() for _ in range(self.stream_count)] for _ in range(MAX_BATCHES_IN_FLIGHT)
        ]
        self.single_requests = [[single.create_infer_request()] for _ in range(MAX_BATCHES_IN_FLIGHT)]
        """On all threads. Measured on two: a lone picture takes 29 ms there and 48 on one stream of two, a pair 57 one
        after the other and 50 side by side. So a quiet site answers soon, and a busy one gets more done."""
        self._inputs: dict[Letterbox, NDArray[np.uint8]] = {}

    def get_inputs(self, box: Letterbox, buffer_index: int) -> NDArray[np.uint8]:
        """One hand's input pictures, one per stream, for frames that lie in them as `box` says."""
        if box not in self._inputs:
            while len(self._inputs) >= MAX_GEOMETRIES:
                del self._inputs[next(iter(self._inputs))]
            self._inputs[box] = make_canvas(MAX_BATCHES_IN_FLIGHT * self.stream_count, box)
        return self._inputs[box][buffer_index * self.stream_count : (buffer_index + 1) * self.stream_count]


class _LoadedBatch(NamedTuple):
    """A batch from `load` to `finish`."""

    box: Letterbox
    inputs: NDArray[np.uint8]
    requests: list[Any]


class OpenvinoBackend:
    """Runs a detection model on the processor.

    Raises:
        ModelError: OpenVINO cannot read the model, or its classes or shapes do not fit.
    """

    name = "openvino"
    device = "cpu"
    pins = False
    overlaps = True

    def __init__(self, model: ModelPath, confidence: float, iou: float, threads: int, cache: Path) -> None:
        self._path = model.path
        self._confidence, self._iou = confidence, iou
        self._threads = threads or len(os.sched_getaffinity(0))
        self._stream_count = compute_stream_count(self._threads)
        self.max_batch = self._stream_count
        self._core = ov.Core()
        # Measured: 0.4 s instead of 1.3 s for a geometry that was compiled before, by this process or an earlier one.
        self._core.set_property({"CACHE_DIR": str(cache / "openvino")})
        self._compiled: dict[tuple[int, int], _CompiledModel] = {}
        self._compiling: dict[tuple[int, int], Future[_CompiledModel]] = {}
        self._compiler = ThreadPoolExecutor(1, "compile")
        self._loaded: _LoadedBatch | None = None
        self._started: deque[_LoadedBatch] = deque()
        self._buffer_index = 0
        self.stages = StageTimings()
        source = self._read_model()
        self.names = model.classes or _read_class_names(source, model.path)
        self._class_map = build_class_map(self.names, model)
        shape = source.outputs[0].partial_shape
        self._end_to_end = len(shape) == 3 and shape[2] == 6
        if not self._end_to_end and (len(shape) != 3 or shape[1] != 4 + len(self._class_map)):
            raise ModelError(
                f"the model {str(model.path)!r} has the output shape {shape}, not (batch, {4 + len(self._class_map)}, "
                f"anchors) for its {len(self._class_map)} classes. Remedy: export a YOLO detection model with "
                "`yolo export format=openvino dynamic=True nms=False`."
            )

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Convert ring frames into the inputs; the conversion is the only copy."""
        compiled = self._get_compiled(box)
        began = perf_counter()
        assert len(self._started) < MAX_BATCHES_IN_FLIGHT, "a batch is finished before the one after the next is loaded"
        self._buffer_index = (self._buffer_index + 1) % MAX_BATCHES_IN_FLIGHT
        requests = compiled.single_requests if len(frames) == 1 else compiled.requests
        self._loaded = _LoadedBatch(
            box, compiled.get_inputs(box, self._buffer_index), requests[self._buffer_index][: len(frames)]
        )
        for frame, picture in zip(frames, self._loaded.inputs):
            paint(frame, pix_fmt, box, picture)
        self.stages.add("preprocess", perf_counter() - began)

    def start(self) -> None:
        """Begin to compute the loaded frames."""
        assert self._loaded is not None, "load comes before start"
        for request, picture in zip(self._loaded.requests, self._loaded.inputs):
            request.start_async({0: picture[None]}, share_inputs=True)
        self._started.append(self._loaded)

    def finish(self) -> list[Detections]:
        """Detections of the batch that was started first; boxes in pixels of the model input."""
        loaded = self._started.popleft()
        box = loaded.box
        at = perf_counter()
        found: list[Detections] = []
        for request in loaded.requests:
            request.wait()
            computed = perf_counter()
            self.stages.add("infer", computed - at)
            raw = request.get_output_tensor(0).data[0]
            if self._end_to_end:
                found.append(decode_end_to_end(raw, self._class_map, self._confidence, box.width, box.height))
            else:
                found.append(decode(raw, self._class_map, self._confidence, self._iou, box.width, box.height))
            at = perf_counter()
            self.stages.add("postprocess", at - computed)
        return found

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """The processor reads any memory."""

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Nothing was locked."""

    def empty_cache(self) -> None:
        """There is no device memory to give back."""

    def _read_model(self) -> Any:
        try:
            return self._core.read_model(self._path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"OpenVINO cannot read the model {str(self._path)!r}: {reason}. "
                "Remedy: check that the .bin lies beside the .xml, or export the model again."
            ) from None

    def prepare(self, box: Letterbox, pix_fmt: PixelFormat) -> None:
        """Compile for this geometry."""
        self._get_compiled(box)

    def ready(self, box: Letterbox, pix_fmt: PixelFormat = "yuv420p") -> bool:
        """Whether frames of this geometry can be computed at once; else it begins to be compiled, beside the work.

        A geometry that cannot be compiled is ready: `load` then says why.
        """
        size = (box.width, box.height)
        if size in self._compiled:
            return True
        if size not in self._compiling:
            # Of cameras that went before their size was ready: nobody has come to take the result.
            for done in [size for size, future in self._compiling.items() if future.done()][: 1 - MAX_GEOMETRIES]:
                del self._compiling[done]
            self._compiling[size] = self._compiler.submit(self._compile_both, box)
        return self._compiling[size].done()

    def _get_compiled(self, box: Letterbox) -> _CompiledModel:
        """The model compiled for this geometry: about 1.5 s the first time ever, unless it is `ready`."""
        size = (box.width, box.height)
        if size not in self._compiled:
            self.ready(box)
            # A refusal stays: it would be the same at every frame.
            made = self._compiling[size].result()
            del self._compiling[size]
            while len(self._compiled) >= MAX_GEOMETRIES:
                del self._compiled[next(iter(self._compiled))]
            self._compiled[size] = made
        return self._compiled[size]

    def _compile_both(self, box: Letterbox) -> _CompiledModel:
        alone = self.compile(box, 1)
        return _CompiledModel(alone, alone if self._stream_count == 1 else self.compile(box, self._stream_count))

    def compile(self, box: Letterbox, stream_count: int | None = None) -> Any:
        """A new `openvino.CompiledModel` for this geometry; the bench measures it bare.

        Args:
            streams: pictures computed at a time; as many as suit the threads where it is not given.

        Raises:
            ModelError: the model cannot run at that size.
        """
        model = self._read_model()
        try:
            model.reshape([1, 3, box.height, box.width])
        except RuntimeError:
            raise ModelError(
                f"the model {str(self._path)!r} cannot run at {box.width}x{box.height}: it was exported for one "
                "size. Remedy: export it with dynamic=True (`yolo export ... dynamic=True`)."
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
            "NUM_STREAMS": stream_count or self._stream_count,
        }
        return self._core.compile_model(steps.build(), "CPU", settings)


def compute_stream_count(threads: int) -> int:
    """Pictures that are computed at a time. The plug-in gives every stream equally many threads and idles the rest."""
    if threads >= MIN_STREAMS * CORES_PER_STREAM:
        return threads // CORES_PER_STREAM
    return 1 if threads % MIN_STREAMS else MIN_STREAMS


def _read_class_names(model: Any, path: Path) -> tuple[str, ...]:
    """Class names that Ultralytics writes into its exports.

    Into OpenVINO's separated by spaces; into ONNX as the text of a dictionary, index -> name.
    """
    if model.has_rt_info(["model_info", "labels"]):
        return tuple(str(model.get_rt_info(["model_info", "labels"]).astype(str)).split())
    if model.has_rt_info(["framework", "names"]):
        text = str(model.get_rt_info(["framework", "names"]).astype(str))
        try:
            names = ast.literal_eval(text)
            return tuple(str(names[index]) for index in range(len(names)))
        except (ValueError, SyntaxError, TypeError, KeyError):
            raise ModelError(
                f"the model {str(path)!r} has class names that cannot be read: {text[:80]!r}. "
                "Remedy: export it with Ultralytics (`yolo export format=onnx dynamic=True`)."
            ) from None
    raise ModelError(
        f"the model {str(path)!r} carries no class names. "
        "Remedy: export it with Ultralytics: `yolo export model=best.pt format=openvino dynamic=True`."
    )
