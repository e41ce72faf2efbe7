"""The torch runtime: CUDA where there is one, and the same code on the processor (user weights, tests).

One batch: ring bytes by DMA into a fixed device buffer; colour, padding, network and candidate selection as one CUDA
graph per batch size and geometry; suppression of the whole batch by one call; one copy of the result to the host.
Ultralytics builds and fuses the network and nothing else: its `predict` and per-image suppression were measured at a
tenth of this speed (docs/models.md).
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from crowdperf.models import torch_network
from crowdperf.models.postprocess import MAX_CANDIDATES, MAX_DETECTIONS, Detections
from crowdperf.models.preprocess import Letterbox, PixelFormat
from crowdperf.models.registry import ModelError, ModelPath, build_class_map
from crowdperf.models.torch_graphs import (
    CAPTURE_LOCK,
    BatchStep,
    GeometryBuffers,
    acquire_streams,
    is_out_of_memory,
    release_streams,
    use_stream,
)
from crowdperf.models.torch_network import load_network, to_input
from crowdperf.runtime.timings import StageTimings

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes with a graph of their own; a batch is padded to the next one."""
MAX_GEOMETRIES = 8
"""Picture sizes that are kept; the one that was used longest ago goes first."""

InputGeometry = tuple[Letterbox, PixelFormat]

log = logging.getLogger(__name__)


class _BatchPart(NamedTuple):
    """Frames of a batch that share a step: all of them, or fewer where the device has too little memory."""

    step: BatchStep
    pictures: int
    frames: Any
    """The staging buffer that they lie in."""

    @property
    def geometry(self) -> InputGeometry:
        return self.step.geometry.box, self.step.geometry.pix_fmt


class _InFlightPart(NamedTuple):
    """A part that is being computed."""

    part: _BatchPart
    candidates: Any
    done: Any
    """A CUDA event, or None."""


