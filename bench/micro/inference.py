"""From ring bytes to boxes on the processor, beside the bare compiled model, the other precision and Ultralytics.

One camera's geometry, 640x360 in a 640x384 input, and as many frames at once as the runtime takes.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.harness import Row, microseconds, paired
from crowdperf.frames.ring import RingSpec
from crowdperf.inference.detector import load_detector, prepare_ultralytics
from crowdperf.inference.letterbox import letterbox
from crowdperf.inference.openvino_runtime import OpenvinoRuntime
from crowdperf.inference.registry import resolve
from crowdperf.settings.engine import Inference

SPEC = RingSpec(640, 360, "yuv420p", 1280, 720, 4, 10.0, 0)
SUFFIX = {"full": "cpu", "int8": "cpu_int8"}


class Subject:
    """The detector in one precision, and its compiled model without anything around it."""

    def __init__(self, precision: Literal["full", "int8"], cache: Path) -> None:
        self.detector = load_detector(Inference(device="cpu", runtime="openvino", precision=precision), cache)
        runtime = self.detector.runtime
        assert isinstance(runtime, OpenvinoRuntime)
        self.batch = runtime.max_batch
        noise = np.random.default_rng(1)
        self.frames = [noise.integers(0, 255, SPEC.frame_bytes, dtype=np.uint8) for _ in range(self.batch)]
        self.detector.detect(self.frames, SPEC)
        compiled = runtime.compile(letterbox(SPEC.width, SPEC.height))
        self._picture = noise.integers(0, 255, list(compiled.input(0).shape), dtype=np.uint8)
        self._requests = [compiled.create_infer_request() for _ in range(self.batch)]
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

    def _bare(self) -> None:
        for request in self._requests:
            request.start_async({0: self._picture}, share_inputs=True)
        for request in self._requests:
            request.wait()

    def _per_frame(self, work: Callable[[], object], times: int) -> float:
        return microseconds(work, times) / 1e3 / self.batch


def rows(short: bool) -> list[Row]:
    """detect/<cpu>, detect_cpu_time/<cpu>, int8_vs_full and inference_vs_yolo_predict/<cpu>."""
    repetitions = 9 if short else 25
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as scratch:
        cache = Path(scratch)
        full, int8 = Subject("full", cache), Subject("int8", cache)
        found = []
        for precision, subject in (("full", full), ("int8", int8)):
            name = SUFFIX[precision]
            found.append(_paired(f"detect/{name}", subject.whole, subject.bare, "bare compiled model", repetitions))
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
    return found


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
