"""From ring bytes to boxes on the processor, beside the bare compiled model, the other precision and Ultralytics.

One camera's geometry, 640x360 in a 640x384 input, and as many frames at once as the runtime takes. What the same
settings count wrongly on the demo's scenes, and their average precision on labelled people (CROWDPERF_IMAGES), stand
beside every speed. The full form also sweeps the
number of frames that wait at once, 1 to 64, and draws it into bench/results/ where matplotlib is installed.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench import accuracy
from bench.harness import Row, microseconds, paired
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import load_detector, prepare_ultralytics
from crowdperf.inference.letterbox import letterbox
from crowdperf.inference.openvino_runtime import HANDS, OpenvinoRuntime
from crowdperf.inference.registry import resolve
from crowdperf.settings.engine import Inference

SPEC = RingSpec(640, 360, "yuv420p", 1280, 720, 4, 10.0, 0)
SUFFIX = {"full": "cpu", "int8": "cpu_int8"}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RESULTS = Path(__file__).resolve().parents[1] / "results"


class Subject:
    """The detector in one precision, and its compiled model without anything around it."""

    def __init__(self, precision: Literal["auto", "full", "int8"], cache: Path) -> None:
        self.settings = Inference(device="cpu", runtime="openvino", precision=precision)
        self.detector = load_detector(self.settings, cache)
        runtime = self.detector.runtime
        assert isinstance(runtime, OpenvinoRuntime)
        self.spec = SPEC
        self.batch = runtime.max_batch
        self.runtime = runtime
        noise = np.random.default_rng(1)
        self.frames = [noise.integers(0, 255, SPEC.frame_bytes, dtype=np.uint8) for _ in range(self.batch)]
        self.detector.detect(self.frames, SPEC)
        compiled = runtime.compile(letterbox(SPEC.width, SPEC.height))
        self.computes_in = str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self._picture = noise.integers(0, 255, list(compiled.input(0).shape), dtype=np.uint8)
        self._requests = [compiled.create_infer_request() for _ in range(self.batch)]
        self._queued: deque[Any] = deque()
        self._queue = [compiled.create_infer_request() for _ in range(HANDS * self.batch)]
        self.bare()

    def whole(self, times: int = 3) -> float:
        """Milliseconds per frame, colour conversion and suppression included."""
        return self._per_frame(lambda: self.detector.detect(self.frames, SPEC), times)

    def bare(self, times: int = 3) -> float:
        """Milliseconds per frame of the compiled model alone."""
        return self._per_frame(self._bare, times)

    def cpu(self) -> float:
        """Milliseconds of processor time per frame."""
        began = time.process_time()
        self.whole()
        return (time.process_time() - began) * 1e3 / (3 * self.batch)

    def compute(self) -> None:
        """As many pictures as the runtime takes at once, through the bare model; its streams always have a next one."""
        for request in self._queue[len(self._queued) :]:
            self._start(request)
        for _ in range(self.batch):
            request = self._queued.popleft()
            request.wait()
            self._start(request)

    def _start(self, request: Any) -> None:
        request.start_async({0: self._picture}, share_inputs=True)
        self._queued.append(request)

    def picture_bytes(self) -> bytes:
        """The bytes of one ring picture."""
        return self.frames[0].tobytes()

    def alone(self, times: int) -> list[float]:
        """Milliseconds of single frames, one after the other: what a quiet site waits for one."""
        return [microseconds(lambda: self.detector.detect(self.frames[:1], SPEC), 1) / 1e3 for _ in range(times)]

    def together(self, count: int) -> float:
        """Frames per second when `count` frames wait at once."""
        frames = [self.frames[index % self.batch] for index in range(count)]
        return 1e6 * count / microseconds(lambda: self.detector.detect(frames, SPEC), max(1, 16 // count))

    def _bare(self) -> None:
        for request in self._requests:
            request.start_async({0: self._picture}, share_inputs=True)
        for request in self._requests:
            request.wait()

    def _per_frame(self, work: Callable[[], object], times: int) -> float:
        return microseconds(work, times) / 1e3 / self.batch


def rows(short: bool) -> list[Row]:
    """By precision detect, frame_ms, count_error, map50_95; int8_vs_full; inference_vs_yolo_predict; full: a sweep."""
    repetitions = 9 if short else 25
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as scratch:
        cache = Path(scratch)
        full, int8 = Subject("full", cache), Subject("int8", cache)
        found = []
        for precision, subject in (("full", full), ("int8", int8)):
            name = SUFFIX[precision]
            found.append(_paired(f"detect/{name}", subject.whole, subject.bare, "bare compiled model", repetitions))
            times = subject.alone(40 if short else 200)
            for share in (50, 99):
                value = float(np.percentile(times, share))
                found.append(
                    Row(name=f"frame_ms/p{share}/{name}", value=value, unit="ms", limit_or_peer="one frame alone")
                )
            found.append(Row(name=f"computes_in_bf16/{name}", value=float("bf" in subject.computes_in), unit=""))
            found += accuracy.rows(subject.settings, name, cache)
        found.append(_paired("int8_vs_full", int8.whole, full.whole, "full precision", repetitions))
        found.append(_paired("int8_vs_full_cpu_time", int8.cpu, full.cpu, "full precision", repetitions))
        if importlib.util.find_spec("ultralytics"):
            predict = _predict(cache)
            for precision, subject in (("full", full), ("int8", int8)):
                found.append(
                    paired(
                        f"inference_vs_yolo_predict/{SUFFIX[precision]}",
                        lambda subject=subject: 1e3 / subject.whole(),  # type: ignore[misc]
                        lambda: 1e6 / microseconds(predict, 2),
                        "YOLO.predict, torch",
                        unit="frames/s",
                        repetitions=repetitions,
                        better="higher",
                    )
                )
        if not short:
            found += _sweep({"full": full, "int8": int8})
    return found


def _sweep(subjects: dict[str, Subject]) -> list[Row]:
    """Frames per second with 1 to 64 frames waiting, and its picture."""
    curves = {name: [max(one.together(count) for _ in range(3)) for count in BATCHES] for name, one in subjects.items()}
    if importlib.util.find_spec("matplotlib"):
        import matplotlib

        matplotlib.use("agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4))
        for name, values in curves.items():
            axes.plot(BATCHES, values, marker="o", label=name)
        axes.set(xlabel="frames waiting at once", ylabel="frames/s, 640x360", xscale="log", ylim=(0, None))
        axes.set_xticks(BATCHES, [str(count) for count in BATCHES])
        axes.grid(alpha=0.3)
        axes.legend()
        RESULTS.mkdir(exist_ok=True)
        figure.savefig(RESULTS / "inference_sweep_cpu.png", dpi=110, bbox_inches="tight")
    return [
        Row(name=f"sweep/{count}/{SUFFIX[name]}", value=value, unit="frames/s", better="higher")
        for name, values in curves.items()
        for count, value in zip(BATCHES, values)
    ]


def _paired(name: str, ours: Callable[[], float], peer: Callable[[], float], of: str, repetitions: int) -> Row:
    return paired(name, ours, peer, of, unit="ms/frame", repetitions=repetitions)


def _predict(cache: Path) -> Callable[[], Any]:
    """Ultralytics' own way with the same weights and input size, on every core."""
    prepare_ultralytics(cache)
    import ultralytics

    network = ultralytics.YOLO(resolve("crowdperf-person-vehicle-n", "person", "torch").path)
    picture = np.random.default_rng(1).integers(0, 255, (SPEC.height, SPEC.width, 3), dtype=np.uint8)

    def predict() -> Any:
        return network.predict(picture, imgsz=(384, 640), conf=0.1, iou=0.7, device="cpu", verbose=False)

    predict()
    return predict
