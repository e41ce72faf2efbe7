"""One geometry's work with torch: its buffers, and for each batch size a CUDA graph from ring bytes to candidates."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from crowdperf.models.preprocess import Letterbox, PixelFormat
from crowdperf.models.torch_network import make_device_canvas

CAPTURE_LOCK = threading.RLock()
"""Held while a graph is captured, and by whatever waits for the whole device: torch captures one graph at a time in a
process, and a device-wide synchronisation on any thread ends a capture that is under way, whatever its mode."""

Compute = Callable[[Any, Any], Any]
"""Candidates of (b, frame bytes) and the canvas (b, 3, height, width) to paint them on."""


class CudaStreams(NamedTuple):
    """The CUDA streams of one model; all None on the processor.

    Lanes are used again and never shared: torch hands out 32 streams in turn, and one that another thread is recording
    would record what is meant to run. Each model records on a stream of its own, since the work space of its matrix
    products belongs to that stream.
    """

    copying: Any = None
    computing: Any = None
    finishing: Any = None
    """Of higher priority: small steps that somebody waits for, beside the next batch's long ones."""
    recording: Any = None


_free_streams: list[CudaStreams] = []


def acquire_streams(device: str) -> CudaStreams:
    """A lane for a model on `device` ("cuda" or "cpu"); give it back with `give_lane`."""
    if device != "cuda":
        return CudaStreams()
    if _free_streams:
        return _free_streams.pop()
    return CudaStreams(torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.Stream(priority=-1), torch.cuda.Stream())


def release_streams(streams: CudaStreams) -> None:
    """Nothing runs on it any more."""
    if streams.copying is not None:
        _free_streams.append(streams)


class GeometryBuffers:
    """The buffers of one picture size and format, for at most `rows` pictures; every batch size uses their beginning.

    Sharing them is safe since batches are computed one after the other, on one stream.
    """

    def __init__(self, rows: int, box: Letterbox, pix_fmt: PixelFormat, dtype: Any, device: str) -> None:
        self.rows, self.box, self.pix_fmt = rows, box, pix_fmt
        pixels = box.ring_width * box.ring_height
        frame_bytes = pixels * 3 // 2 if pix_fmt == "yuv420p" else pixels * 3
        # Buffers that are written from outside inference mode later, whatever mode this is.
        with torch.inference_mode(False):
            self.input = torch.zeros((rows, frame_bytes), dtype=torch.uint8, device=device)
            # While the network reads `input`, the next batch is copied into one of these.
            self._staging = [torch.zeros_like(self.input) for _ in range(2)] if device == "cuda" else [self.input]
            self.canvas = make_device_canvas(rows, box, dtype, device)
        if device == "cuda":
            # They were filled on this thread's stream; frames come on another.
            torch.cuda.current_stream().synchronize()
        self._staging_index = 0
        self.steps: dict[int, BatchStep] = {}

    def next_staging_buffer(self) -> Any:
        """The buffer for the next batch; with CUDA another one than the batch in computation came through."""
        self._staging_index += 1
        return self._staging[self._staging_index % len(self._staging)]


class BatchStep:
    """Everything up to the candidates for one batch size of a geometry."""

    def __init__(self, geometry: GeometryBuffers, bucket: int, compute: Compute) -> None:
        self.geometry, self.bucket = geometry, bucket
        self._compute = compute
        self._graph: Any = None
        self._output: Any = None

    def capture(self, streams: CudaStreams, pool: Any) -> None:
        """Warm up, as graph capture demands, and record the graph.

        Args:
            lane: of the model.
            pool: memory that all graphs of the model share: one replay has ended, and its output is copied, before the
                next one begins.
        """
        with CAPTURE_LOCK:
            with torch.cuda.stream(streams.recording):
                for _ in range(3):
                    self.compute()
            streams.recording.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Of this thread only: copies and replays of a model at work go on meanwhile on another one.
            with torch.cuda.graph(graph, pool=pool, stream=streams.recording, capture_error_mode="thread_local"):
                self._output = self.compute()
            self._graph = graph

    def compute(self) -> Any:
        """The candidates of what lies in `input`, without a graph."""
        return self._compute(self.geometry.input[: self.bucket], self.geometry.canvas[: self.bucket])

    def run(self, frames: Any, pictures: int) -> Any:
        """float32 (bucket, candidates, 6): x1 y1 x2 y2 score class, of the first `pictures` of a staging buffer."""
        if frames is not self.geometry.input:
            self.geometry.input[:pictures].copy_(frames[:pictures], non_blocking=True)
        if self._graph is None:
            return self.compute()
        self._graph.replay()
        # The next replay writes over the graph's own output, perhaps before this one has been read.
        return self._output.clone()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has no memory left: torch's allocator says so in one way, CUDA and its libraries in others."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "ALLOC_FAILED" in said


def use_stream(stream: Any) -> Any:
    """Work within on a CUDA stream, or wherever it is where there is none."""
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)
