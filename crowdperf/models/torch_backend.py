"""Torch backend: CUDA, and the same code on the processor for own weights and tests.

A batch goes by DMA into a fixed device buffer. Colour, padding, network and candidate selection are one CUDA graph per
batch size and geometry. One call suppresses the whole batch, and one copy brings the result to the host. Ultralytics
only builds and fuses the network: its `predict` was measured at a tenth of this speed (docs/models.md).
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from crowdperf.models import torch_graphs, torch_network
from crowdperf.models.geometry_store import MEMORY_SHARE
from crowdperf.models.postprocess import MAX_CANDIDATES, MAX_DETECTIONS, Detections
from crowdperf.models.preprocess import Letterbox
from crowdperf.models.registry import ModelError, ModelPath, build_class_map
from crowdperf.models.threads import limit_threads
from crowdperf.models.torch_graphs import CAPTURE_LOCK, BatchStep, GeometryBuffers, is_out_of_memory, use_stream
from crowdperf.runtime.control_group import find_usable_memory
from crowdperf.runtime.timings import StageTimings
from crowdperf.settings.engine import Inference

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that have a graph; a batch is padded to the next one."""
MAX_GEOMETRIES = 8
"""Number of picture sizes kept in any case, more while open rings need them; the least recently used goes first."""

log = logging.getLogger(__name__)


class _BatchPart(NamedTuple):
    """Frames of a batch that share a step: all of them, or fewer if the device is short of memory."""

    step: BatchStep
    pictures: int
    frames: Any


class _InFlightPart(NamedTuple):
    """A part that is being computed."""

    part: _BatchPart
    candidates: Any
    done: Any
    """A CUDA event, or None."""


