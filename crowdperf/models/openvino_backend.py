"""OpenVINO backend for the processor; it imports neither torch nor ultralytics.

Every picture is one asynchronous request, and the plug-in spreads the requests over its streams. So one compiled model
per geometry serves every batch size. Compiled batches of 2 and 4 were measured on two cores: no faster per frame, and
one more second to compile each. Box decoding and the sigmoid stay in the model: they take 2 % of the time.
"""

from __future__ import annotations

import ast
import contextlib
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import ColorFormat, PrePostProcessor

from crowdperf.models.geometry_store import GeometryStore, Size
from crowdperf.models.postprocess import BoxDecoder, Detections
from crowdperf.models.preprocess import Letterbox
from crowdperf.models.registry import ModelError, ModelPath, build_class_map
from crowdperf.models.threads import limit_threads
from crowdperf.runtime.timings import StageTimings
from crowdperf.settings.engine import Inference

CORES_PER_STREAM = 4
"""More threads on one small network gain little; further cores are better used for a second picture."""
MIN_STREAMS = 2
"""Two threads on one picture wait for each other at every layer, two pictures on one thread each do not. See
docs/models.md, Streams. Few cores get no more streams: a single camera with QUEUE_MAX frames must fill them."""
MAX_BATCHES_IN_FLIGHT = 2
"""The streams compute the next batch while the boxes of the previous one are decoded."""
MAX_INPUTS = 8
"""Number of picture formats of one compiled model whose inputs are kept; the least recently used is dropped first."""


class _CompiledModel:
    """The model at one input size: requests for a batch, and one for a single picture."""

    def __init__(self, single: Any, batched: Any) -> None:
        self.stream_count = int(batched.get_property("NUM_STREAMS"))
        """What the plug-in gave, which may be less than it was asked for."""
        self._batched = batched
        self.requests: list[list[Any]] = [[] for _ in range(MAX_BATCHES_IN_FLIGHT)]
        self.single_requests = [[single.create_infer_request()] for _ in range(MAX_BATCHES_IN_FLIGHT)]
        """These use all threads. Measured on two threads: one picture takes 29 ms here and 48 ms on one of two streams;
        two pictures take 57 ms here and 50 ms on two streams. So latency is low on a quiet site, throughput high on a
        busy one."""
        self._inputs: dict[Letterbox, NDArray[np.uint8]] = {}

    def get_requests(self, count: int, buffer_index: int) -> list[Any]:
        """Return that many requests of one of the two buffers; those beyond the streams wait for a stream."""
        requests = (self.single_requests if count == 1 else self.requests)[buffer_index]
        while len(requests) < count:
            requests.append(self._batched.create_infer_request())
        return requests[:count]

    def get_inputs(self, box: Letterbox, count: int, buffer_index: int) -> NDArray[np.uint8]:
        """Return input pictures of one of the two buffers.

        Args:
            box: geometry of the pictures.
            count: number of pictures.
            buffer_index: 0 or 1.

        Returns:
            uint8 (count, height, width, 3).
        """
        inputs = self._inputs.pop(box, None)
        if inputs is None or inputs.shape[1] < count:
            while len(self._inputs) >= MAX_INPUTS:
                del self._inputs[next(iter(self._inputs))]
            rows = max(count, self.stream_count)
            canvas = box.make_canvas(MAX_BATCHES_IN_FLIGHT * rows)
            inputs = canvas.reshape(MAX_BATCHES_IN_FLIGHT, rows, *canvas.shape[1:])
        self._inputs[box] = inputs
        return inputs[buffer_index, :count]


class _LoadedBatch(NamedTuple):
    """A batch from `load` to `finish`."""

    box: Letterbox
    inputs: NDArray[np.uint8]
    requests: list[Any]