class TorchBackend:
    """Runs a detection model with torch on `device` ("cuda" or "cpu").

    On CUDA three streams overlap: copies of the next batch, the network, and suppression of the one before. `prepare`
    may run on another thread than the rest.

    Raises:
        ModelError: the file is no detection model of Ultralytics, or its classes do not fit.
    """

    name = "torch"

    def __init__(self, model: ModelPath, confidence: float, iou: float, threads: int, device: str) -> None:
        self.device = device
        self.pins = self.overlaps = device == "cuda"
        self.max_batch = BUCKETS[-1]
        self.stages = StageTimings()
        self._confidence, self._iou = confidence, iou
        # Rings are mapped for reading where nothing needs more, and nothing is ever written to a frame's tensor.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        if device == "cpu" and threads:
            torch.set_num_threads(threads)
        self._network = load_network(model, device)
        self.names = model.classes or self._network.names
        wanted = build_class_map(self.names, model)
        self._class_map = torch.from_numpy(wanted.astype(np.float32)).to(device)
        self._geometries: OrderedDict[InputGeometry, GeometryBuffers] = OrderedDict()
        self._preparing: dict[InputGeometry, Future[None]] = {}
        self._preparer = ThreadPoolExecutor(1, "capture")
        self._end_to_end = False
        self._streams = acquire_streams(device)
        weakref.finalize(self, release_streams, self._streams)
        self._pool: Any = torch.cuda.graph_pool_handle() if self._network.supports_graphs else None
        self._loaded: list[_BatchPart] = []
        self._started: deque[list[_InFlightPart]] = deque()

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Copy ring frames to the device; returns when the copies are complete."""
        self._loaded = []
        rest = list(frames)
        while rest:
            step = self._find_step(len(rest), (box, pix_fmt))
            began = perf_counter()
            part, rest = rest[: step.bucket], rest[step.bucket :]
            staging = step.geometry.next_staging_buffer()
            if any(loaded.frames is staging for loaded in self._loaded):
                # Memory ran out: more parts than buffers, once.
                staging = torch.empty_like(staging)
            with use_stream(self._streams.copying):
                for row, frame in zip(staging[: len(part)].unbind(0), part):
                    row.copy_(torch.from_numpy(frame), non_blocking=True)
            self._loaded.append(_BatchPart(step, len(part), staging))
            self.stages.add("copy", perf_counter() - began)
        if self._streams.copying is not None:
            began = perf_counter()
            self._streams.copying.synchronize()
            self.stages.add("copy", perf_counter() - began)

    def start(self) -> None:
        """Begin to compute what was loaded; `finish` gives the results in the order of the starts."""
        began = perf_counter()
        flights = []
        with torch.inference_mode(), use_stream(self._streams.computing):
            for part in self._loaded:
                candidates = self._compute_part(part)
                done = torch.cuda.Event() if self._streams.computing is not None else None
                if done is not None:
                    done.record()
                flights.append(_InFlightPart(part, candidates, done))
        self._started.append(flights)
        self._loaded = []
        self.stages.add("infer", perf_counter() - began)

    def _compute_part(self, part: _BatchPart) -> Any:
        """float32 (n, candidates, 6) of a part, in smaller pieces where the device runs out of memory."""
        try:
            return part.step.run(part.frames, part.pictures)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._shrink(part.step.bucket, part.geometry[0])
        pieces = []
        pictures = part.frames[: part.pictures]
        while len(pictures):
            step = self._find_step(len(pictures), part.geometry)
            piece, pictures = pictures[: step.bucket], pictures[step.bucket :]
            pieces.append(self._compute_part(_BatchPart(step, len(piece), piece))[: len(piece)])
        return torch.cat(pieces)

    def finish(self) -> list[Detections]:
        """Detections of the oldest batch that was started; boxes in pixels of the model input."""
        found: list[Detections] = []
        for part, candidates, done in self._started.popleft():
            began = perf_counter()
            if done is not None:
                done.synchronize()
                candidates.record_stream(self._streams.finishing)
            computed = perf_counter()
            box = part.geometry[0]
            with torch.inference_mode(), use_stream(self._streams.finishing):
                rows = self._suppress(candidates[: part.pictures], max(box.width, box.height)).cpu().numpy()
            # One picture after the other, each still with its best score first.
            rows = rows[np.argsort(rows[:, 6], kind="stable")]
            classes = rows[:, 5].astype(np.uint8)
            ends = np.searchsorted(rows[:, 6], np.arange(part.pictures + 1)).tolist()
            for first, end in pairwise(ends):
                own = slice(first, min(end, first + MAX_DETECTIONS))
                found.append(Detections(rows[own, :4].copy(), rows[own, 4].copy(), classes[own]))
            self.stages.add("infer", computed - began)
            self.stages.add("postprocess", perf_counter() - computed)
        return found

    pin = staticmethod(torch_network.pin_buffer)
    unpin = staticmethod(torch_network.unpin_buffer)

    def prepare(self, box: Letterbox, pix_fmt: PixelFormat) -> None:
        """Capture a graph for every batch size, the largest first, since all share its memory. About a second.

        On the processor there is nothing to prepare.
        """
        if self.device != "cuda":
            return
        for bucket in reversed(BUCKETS):
            if bucket > self.max_batch:
                continue
            try:
                step = self._find_step(bucket, (box, pix_fmt))
                if not self._network.supports_graphs:
                    with torch.inference_mode():
                        step.compute()
            except (ValueError, AssertionError) as error:
                # A TensorRT engine was built for so many pictures at most.
                if bucket == 1:
                    raise ModelError(
                        f"the model cannot run at {box.width}x{box.height}: {error}. Remedy: export it with "
                        "dynamic=True, for sizes up to the cameras'."
                    ) from error
                self.max_batch = bucket // 2

    def ready(self, box: Letterbox, pix_fmt: PixelFormat) -> bool:
        """Whether the graphs of this geometry are there; else they begin to be captured, beside the work.

        A geometry that cannot be captured is ready: `load` then says why.
        """
        size = (box, pix_fmt)
        if not self._network.supports_graphs or (size in self._geometries and size not in self._preparing):
            return True
        if size not in self._preparing:
            # Of cameras that went before their size was ready: nobody has come to take the result.
            for done in [size for size, future in self._preparing.items() if future.done()][: 1 - MAX_GEOMETRIES]:
                del self._preparing[done]
            self._preparing[size] = self._preparer.submit(self.prepare, box, pix_fmt)
        if not self._preparing[size].done():
            return False
        del self._preparing[size]
        return True

    def empty_cache(self) -> None:
        """Give unused device memory back, unless a graph is being captured just now."""
        if self.device == "cuda" and CAPTURE_LOCK.acquire(blocking=False):
            try:
                torch.cuda.empty_cache()
            finally:
                CAPTURE_LOCK.release()

    def _find_step(self, count: int, size: InputGeometry) -> BatchStep:
        """The step for that many frames, or for as many of them as the device has memory for."""
        while True:
            bucket = next(bucket for bucket in BUCKETS if bucket >= min(count, self.max_batch))
            try:
                return self._get_or_build_step(size, bucket)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink(bucket, size[0])

    def _shrink(self, bucket: int, box: Letterbox) -> None:
        """Out of memory at this bucket: go on with half of it, and give back what larger ones hold.

        Raises:
            ModelError: there is no memory for a single frame.
        """
        if bucket == 1:
            raise ModelError(
                f"the device has no memory for one picture of {box.width}x{box.height}. Remedy: end what else uses it, "
                "lower analysis_width, or use a smaller model."
            )
        self.max_batch = min(self.max_batch, bucket // 2)
        for size in [size for size, geometry in self._geometries.items() if geometry.rows > self.max_batch]:
            del self._geometries[size]
        log.warning("out of device memory at %d pictures at once: %d from now on", bucket, self.max_batch)
        if self.device == "cuda":
            with CAPTURE_LOCK:
                torch.cuda.empty_cache()

    def _get_or_build_step(self, size: InputGeometry, bucket: int) -> BatchStep:
        geometry = self._geometries.get(size)
        if geometry is not None and bucket in geometry.steps:
            self._geometries.move_to_end(size)
            return geometry.steps[bucket]
        with CAPTURE_LOCK:
            if geometry is None or geometry.rows < bucket:
                # For a device at once as many as it may ever take: graphs refer to these buffers.
                rows = self.max_batch if self.device == "cuda" else bucket
                geometry = GeometryBuffers(rows, *size, self._network.dtype, self.device)
                self._geometries[size] = geometry
                while len(self._geometries) > MAX_GEOMETRIES:
                    self._geometries.popitem(last=False)
            step = BatchStep(geometry, bucket, self._make_compute(size))
            if self._network.supports_graphs:
                step.capture(self._streams, self._pool)
            geometry.steps[bucket] = step
            return step

    def _make_compute(self, size: InputGeometry) -> Any:
        """What a step computes, with what must live as long as its graph."""
        box, pix_fmt = size
        # Each graph refers to the anchors of its own copy of the head, which the network replaces at every new shape:
        # kept in the closure, their memory cannot be given to anything else while the graph lives.
        kept: list[Any] = []

        def compute(frames: Any, onto: Any) -> Any:
            with torch.inference_mode():
                began = perf_counter()
                pictures = to_input(frames, pix_fmt, box, self._network.dtype, onto)
                if not self._network.supports_graphs:
                    spent = perf_counter() - began
                    self.stages.add("preprocess", spent)
                    self.stages.add("infer", -spent)
                raw = self._network.call(pictures)
                if self._network.head is not None:
                    kept[:] = [self._network.head.anchors, self._network.head.strides]
                return self._select_candidates(raw[0] if isinstance(raw, (tuple, list)) else raw, box)

        return compute

    def _select_candidates(self, raw: Any, box: Letterbox) -> Any:
        """The best anchors of each picture: float32 (b, k, 6) from the raw head (b, 4 + model classes, anchors).

        An end-to-end head gives (b, k, 6) itself, with classes of the model.
        """
        raw = raw.float()
        if raw.shape[2] == 6:
            self._end_to_end = True
            boxes = torch.stack([raw[..., 0:4:2].clamp(0, box.width), raw[..., 1:4:2].clamp(0, box.height)], dim=3)
            classes = self._class_map[raw[..., 5].long()]
            scores = torch.where(classes >= 0, raw[..., 4], torch.zeros_like(raw[..., 4]))
            return torch.cat([boxes.flatten(2), scores[..., None], classes[..., None]], dim=2)
        scores, best = raw[:, 4:].max(dim=1)
        classes = self._class_map[best]
        scores = torch.where(classes >= 0, scores, torch.zeros_like(scores))
        top, chosen = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
        sides = raw[:, :4].gather(2, chosen[:, None].expand(-1, 4, -1)).transpose(1, 2)
        centre, half = sides[..., :2], sides[..., 2:] / 2
        corners = torch.cat([centre - half, centre + half], dim=2)
        x = corners[..., 0::2].clamp(0, box.width)
        y = corners[..., 1::2].clamp(0, box.height)
        boxes = torch.stack([x, y], dim=3).flatten(2)
        return torch.cat([boxes, top[..., None], classes.gather(1, chosen)[..., None]], dim=2)

    def _suppress(self, candidates: Any, side: int) -> Any:
        """Suppress the whole batch at once: float32 (n, 7), x1 y1 x2 y2 score class picture, best score first.

        Each picture and class is moved to a place of its own, so that one call does not mix them. In float64, since
        float32 would round the boxes of the last pictures to a thirtieth of a pixel.
        """
        picture, anchor = (candidates[..., 4] > self._confidence).nonzero(as_tuple=True)
        rows = torch.cat([candidates[picture, anchor], picture[:, None].float()], dim=1)
        if self._end_to_end:
            # Suppressed already, by its head.
            return rows[rows[:, 4].argsort(descending=True, stable=True)]
        group = rows[:, 6] * (len(self._class_map) + 64) + rows[:, 5]
        moved = rows[:, :4].double() + (group.double() * (side + 1))[:, None]
        return rows[torchvision.ops.nms(moved, rows[:, 4].double(), self._iou)]
