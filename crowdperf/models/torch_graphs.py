"""Buffers of one geometry in torch, and a CUDA graph per batch size from ring bytes to candidates."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from crowdperf.models.preprocess import PAD_VALUE, Letterbox

CAPTURE_LOCK = threading.RLock()
"""Hold this to capture a graph or to synchronise the whole device. torch captures one graph at a time per process, and
a device-wide synchronisation on any thread aborts a running capture in every mode."""

Compute = Callable[[Any, Any], Any]
"""Computes candidates from frames (b, frame bytes) and a canvas (b, 3, height, width) that they are painted on."""


class CudaStreams(NamedTuple):
    """CUDA streams of one model; all None on the processor.

    Streams are reused but never shared. torch hands out 32 streams in turn, and work on a stream that another thread
    captures would be recorded instead of run. The workspace of matrix products belongs to the recording stream.
    """

    copying: Any = None
    computing: Any = None
    finishing: Any = None
    """This stream has higher priority: short suppression steps run between the long steps of the next batch."""
    recording: Any = None


_free_streams: list[CudaStreams] = []


def acquire_streams(device: str) -> CudaStreams:
    """Acquire the streams for a model on `device` ("cuda" or "cpu"); return them with `release_streams`."""
    if device != "cuda":
        return CudaStreams()
    if _free_streams:
        return _free_streams.pop()
    return CudaStreams(torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.Stream(priority=-1), torch.cuda.Stream())


def release_streams(streams: CudaStreams) -> None:
    """Return streams on which nothing runs any more."""
    if streams.copying is not None:
        _free_streams.append(streams)


class GeometryBuffers:
    """Buffers of one picture size and format.

    All batch sizes use the same memory. That is safe since batches are computed one after the other, on one stream.

    Args:
        rows: largest number of pictures in a batch.
        box: place of the picture in the input.
        dtype: type of the network's input.
        device: "cuda" or "cpu".
    """

    def __init__(self, rows: int, box: Letterbox, dtype: Any, device: str) -> None:
        self.rows, self.box = rows, box
        pixels = box.ring_width * box.ring_height
        frame_bytes = pixels * 3 // 2 if box.pix_fmt == "yuv420p" else pixels * 3
        # These buffers are also written outside inference mode.
        with torch.inference_mode(False):
            self.input = torch.zeros((rows, frame_bytes), dtype=torch.uint8, device=device)
            # While the network reads `input`, the next batch is copied into one of these.
            self._staging = [torch.zeros_like(self.input) for _ in range(2)] if device == "cuda" else [self.input]
            grey = torch.full((rows, box.height, box.width, 3), PAD_VALUE / 255, dtype=dtype, device=device)
            # The shape that networks expect, (rows, 3, height, width), with channels last in memory.
            self.canvas = grey.permute(0, 3, 1, 2)
        if device == "cuda":
            # The buffers were filled on this thread's stream; frames arrive on another.
            torch.cuda.current_stream().synchronize()
        self.has_worked = False
        """True once the network has computed pictures of this geometry."""
        self._staging_index = 0
        buffers = (self.input, self.canvas, *self._staging[: len(self._staging) if device == "cuda" else 0])
        self.byte_count: int = sum(buffer.numel() * buffer.element_size() for buffer in buffers)
        """Memory of the buffers."""
        self.steps: dict[int, BatchStep] = {}

    def next_staging_buffer(self) -> Any:
        """Return the buffer for the next batch; on CUDA it differs from that of the running batch."""
        self._staging_index += 1
        return self._staging[self._staging_index % len(self._staging)]


class BatchStep:
    """Computes the candidates for one batch size of a geometry, without a graph until `capture`.

    Args:
        geometry: the buffers.
        bucket: batch size.
        compute: from frames to candidates.
    """

    def __init__(self, geometry: GeometryBuffers, bucket: int, compute: Compute) -> None:
        self.geometry, self.bucket = geometry, bucket
        self._compute = compute
        self._graph: Any = None
        self._output: Any = None

    def capture(self, streams: CudaStreams, pool: Any) -> None:
        """Warm up, as graph capture requires, and record the graph.

        All graphs of the model share the memory `pool`. Each replay ends, and its output is copied, before the next one
        starts.
        """
        with CAPTURE_LOCK:
            with torch.cuda.stream(streams.recording):
                for _ in range(3):
                    self.compute()
            streams.recording.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Capture this thread only: a running model goes on copying and replaying on another thread.
            with torch.cuda.graph(graph, pool=pool, stream=streams.recording, capture_error_mode="thread_local"):
                self._output = self.compute()
            self._graph = graph

    def compute(self) -> Any:
        """Compute the candidates of the frames in `input`, without a graph."""
        return self._compute(self.geometry.input[: self.bucket], self.geometry.canvas[: self.bucket])

    def run(self, frames: Any, pictures: int) -> Any:
        """Compute the first `pictures` of a staging buffer: float32 (bucket, candidates, 6)."""
        if frames is not self.geometry.input:
            self.geometry.input[:pictures].copy_(frames[:pictures], non_blocking=True)
        if self._graph is None:
            return self.compute()
        self._graph.replay()
        # The next replay overwrites the graph's output, perhaps before it has been read.
        return self._output.clone()


def is_out_of_memory(error: Exception) -> bool:
    """Check for an out-of-memory error, of torch's allocator or of CUDA and its libraries."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text


def use_stream(stream: Any) -> Any:
    """Return a context that runs on a CUDA stream; without a stream it does nothing."""
    return contextlib.nullcontext() if stream is None else torch.cuda.stream(stream)