class OpenvinoBackend:
    """Run a detection model on the processor, or raise ModelError; `prepare` compiles it.

    Args:
        model: an OpenVINO or ONNX file.
        settings: for confidence, iou and threads; 0 uses all that this process may run on, and more are not used.
        cache: a folder for compiled models.
    """

    name = "openvino"
    device = "cpu"
    pins = False
    overlaps = True

    def __init__(self, model: ModelPath, settings: Inference, cache: Path) -> None:
        self._path = model.path
        self._threads = limit_threads(settings.threads)
        self._stream_count = compute_stream_count(self._threads)
        self.max_batch = self._stream_count
        self._core = ov.Core()
        # Measured: 0.4 s instead of 1.3 s for a geometry that is in the cache.
        self._core.set_property({"CACHE_DIR": str(cache / "openvino")})
        self._compiled = GeometryStore(self._compile_both)
        self._loaded: _LoadedBatch | None = None
        self._started: deque[_LoadedBatch] = deque()
        self._buffer_index = 0
        self.stages = StageTimings()
        source = self._read_model()
        self.names = model.classes or _read_class_names(source, model.path)
        decoder = BoxDecoder(build_class_map(self.names, model), settings.confidence, settings.iou)
        shape, count = source.outputs[0].partial_shape, len(decoder.class_map)
        end_to_end = len(shape) == 3 and shape[2] == 6
        if not end_to_end and (len(shape) != 3 or shape[1] != 4 + count):
            raise ModelError(
                f"the model {str(model.path)!r} has the output shape {shape}, not (batch, {4 + count}, anchors) for "
                f"its {count} classes. Remedy: export a YOLO detection model with "
                "`yolo export format=openvino dynamic=True nms=False`."
            )
        self._decode = decoder.decode_end_to_end if end_to_end else decoder.decode

    def load(self, frames: Sequence[NDArray[np.uint8]], box: Letterbox) -> None:
        """Convert ring frames into the inputs; the conversion is the only copy."""
        compiled = self._get_compiled(box)
        began = perf_counter()
        assert len(self._started) < MAX_BATCHES_IN_FLIGHT, "finish a batch before loading a third one"
        self._buffer_index = (self._buffer_index + 1) % MAX_BATCHES_IN_FLIGHT
        count = len(frames)
        self._loaded = _LoadedBatch(
            box,
            compiled.get_inputs(box, count, self._buffer_index),
            compiled.get_requests(count, self._buffer_index),
        )
        for frame, picture in zip(frames, self._loaded.inputs, strict=True):
            box.paint(frame, picture)
        self.stages.add("preprocess", perf_counter() - began)

    def start(self) -> None:
        """Start to compute the loaded frames."""
        assert self._loaded is not None, "call load before start"
        try:
            for request, picture in zip(self._loaded.requests, self._loaded.inputs, strict=True):
                request.start_async({0: picture[None]}, share_inputs=True)
        except RuntimeError:
            _wait_for_all(self._loaded.requests)
            raise
        self._started.append(self._loaded)

    def finish(self) -> list[Detections]:
        """Return the detections of the oldest started batch; boxes in pixels of the model input."""
        loaded = self._started.popleft()
        began = perf_counter()
        detections: list[Detections] = []
        for request in loaded.requests:
            try:
                request.wait()
            except RuntimeError:
                _wait_for_all(loaded.requests)
                raise
            computed = perf_counter()
            self.stages.add("infer", computed - began)
            raw = request.get_output_tensor(0).data[0]
            detections.append(self._decode(raw, (loaded.box.width, loaded.box.height)))
            began = perf_counter()
            self.stages.add("postprocess", began - computed)
        return detections

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """Do nothing: the processor reads any memory."""

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Do nothing, as `pin`."""

    def empty_cache(self) -> None:
        """Do nothing: there is no device memory."""

    def _read_model(self) -> Any:
        try:
            return self._core.read_model(self._path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"OpenVINO cannot read the model {str(self._path)!r}: {reason}. "
                "Remedy: check that the .bin is in the folder of the .xml, or export the model again."
            ) from None

    def prepare(self, box: Letterbox) -> None:
        """Compile for this geometry."""
        self._get_compiled(box)

    def ready(self, box: Letterbox) -> bool:
        """Check whether this geometry is compiled; if not, start to compile it in the background."""
        return self._compiled.ready((box.width, box.height))

    def retain(self, boxes: Collection[Letterbox]) -> None:
        """Keep what these geometries need, as far as memory allows."""
        self._compiled.retain({(box.width, box.height) for box in boxes})

    def _get_compiled(self, box: Letterbox) -> _CompiledModel:
        """Return the model compiled for this geometry; takes about 1.5 s the first time."""
        compiled = self._compiled.get((box.width, box.height))
        self.max_batch = compiled.stream_count
        return compiled

    def _compile_both(self, size: Size) -> _CompiledModel:
        single = self.compile(*size, 1)
        return _CompiledModel(single, single if self._stream_count == 1 else self.compile(*size, self._stream_count))

    def compile(self, width: int, height: int, stream_count: int) -> Any:
        """Compile a new `openvino.CompiledModel`, or raise ModelError for a size that it cannot have.

        Args:
            width: of the model input, pixels.
            height: of the model input, pixels.
            stream_count: pictures at a time.

        Returns:
            The compiled model.
        """
        model = self._read_model()
        try:
            model.reshape([1, 3, height, width])
        except RuntimeError:
            raise ModelError(
                f"the model {str(self._path)!r} cannot run at {width}x{height}: it was exported for one "
                "size. Remedy: export it with dynamic=True (`yolo export ... dynamic=True`)."
            ) from None
        steps = PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(
            ColorFormat.RGB
        )
        steps.input().model().set_layout(ov.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)
        # No precision hint: by default the plug-in uses bf16 or fp16 on processors that have them, else float32. A
        # quantised model computes its int8 layers in int8 with any hint.
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": stream_count,
        }
        try:
            return self._core.compile_model(steps.build(), "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].rstrip(".")
            raise ModelError(
                f"the model {str(self._path)!r} cannot be compiled for {width}x{height}: {reason}. Remedy: raise the "
                "camera's analysis_width, or export the model with end2end=False."
            ) from None


def _wait_for_all(requests: list[Any]) -> None:
    """Wait until no request of a failed batch computes any more, so that it can be used again."""
    for request in requests:
        with contextlib.suppress(RuntimeError):
            request.wait()


def compute_stream_count(threads: int) -> int:
    """Compute how many pictures run at a time; every stream gets the same number of threads."""
    if threads >= MIN_STREAMS * CORES_PER_STREAM:
        return threads // CORES_PER_STREAM
    return 1 if threads % MIN_STREAMS else MIN_STREAMS


def _read_class_names(model: Any, path: Path) -> tuple[str, ...]:
    """Read the class names that Ultralytics writes into its exports.

    OpenVINO: separated by spaces. ONNX: the text of a dictionary, index -> name.
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
        f"the model {str(path)!r} has no class names. "
        "Remedy: export it with Ultralytics: `yolo export model=best.pt format=openvino dynamic=True`."
    )
