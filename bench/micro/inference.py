"""From ring bytes to boxes on the processor, beside the bare compiled model, the other precision and Ultralytics.

One camera's geometry, 640x360 in a 640x384 input, and as many frames at once as the runtime takes. What the same
settings count wrongly on the demo's scenes, and their average precision on labelled people (CROWDPERF_IMAGES), stand
beside every speed. The full form also sweeps the
number of frames that wait at once, 1 to 64, and draws it into bench/results/ where matplotlib is installed.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench import accuracy
from bench.harness import Row, microseconds, paired
from bench.subject import BATCHES, RESULTS, SPEC, pictures, sweep, yolo_predict
from crowdperf.models.loader import load_detector
from crowdperf.models.openvino_backend import MAX_BATCHES_IN_FLIGHT, OpenvinoBackend
from crowdperf.models.preprocess import letterbox
from crowdperf.settings.engine import Inference

SUFFIX = {"full": "cpu", "int8": "cpu_int8", "auto": "cpu_auto"}


class CpuSubject:
    """The detector in one precision, and its compiled model without anything around it."""

    cameras = 8
    writers = 1

    def __init__(self, precision: Literal["auto", "full", "int8"], cache: Path) -> None:
        self.settings = Inference(device="cpu", runtime="openvino", precision=precision)
        self.suffix = SUFFIX[precision]
        self.detector = load_detector(self.settings, cache)
        runtime = self.detector.backend
        assert isinstance(runtime, OpenvinoBackend)
        self.batch = runtime.max_batch
        self.runtime = runtime
        self.frames = pictures(self.batch)
        self.detector.detect(self.frames, SPEC)
        box = letterbox(SPEC)
        compiled = runtime.compile(box.width, box.height, runtime.max_batch)
        self.computes_in = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        shape = list(compiled.input(0).shape)
        self._picture = np.random.default_rng(2).integers(0, 255, shape, dtype=np.uint8)
        self._requests = [compiled.create_infer_request() for _ in range(self.batch)]
        self._queued: deque[Any] = deque()
        self._queue = [compiled.create_infer_request() for _ in range(MAX_BATCHES_IN_FLIGHT * self.batch)]
        self.bare()

    def measure_detector_ms(self, times: int = 3) -> float:
        """Milliseconds per frame, colour conversion and suppression included."""
        return self._measure_per_frame(lambda: self.detector.detect(self.frames, SPEC), times)

    def measure_detector_fps(self) -> float:
        """Frames per second, colour conversion and suppression included."""
        return 1e3 / self.measure_detector_ms()

    def bare(self, times: int = 3) -> float:
        """Milliseconds per frame of the compiled model alone."""
        return self._measure_per_frame(self._run_bare_batch, times)

    def measure_cpu_ms(self) -> float:
        """Milliseconds of processor time per frame."""
        began = time.process_time()
        self.measure_detector_ms()
        return (time.process_time() - began) * 1e3 / (3 * self.batch)

    def compute(self) -> int:
        """Run as many pictures as the runtime takes at once through the bare model, with the next ones queued."""
        for request in self._queue[len(self._queued) :]:
            self._start(request)
        for _ in range(self.batch):
            request = self._queued.popleft()
            request.wait()
            self._start(request)
        return self.batch

    def settle(self) -> None:
        """Do nothing: what is queued has not been counted."""

    def _start(self, request: Any) -> None:
        request.start_async({0: self._picture}, share_inputs=True)
        self._queued.append(request)

    def measure_single_ms(self, times: int) -> list[float]:
        """Milliseconds of single frames, one after the other: what a quiet site waits for one."""
        return [microseconds(lambda: self.detector.detect(self.frames[:1], SPEC), 1) / 1e3 for _ in range(times)]

    def measure_batch_fps(self, count: int) -> float:
        """Frames per second when `count` frames wait at once."""
        frames = [self.frames[index % self.batch] for index in range(count)]
        return 1e6 * count / microseconds(lambda: self.detector.detect(frames, SPEC), max(1, 16 // count))

    def _run_bare_batch(self) -> None:
        for request in self._requests:
            request.start_async({0: self._picture}, share_inputs=True)
        for request in self._requests:
            request.wait()

    def _measure_per_frame(self, work: Callable[[], object], times: int) -> float:
        return microseconds(work, times) / 1e3 / self.batch


def rows(short: bool) -> list[Row]:
    """Measure detect, frame_ms, count_error, map50_95 by precision, then both against each other and their peers."""
    repetitions = 9 if short else 25
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as scratch:
        cache = Path(scratch)
        full, int8 = CpuSubject("full", cache), CpuSubject("int8", cache)
        found = []
        for subject in (full, int8):
            name = subject.suffix
            found.append(
                _paired(f"detect/{name}", subject.measure_detector_ms, subject.bare, "bare compiled model", repetitions)
            )
            times = subject.measure_single_ms(40 if short else 200)
            for share in (50, 99):
                value = float(np.percentile(times, share))
                found.append(
                    Row(name=f"frame_ms/p{share}/{name}", value=value, unit="ms", limit_or_peer="one frame alone")
                )
            found.append(Row(name=f"computes_in_bf16/{name}", value=float("bf" in subject.computes_in), unit=""))
            found += accuracy.rows(subject.settings, name, cache)
        found.append(
            _paired("int8_vs_full", int8.measure_detector_ms, full.measure_detector_ms, "full precision", repetitions)
        )
        found.append(
            _paired("int8_vs_full_cpu_time", int8.measure_cpu_ms, full.measure_cpu_ms, "full precision", repetitions)
        )
        predict = yolo_predict(cache)
        if predict is not None:
            for subject in (full, int8):
                found.append(
                    paired(
                        f"inference_vs_yolo_predict/{subject.suffix}",
                        subject.measure_detector_fps,
                        lambda: 1e6 / microseconds(predict, 2),
                        "YOLO.predict, torch",
                        unit="frames/s",
                        repetitions=repetitions,
                        better="higher",
                    )
                )
        if not short:
            curves = {
                one.suffix: [max(one.measure_batch_fps(count) for _ in range(3)) for count in BATCHES]
                for one in (full, int8)
            }
            found += sweep(curves, BATCHES, RESULTS / "inference_sweep_cpu.png")
    return found


def _paired(name: str, ours: Callable[[], float], peer: Callable[[], float], of: str, repetitions: int) -> Row:
    return paired(name, ours, peer, of, unit="ms/frame", repetitions=repetitions)
