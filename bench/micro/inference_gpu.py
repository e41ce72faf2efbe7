"""From ring bytes to boxes on a CUDA device, beside the bare network as CUDA graphs, and Ultralytics.

Without a device there are no rows. One camera's geometry, 640x360 in a 640x384 input, in fp16. What the same settings
count wrongly on the demo's scenes, their average precision on labelled people (CROWDPERF_IMAGES) and the device memory
that they hold stand beside the speed. `measured` also runs on the processor, without graphs: so its test does.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench import accuracy
from bench.harness import Row, microseconds, paired
from bench.subject import BATCHES, INPUT, MODEL, RESULTS, SPEC, cuda, pictures, sweep, yolo_predict
from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import Detector
from crowdperf.models.loader import load_detector
from crowdperf.models.registry import resolve_model
from crowdperf.settings.engine import Inference

AHEAD = 3
"""Batches that are queued on the device at once, so that it never waits for this program."""


class Noted(Detector):
    """A detector that remembers how many frames its batches had."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector.backend, detector.model, detector.precision)
        self.sizes: deque[int] = deque(maxlen=10_000)

    def load(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> None:
        """Load as the detector does, and note the size."""
        self.sizes.append(len(frames))
        super().load(frames, specs)


class Graphs:
    """The network alone, its input on the device already: a CUDA graph per batch size; on the processor plain calls."""

    def __init__(self, device: str) -> None:
        from crowdperf.models.torch_network import load_network

        self._device = device
        self._network = load_network(resolve_model(MODEL, "person", "torch"), device)
        self._graphs: dict[int, Callable[[], object]] = {}
        self._queued: deque[Any] = deque()

    def run(self, size: int) -> None:
        """Queue one batch; waits for an earlier one where more than AHEAD are queued."""
        if size not in self._graphs:
            self._graphs[size] = self._make_graph(size)
        self._graphs[size]()
        if self._device == "cuda":
            import torch

            done = torch.cuda.Event()
            done.record()
            self._queued.append(done)
            if len(self._queued) > AHEAD:
                self._queued.popleft().synchronize()

    def settle(self) -> None:
        """Wait for all that is queued."""
        while self._queued:
            self._queued.popleft().synchronize()

    def _make_graph(self, size: int) -> Callable[[], object]:
        import torch

        picture = torch.rand((size, 3, *INPUT), device=self._device).to(
            dtype=self._network.dtype, memory_format=torch.channels_last
        )

        def call() -> Any:
            with torch.inference_mode():
                return self._network.call(picture)

        if self._device != "cuda":
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
        # The graph reads and writes these for as long as it lives; the head makes new anchors at the next shape.
        kept = (picture, result, self._network.head.anchors, self._network.head.strides)

        def replay(kept: object = kept) -> None:
            graph.replay()

        return replay


class GpuSubject:
    """The torch runtime on `device`, and its network as graphs.

    Args:
        batch: the largest that is measured.
    """

    suffix = "gpu"
    cameras = 64
    writers = 4

    def __init__(self, cache: Path, device: Literal["cuda", "cpu"] = "cuda", batch: int = BATCHES[-1]) -> None:
        self.settings = Inference(device=device, runtime="torch", precision="full")
        self.device, self.batch = device, batch
        self.detector = Noted(load_detector(self.settings, cache))
        rings = np.stack(pictures(batch))
        if self.detector.backend.pins:
            self.detector.backend.pin(rings)
        self.frames = list(rings)
        # Every batch size before anything is timed.
        self.detector.warm([SPEC])
        self.graphs = Graphs(device)

    def measure_detector_ms(self, count: int = 0, times: int = 3) -> float:
        """Milliseconds per frame, `count` of them (or the whole batch) at once."""
        frames = self.frames[: count or self.batch]
        return microseconds(lambda: self.detector.detect(frames, SPEC), times) / 1e3 / len(frames)

    def measure_pipelined_ms(self, times: int = 3) -> float:
        """Milliseconds per frame of whole batches, each loaded and started before the one before it is finished."""

        def work() -> None:
            begin()
            for _ in range(times - 1):
                begin()
                self.detector.finish(specs)
            self.detector.finish(specs)

        def begin() -> None:
            self.detector.load(self.frames, specs)
            self.detector.start()

        specs = [SPEC] * self.batch
        return microseconds(work, 1) / 1e3 / self.batch / times

    def bare(self, times: int = 3) -> float:
        """Milliseconds per frame of the network alone, in its largest batch."""
        return self.measure_network_ms(self.batch, times)

    def measure_network_ms(self, size: int, times: int) -> float:
        """Measure as `bare` does, in batches of that size."""

        def work() -> None:
            for _ in range(times):
                self.graphs.run(size)
            self.graphs.settle()

        self.graphs.run(size)
        self.graphs.settle()
        return microseconds(work, 1) / 1e3 / size / times

    def settle(self) -> None:
        """Wait for all that is queued."""
        self.graphs.settle()

    def compute(self) -> int:
        """Run one batch through the network alone: of the sizes that the detector was given, in their order."""
        size = self.detector.sizes[0] if self.detector.sizes else self.batch
        self.detector.sizes.rotate(-1)
        self.graphs.run(next(bucket for bucket in BATCHES if bucket >= size))
        return size


def rows(short: bool) -> list[Row]:
    """gpu_memory, detect, frame_ms, accuracy, inference_vs_yolo_predict and a sweep; nothing without a CUDA device."""
    if not cuda():
        return []
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as scratch:
        cache = Path(scratch)
        subject = GpuSubject(cache)
        held = memory(subject)
        right = accuracy.rows(subject.settings, subject.suffix, cache)
        return [*held, *right, *measured(subject, BATCHES, 9 if short else 25, cache)]


def memory(subject: GpuSubject) -> list[Row]:
    """gpu_memory/allocated and reserved: at most, with a graph for every batch size and nothing else on the device."""
    import torch

    for count in BATCHES:
        subject.measure_detector_ms(count, 1)
    figures = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    whole = f"device has {torch.cuda.mem_get_info()[1] / 2**20:.0f}"
    return [
        Row(name=f"gpu_memory/{name}", value=value / 2**20, unit="MiB", limit_or_peer=whole)
        for name, value in figures.items()
    ]


def measured(
    subject: GpuSubject, batches: Sequence[int], repetitions: int, cache: Path, results: Path = RESULTS, many: int = 8
) -> list[Row]:
    """detect, frame_ms/p50 and p99, inference_vs_yolo_predict, and the sweep over `batches`, drawn into `results`.

    Args:
        many: whole batches that are measured at a time.
    """
    for count in batches:
        subject.measure_detector_ms(count, 1)
    found = [
        paired(
            f"detect/{subject.suffix}",
            lambda: subject.measure_pipelined_ms(many),
            lambda: subject.bare(many),
            "the network alone, CUDA graph",
            unit="ms/frame",
            repetitions=repetitions,
        )
    ]
    alone = [subject.measure_detector_ms(1, 1) for _ in range(20 * repetitions)]
    for share in (50, 99):
        value = float(np.percentile(alone, share))
        name = f"frame_ms/p{share}/{subject.suffix}"
        found.append(Row(name=name, value=value, unit="ms", limit_or_peer="one frame alone"))
    predict = yolo_predict(cache, subject.device, subject.batch)
    if predict is not None:
        found.append(
            paired(
                f"inference_vs_yolo_predict/{subject.suffix}",
                lambda: 1e3 / subject.measure_pipelined_ms(many),
                lambda: 1e6 * subject.batch / microseconds(predict, 1),
                f"YOLO.predict, lists of {subject.batch}",
                unit="frames/s",
                repetitions=repetitions,
                better="higher",
            )
        )
    curves = {
        subject.suffix: [1e3 / min(subject.measure_detector_ms(count) for _ in range(3)) for count in batches],
        f"{subject.suffix}_bare": [
            1e3 / min(subject.measure_network_ms(count, many) for _ in range(3)) for count in batches
        ],
    }
    return [*found, *sweep(curves, batches, results / f"inference_sweep_{subject.suffix}.png")]
