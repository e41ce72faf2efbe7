"""The torch runtime: CUDA where there is one, and the same code on the processor (user weights, tests).

One batch: ring bytes by DMA into a fixed device buffer; colour, padding, network and candidate selection as one CUDA
graph per batch size and geometry; suppression of the whole batch by one call; one copy of the result to the host.
Ultralytics builds and fuses the network and nothing else: its `predict` and per-image suppression were measured at a
tenth of this speed (docs/models.md).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from crowdperf.inference.letterbox import Letterbox
from crowdperf.inference.network import read_network
from crowdperf.inference.nms import MAX_CANDIDATES, MAX_DETECTIONS, Found
from crowdperf.inference.pixels import PixelFormat
from crowdperf.inference.registry import ModelError, ModelPath, wanted_classes
from crowdperf.inference.stages import Stages
from crowdperf.inference.torch_pixels import to_input

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes with a graph of their own; a batch is padded to the next one."""
GRAPHS = 28
"""Graphs that are kept: four geometries in every bucket. The oldest goes first."""

log = logging.getLogger(__name__)


class _Step:
    """Everything up to the candidates for one bucket and geometry, with its fixed buffers."""

    def __init__(self, compute: Callable[[Any], Any], bucket: int, frame_bytes: int, device: Any) -> None:
        self.bucket = bucket
        # Buffers that are written from outside inference mode later, whatever mode this is.
        with torch.inference_mode(False):
            self.input = torch.zeros((bucket, frame_bytes), dtype=torch.uint8, device=device)
            # While the network reads `input`, the next batch is copied into one of these.
            self._staging = [torch.zeros_like(self.input) for _ in range(2)] if device == "cuda" else [self.input]
        if device == "cuda":
            # The zeros are written on this thread's stream, the first frames on another.
            torch.cuda.synchronize()
        self._turn = 0
        self._output: Any = None
        self._graph: Any = None
        self._compute = compute

    def staging(self) -> Any:
        """The buffer for the next batch; with CUDA another one than the batch in computation came through."""
        self._turn += 1
        return self._staging[self._turn % len(self._staging)]

    def capture(self) -> None:
        """Warm up on a side stream, as graph capture demands, and record the graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._compute(self.input)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Of this thread only: another model may be prepared on another one at the same time.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._output = self._compute(self.input)
        self._graph = graph

    def run(self, frames: Any) -> Any:
        """float32 (bucket, candidates, 6): x1 y1 x2 y2 score class, of frames that lie in a staging buffer."""
        if frames is not self.input:
            self.input[: len(frames)].copy_(frames, non_blocking=True)
        if self._graph is None:
            return self._compute(self.input)
        self._graph.replay()
        # The next replay writes over the graph's own output, perhaps before this one has been read.
        return self._output.clone()


class _Part(NamedTuple):
    """Frames of a batch that share a step: all of them, or fewer where the device has too little memory."""

    step: _Step
    box: Letterbox
    pix_fmt: PixelFormat
    pictures: int
    frames: Any
    """The staging buffer that they lie in."""


class _Flight(NamedTuple):
    """A part that is being computed."""

    part: _Part
    candidates: Any
    done: Any
    """A CUDA event, or None."""


class TorchRuntime:
    """Runs a detection model with torch on `device` ("cuda" or "cpu").

    On CUDA three streams overlap: copies of the next batch, the network, and suppression of the one before.

    Raises:
        ModelError: the file is no detection model of Ultralytics, or its classes do not fit.
    """

    name = "torch"

    def __init__(self, model: ModelPath, confidence: float, iou: float, threads: int, device: str) -> None:
        self.device = device
        self.pins = self.overlaps = device == "cuda"
        self.max_batch = BUCKETS[-1]
        self.stages = Stages()
        self._confidence, self._iou = confidence, iou
        # Rings are mapped for reading where nothing needs more, and nothing is ever written to a frame's tensor.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        if device == "cpu" and threads:
            torch.set_num_threads(threads)
        self._network = read_network(model, device)
        self.names = model.classes or self._network.names
        wanted = wanted_classes(self.names, model)
        self._wanted = torch.from_numpy(wanted.astype(np.float32)).to(device)
        self._steps: dict[tuple[Letterbox, PixelFormat, int], _Step] = {}
        self._pinned: set[int] = set()
        self._end_to_end = False
        streams: list[Any] = [torch.cuda.Stream() if device == "cuda" else None for _ in range(3)]
        self._copying, self._computing, self._finishing = streams
        self._loaded: list[_Part] = []
        self._started: deque[list[_Flight]] = deque()

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Copy ring frames to the device; returns when the copies are complete."""
        self._loaded = []
        rest = list(frames)
        while rest:
            step = self._step_for(len(rest), box, pix_fmt, len(rest[0]))
            began = perf_counter()
            part, rest = rest[: step.bucket], rest[step.bucket :]
            staging = step.staging()
            if any(loaded.frames is staging for loaded in self._loaded):
                # Memory ran out: more parts than buffers, once.
                staging = torch.empty_like(staging)
            with _on(self._copying):
                for index, frame in enumerate(part):
                    staging[index].copy_(torch.from_numpy(frame), non_blocking=True)
            self._loaded.append(_Part(step, box, pix_fmt, len(part), staging))
            self.stages.add("copy", perf_counter() - began)
        if self._copying is not None:
            began = perf_counter()
            self._copying.synchronize()
            self.stages.add("copy", perf_counter() - began)

    def start(self) -> None:
        """Begin to compute what was loaded; `finish` gives the results in the order of the starts."""
        began = perf_counter()
        flights = []
        with torch.inference_mode(), _on(self._computing):
            for part in self._loaded:
                candidates = self._computed(part)
                done = torch.cuda.Event() if self._computing is not None else None
                if done is not None:
                    done.record()
                flights.append(_Flight(part, candidates, done))
        self._started.append(flights)
        self._loaded = []
        self.stages.add("infer", perf_counter() - began)

    def _computed(self, part: _Part) -> Any:
        """float32 (n, candidates, 6) of a part, in smaller pieces where the device runs out of memory."""
        try:
            return part.step.run(part.frames)
        except torch.OutOfMemoryError:
            self._shrink(part.step.bucket, part.box)
        pieces = []
        pictures = part.frames[: part.pictures]
        while len(pictures):
            piece = pictures[: self.max_batch]
            bucket = next(size for size in BUCKETS if size >= len(piece))
            step = self._step(part.box, part.pix_fmt, bucket, pictures.shape[1])
            staged = step.staging()
            staged[: len(piece)].copy_(piece)
            pieces.append(self._computed(_Part(step, part.box, part.pix_fmt, len(piece), staged))[: len(piece)])
            pictures = pictures[len(piece) :]
        return torch.cat(pieces)

    def finish(self) -> list[Found]:
        """Detections of the oldest batch that was started; boxes in pixels of the model input."""
        found: list[Found] = []
        for part, candidates, done in self._started.popleft():
            began = perf_counter()
            if done is not None:
                done.synchronize()
                candidates.record_stream(self._finishing)
            computed = perf_counter()
            with torch.inference_mode(), _on(self._finishing):
                side = max(part.box.width, part.box.height)
                rows = self._suppress(candidates[: part.pictures], side).cpu().numpy()
            for index in range(part.pictures):
                own = rows[rows[:, 6] == index][:MAX_DETECTIONS]
                found.append(Found(own[:, :4].copy(), own[:, 4].copy(), own[:, 5].astype(np.uint8)))
            self.stages.add("infer", computed - began)
            self.stages.add("postprocess", perf_counter() - computed)
        return found

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """Page-lock a ring: its frames then reach the device at full speed, straight from shared memory."""
        code = torch.cuda.cudart().cudaHostRegister(buffer.ctypes.data, buffer.nbytes, 0)
        if int(code) == 0:
            self._pinned.add(buffer.ctypes.data)
        else:
            log.warning("a ring of %d bytes cannot be page-locked (CUDA error %s): slower copies", buffer.nbytes, code)

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Undo `pin`."""
        if buffer.ctypes.data in self._pinned:
            self._pinned.remove(buffer.ctypes.data)
            torch.cuda.cudart().cudaHostUnregister(buffer.ctypes.data)

    def ready(self, box: Letterbox) -> bool:
        """Every geometry runs at once; what CUDA captures for a new one takes milliseconds."""
        return True

    def empty_cache(self) -> None:
        """Give unused device memory back."""
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _step_for(self, count: int, box: Letterbox, pix_fmt: PixelFormat, frame_bytes: int) -> _Step:
        """The step for that many frames, or for as many of them as the device has memory for."""
        while True:
            bucket = next(size for size in BUCKETS if size >= min(count, self.max_batch))
            try:
                return self._step(box, pix_fmt, bucket, frame_bytes)
            except torch.OutOfMemoryError:
                self._shrink(bucket, box)

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
        for key in [key for key in self._steps if key[2] > self.max_batch]:
            del self._steps[key]
        log.warning("out of device memory at %d pictures at once: %d from now on", bucket, self.max_batch)
        self.empty_cache()

    def _step(self, box: Letterbox, pix_fmt: PixelFormat, bucket: int, frame_bytes: int) -> _Step:
        key = (box, pix_fmt, bucket)
        if key not in self._steps:
            while len(self._steps) >= GRAPHS:
                del self._steps[next(iter(self._steps))]
            # Each graph refers to the anchors of its own copy of the head, which the network replaces at every new
            # shape: kept in the closure, their memory cannot be given to anything else while the graph lives.
            kept: list[Any] = []

            def compute(frames: Any) -> Any:
                with torch.inference_mode():
                    began = perf_counter()
                    pictures = to_input(frames, pix_fmt, box, self._network.dtype)
                    if not self._network.graphs:
                        spent = perf_counter() - began
                        self.stages.add("preprocess", spent)
                        self.stages.add("infer", -spent)
                    raw = self._network.call(pictures)
                    if self._network.head is not None:
                        kept[:] = [self._network.head.anchors, self._network.head.strides]
                    return self._candidates(raw[0] if isinstance(raw, (tuple, list)) else raw, box)

            step = _Step(compute, bucket, frame_bytes, self.device)
            if self._network.graphs:
                step.capture()
            elif self.device == "cuda":
                step.run(step.input)
            self._steps[key] = step
        return self._steps[key]

    def _candidates(self, raw: Any, box: Letterbox) -> Any:
        """The best anchors of each picture: float32 (b, k, 6) from the raw head (b, 4 + model classes, anchors).

        An end-to-end head gives (b, k, 6) itself, with classes of the model.
        """
        raw = raw.float()
        if raw.shape[2] == 6:
            self._end_to_end = True
            boxes = torch.stack([raw[..., 0:4:2].clamp(0, box.width), raw[..., 1:4:2].clamp(0, box.height)], dim=3)
            classes = self._wanted[raw[..., 5].long()]
            scores = torch.where(classes >= 0, raw[..., 4], torch.zeros_like(raw[..., 4]))
            return torch.cat([boxes.flatten(2), scores[..., None], classes[..., None]], dim=2)
        scores, best = raw[:, 4:].max(dim=1)
        classes = self._wanted[best]
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
        group = rows[:, 6] * (len(self._wanted) + 64) + rows[:, 5]
        moved = rows[:, :4].double() + (group.double() * (side + 1))[:, None]
        # An end-to-end head has suppressed already: nothing overlaps by more than all of it.
        overlap = 1.0 if self._end_to_end else self._iou
        return rows[torchvision.ops.nms(moved, rows[:, 4].double(), overlap)]


def _on(stream: Any) -> Any:
    """Work within on a CUDA stream, or wherever it is where there is none."""
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)