class TorchBackend:
    """Run a detection model with torch, or raise ModelError.

    On CUDA three streams overlap: copies of the next batch, the network, and suppression of the previous batch.
    `prepare` may run on another thread than the rest.

    Args:
        model: weights or a TensorRT engine.
        settings: for confidence, iou and the processor's threads; 0 leaves torch's default where it fits.
        device: "cuda" or "cpu".
    """

    name = "torch"

    def __init__(self, model: ModelPath, settings: Inference, device: str) -> None:
        self.device = device
        self.pins = self.overlaps = device == "cuda"
        self.max_batch = BUCKETS[-1]
        self.stages = StageTimings()
        self._confidence, self._iou = settings.confidence, settings.iou
        # Rings may be mapped read-only; nothing is ever written to a frame's tensor.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        if device == "cpu":
            threads = limit_threads(settings.threads)
            torch.set_num_threads(threads if settings.threads else min(threads, torch.get_num_threads()))
        self._network = torch_network.load_network(model, device)
        self.names = model.classes or self._network.names
        class_map = build_class_map(self.names, model)
        self._class_map = torch.from_numpy(class_map.astype(np.float32)).to(device)
        self._geometries: OrderedDict[Letterbox, GeometryBuffers] = OrderedDict()
        self._preparing: dict[Letterbox, Future[None]] = {}
        self._preparer = ThreadPoolExecutor(1, "capture")
        self._failures: dict[Letterbox, ModelError] = {}
        """Why geometries could not be prepared: it would be the same at every frame."""
        self._needed: frozenset[Letterbox] = frozenset()
        self._end_to_end = False
        self._streams = torch_graphs.acquire_streams(device)
        weakref.finalize(self, torch_graphs.release_streams, self._streams)
        self._pool: Any = torch.cuda.graph_pool_handle() if self._network.supports_graphs else None
        self._loaded: list[_BatchPart] = []
        self._started: deque[list[_InFlightPart]] = deque()

    def load(self, frames: Sequence[NDArray[np.uint8]], box: Letterbox) -> None:
        """Copy ring frames to the device, and wait for the copies."""
        self._loaded = []
        if box in self._failures:
            raise self._failures[box]
        rest = list(frames)
        while rest:
            step = self._find_step(len(rest), box)
            began = perf_counter()
            part, rest = rest[: step.bucket], rest[step.bucket :]
            staging = step.geometry.next_staging_buffer()
            if any(loaded.frames is staging for loaded in self._loaded):
                # Out of memory: this batch has more parts than there are buffers.
                staging = torch.empty_like(staging)
            with use_stream(self._streams.copying):
                for row, frame in zip(staging[: len(part)].unbind(0), part, strict=True):
                    row.copy_(torch.from_numpy(frame), non_blocking=True)
            self._loaded.append(_BatchPart(step, len(part), staging))
            self.stages.add("copy", perf_counter() - began)
        if self._streams.copying is not None:
            began = perf_counter()
            self._streams.copying.synchronize()
            self.stages.add("copy", perf_counter() - began)

    def start(self) -> None:
        """Start to compute the loaded frames; `finish` returns batches in the order of their start."""
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
        """Compute float32 (n, candidates, 6) of a part, in smaller pieces if memory runs out."""
        geometry = part.step.geometry
        box = geometry.box
        try:
            candidates = part.step.run(part.frames, part.pictures)
            geometry.has_worked = True
            return candidates
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            if not is_out_of_memory(error):
                if geometry.has_worked:
                    raise
                # A model may be unable to compute one size, as a TensorRT engine above its profile.
                raise self._record_failure(box, error) from error
        self._shrink(part.step.bucket, box)
        pieces = []
        pictures = part.frames[: part.pictures]
        while len(pictures):
            step = self._find_step(len(pictures), box)
            piece, pictures = pictures[: step.bucket], pictures[step.bucket :]
            pieces.append(self._compute_part(_BatchPart(step, len(piece), piece))[: len(piece)])
        return torch.cat(pieces)

    def finish(self) -> list[Detections]:
        """Return the detections of the oldest started batch; boxes in pixels of the model input."""
        detections: list[Detections] = []
        for part, candidates, done in self._started.popleft():
            began = perf_counter()
            if done is not None:
                done.synchronize()
                candidates.record_stream(self._streams.finishing)
            computed = perf_counter()
            box = part.step.geometry.box
            with torch.inference_mode(), use_stream(self._streams.finishing):
                rows = self._suppress(candidates[: part.pictures], max(box.width, box.height)).cpu().numpy()
            # Group by picture; each group keeps its best score first.
            rows = rows[np.argsort(rows[:, 6], kind="stable")]
            classes = rows[:, 5].astype(np.uint8)
            ends = np.searchsorted(rows[:, 6], np.arange(part.pictures + 1)).tolist()
            for first, end in pairwise(ends):
                part_rows = slice(first, min(end, first + MAX_DETECTIONS))
                detections.append(Detections(rows[part_rows, :4].copy(), rows[part_rows, 4].copy(), classes[part_rows]))
            self.stages.add("infer", computed - began)
            self.stages.add("postprocess", perf_counter() - computed)
        return detections

    pin = staticmethod(torch_network.pin_buffer)
    unpin = staticmethod(torch_network.unpin_buffer)

    def prepare(self, box: Letterbox) -> None:
        """Capture a graph for every batch size, in about a second; does nothing on the processor.

        The largest comes first, since all graphs share its memory.
        """
        if self.device != "cuda":
            return
        for bucket in reversed(BUCKETS):
            if bucket > self.max_batch:
                continue
            try:
                step = self._find_step(bucket, box)
                if not self._network.supports_graphs:
                    with torch.inference_mode():
                        step.compute()
            except (ValueError, AssertionError) as error:
                # A TensorRT engine has a maximum batch size.
                if bucket == 1:
                    raise ModelError(
                        f"the model cannot run at {box.width}x{box.height}: {error}. Remedy: export it with "
                        "dynamic=True, for sizes up to the cameras'."
                    ) from error
                self.max_batch = bucket // 2

    def ready(self, box: Letterbox) -> bool:
        """Check whether the graphs exist; if not, start to capture them in the background."""
        if not self._network.supports_graphs or (box in self._geometries and box not in self._preparing):
            return True
        if box in self._failures:
            return True
        if box not in self._preparing:
            # Drop results that were never used: their cameras stopped before the size was ready.
            for done in [other for other, future in self._preparing.items() if future.done()][: 1 - MAX_GEOMETRIES]:
                del self._preparing[done]
            self._preparing[box] = self._preparer.submit(self.prepare, box)
        if not self._preparing[box].done():
            return False
        error = self._preparing.pop(box).exception()
        if error is not None:
            self._record_failure(box, error)
        return True

    def retain(self, boxes: Collection[Letterbox]) -> None:
        """Keep as many geometries as open rings need; forget the failures of all others."""
        self._needed = frozenset(boxes)
        for box in self._failures.keys() - self._needed:
            del self._failures[box]

    def _record_failure(self, box: Letterbox, error: BaseException) -> ModelError:
        """Keep a failure to prepare a geometry, which concerns its cameras only; raise a device's own."""
        if "CUDA error" in str(error):
            raise error
        if not isinstance(error, ModelError):
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            error = ModelError(
                f"the model cannot be prepared for pictures of {box.width}x{box.height}: {reason}. "
                "Remedy: change the camera's analysis_width, or use another model."
            )
        while len(self._failures) >= MAX_GEOMETRIES + len(self._needed):
            del self._failures[next(iter(self._failures))]
        self._failures[box] = error
        return error

    def empty_cache(self) -> None:
        """Release unused device memory, unless a graph is being captured."""
        if self.device == "cuda" and CAPTURE_LOCK.acquire(blocking=False):
            try:
                torch.cuda.empty_cache()
            finally:
                CAPTURE_LOCK.release()

    def _find_step(self, count: int, box: Letterbox) -> BatchStep:
        """Return the step for that many frames, or for fewer if the device is short of memory."""
        while True:
            bucket = next(bucket for bucket in BUCKETS if bucket >= min(count, self.max_batch))
            try:
                return self._get_or_build_step(box, bucket)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._shrink(bucket, box)

    def _shrink(self, bucket: int, box: Letterbox) -> None:
        """Halve the largest batch after an out-of-memory error, and release the buffers of larger ones."""
        if bucket == 1:
            raise ModelError(
                f"the device has no memory for one picture of {box.width}x{box.height}. Remedy: stop other programs "
                "that use it, lower analysis_width, or use a smaller model."
            )
        self.max_batch = min(self.max_batch, bucket // 2)
        for large in [one for one, geometry in self._geometries.items() if geometry.rows > self.max_batch]:
            del self._geometries[large]
        log.warning("out of device memory with %d pictures per batch, continuing with %d", bucket, self.max_batch)
        if self.device == "cuda":
            with CAPTURE_LOCK:
                torch.cuda.empty_cache()

    def _get_or_build_step(self, box: Letterbox, bucket: int) -> BatchStep:
        geometry = self._geometries.get(box)
        if geometry is not None and bucket in geometry.steps:
            self._geometries.move_to_end(box)
            return geometry.steps[bucket]
        with CAPTURE_LOCK:
            if geometry is None or geometry.rows < bucket:
                # Graphs refer to these buffers, so a device gets the final size at once.
                rows = self.max_batch if self.device == "cuda" else bucket
                self._geometries[box] = geometry = GeometryBuffers(rows, box, self._network.dtype, self.device)
                while len(self._geometries) > max(MAX_GEOMETRIES, self._count_fitting(geometry)):
                    self._geometries.popitem(last=False)
            step = BatchStep(geometry, bucket, self._make_compute(box))
            if self._network.supports_graphs:
                step.capture(self._streams, self._pool)
            geometry.steps[bucket] = step
            return step

    def _count_fitting(self, geometry: GeometryBuffers) -> int:
        """Count the geometries that open rings need, as far as they fit into their share of memory."""
        if self.device == "cuda":
            memory = int(torch.cuda.get_device_properties(0).total_memory)
        else:
            memory = find_usable_memory()
        return min(len(self._needed), int(memory * MEMORY_SHARE) // geometry.byte_count)

    def _make_compute(self, box: Letterbox) -> Any:
        """Build the function of a step; it holds what must live as long as the step's graph."""
        # A graph refers to the head's anchors, and the network replaces these at every new shape. This list keeps their
        # memory from being reused while the graph exists.
        graph_references: list[Any] = []

        def compute(frames: Any, canvas: Any) -> Any:
            with torch.inference_mode():
                began = perf_counter()
                torch_network.paint_batch(frames, box, canvas)
                if not self._network.supports_graphs:
                    spent = perf_counter() - began
                    self.stages.add("preprocess", spent)
                    self.stages.add("infer", -spent)
                raw = self._network.call(canvas)
                if self._network.head is not None:
                    graph_references[:] = [self._network.head.anchors, self._network.head.strides]
                return self._select_candidates(raw[0] if isinstance(raw, (tuple, list)) else raw, box)

        return compute

    def _select_candidates(self, raw: Any, box: Letterbox) -> Any:
        """Select the best anchors of each picture: float32 (b, k, 6), x1 y1 x2 y2 score class.

        The raw head is (b, 4 + model classes, anchors), or (b, k, 6) from an end-to-end model.
        """
        raw = raw.float()
        if raw.shape[2] == 6:
            self._end_to_end = True
            corners, scores, classes = raw[..., :4], raw[..., 4], self._class_map[raw[..., 5].long()]
            scores = torch.where(classes >= 0, scores, torch.zeros_like(scores))
        else:
            scores, best = raw[:, 4:].max(dim=1)
            classes = self._class_map[best]
            scores = torch.where(classes >= 0, scores, torch.zeros_like(scores))
            scores, chosen = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
            classes = classes.gather(1, chosen)
            sides = raw[:, :4].gather(2, chosen[:, None].expand(-1, 4, -1)).transpose(1, 2)
            centre, half = sides[..., :2], sides[..., 2:] / 2
            corners = torch.cat([centre - half, centre + half], dim=2)
        boxes = torch.stack([corners[..., 0::2].clamp(0, box.width), corners[..., 1::2].clamp(0, box.height)], dim=3)
        return torch.cat([boxes.flatten(2), scores[..., None], classes[..., None]], dim=2)

    def _suppress(self, candidates: Any, side: int) -> Any:
        """Suppress the whole batch at once: float32 (n, 7), x1 y1 x2 y2 score class picture, best score first.

        One call handles all pictures and classes: each pair gets its own offset. The offsets need float64, since
        float32 would round the boxes of the last pictures to a thirtieth of a pixel.
        """
        picture, anchor = (candidates[..., 4] > self._confidence).nonzero(as_tuple=True)
        rows = torch.cat([candidates[picture, anchor], picture[:, None].float()], dim=1)
        if self._end_to_end:
            # The head has suppressed already.
            return rows[rows[:, 4].argsort(descending=True, stable=True)]
        group = rows[:, 6] * (len(self._class_map) + 64) + rows[:, 5]
        shifted = rows[:, :4].double() + (group.double() * (side + 1))[:, None]
        return rows[torchvision.ops.nms(shifted, rows[:, 4].double(), self._iou)]
