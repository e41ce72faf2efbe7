"""The torch runtime: CUDA where there is one, and the same code on the processor (user weights, tests).

One batch: ring bytes by DMA into a fixed device buffer; colour, padding, network and candidate selection as one CUDA
graph per batch size and geometry; suppression of the whole batch by one call; one copy of the result to the host.
Ultralytics builds and fuses the network and nothing else: its `predict` and per-image suppression were measured at a
tenth of this speed (docs/models.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

from crowdperf.inference.letterbox import Letterbox
from crowdperf.inference.network import read_network
from crowdperf.inference.nms import MAX_CANDIDATES, MAX_DETECTIONS, Found
from crowdperf.inference.pixels import PixelFormat
from crowdperf.inference.registry import ModelPath, wanted_classes
from crowdperf.inference.torch_pixels import to_input

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes with a graph of their own; a batch is padded to the next one."""
GRAPHS = 28
"""Graphs that are kept: four geometries in every bucket. The oldest goes first."""

log = logging.getLogger(__name__)


class _Step:
    """Everything up to the candidates for one bucket and geometry, with its fixed buffers."""

    def __init__(self, compute: Callable[[Any], Any], bucket: int, frame_bytes: int, device: Any) -> None:
        self.input = torch.zeros((bucket, frame_bytes), dtype=torch.uint8, device=device)
        self.output: Any = None
        self.graph: Any = None
        self._compute = compute

    def capture(self) -> None:
        """Warm up on a side stream, as graph capture demands, and record the graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._compute(self.input)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self._compute(self.input)

    def run(self) -> Any:
        """float32 (bucket, candidates, 6): x1 y1 x2 y2 score class, of what lies in `input`."""
        if self.graph is None:
            return self._compute(self.input)
        self.graph.replay()
        return self.output


class TorchRuntime:
    """Runs a detection model with torch on `device` ("cuda" or "cpu").

    Raises:
        ModelError: the file is no detection model of Ultralytics, or its classes do not fit.
    """

    name = "torch"
    max_batch = BUCKETS[-1]

    def __init__(self, model: ModelPath, confidence: float, iou: float, threads: int, device: str) -> None:
        self.device = device
        self.pins = device == "cuda"
        self._confidence, self._iou = confidence, iou
        if device == "cpu" and threads:
            torch.set_num_threads(threads)
        self._network = read_network(model, device)
        wanted = wanted_classes(model.classes or self._network.names, model)
        self._wanted = torch.from_numpy(wanted.astype(np.float32)).to(device)
        self._steps: dict[tuple[Letterbox, PixelFormat, int], _Step] = {}
        self._pinned: set[int] = set()
        self._end_to_end = False
        self._loaded: tuple[_Step, Letterbox, int] | None = None

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Copy ring frames to the device; returns when the copies are complete."""
        bucket = next(size for size in BUCKETS if size >= len(frames))
        step = self._step(box, pix_fmt, bucket, len(frames[0]))
        for index, frame in enumerate(frames):
            step.input[index].copy_(torch.from_numpy(frame), non_blocking=True)
        if self.device == "cuda":
            torch.cuda.current_stream().synchronize()
        self._loaded = (step, box, len(frames))

    def run(self) -> list[Found]:
        """Detections of the loaded frames; boxes in pixels of the model input."""
        assert self._loaded is not None, "load comes before run"
        step, box, count = self._loaded
        with torch.inference_mode():
            rows = self._suppress(step.run()[:count], max(box.width, box.height)).cpu().numpy()
        found = []
        for index in range(count):
            own = rows[rows[:, 6] == index][:MAX_DETECTIONS]
            found.append(Found(own[:, :4].copy(), own[:, 4].copy(), own[:, 5].astype(np.uint8)))
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
                    raw = self._network.call(to_input(frames, pix_fmt, box, self._network.dtype))
                    if self._network.head is not None:
                        kept[:] = [self._network.head.anchors, self._network.head.strides]
                    return self._candidates(raw[0] if isinstance(raw, (tuple, list)) else raw, box)

            step = _Step(compute, bucket, frame_bytes, self.device)
            if self._network.graphs:
                step.capture()
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
