"""What the benches of inference measure: a detector, and the same network with nothing around it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.harness import Row
from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import Detector
from crowdperf.models.loader import prepare_ultralytics
from crowdperf.models.registry import resolve_model
from crowdperf.settings.engine import Inference

SPEC = RingSpec(640, 360, "yuv420p", 1280, 720, 4, 10.0, 0)
INPUT = (384, 640)
"""Height and width of the network's input for pictures of SPEC."""
MODEL = "crowdperf-person-vehicle-n"
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RESULTS = Path(__file__).resolve().parent / "results"


class Subject(Protocol):
    """A detector beside its bare network."""

    suffix: str
    """Of the rows: cpu, cpu_int8, gpu."""
    settings: Inference
    cameras: int
    """How many cameras it takes to fill its batches."""
    writers: int
    """How many processes it takes to write their rings."""

    @property
    def detector(self) -> Detector:
        """Return the product's detector."""

    def bare(self, times: int = 3) -> float:
        """Measure milliseconds per frame of the network alone, in its largest batch."""

    def compute(self) -> int:
        """Run one batch through the network alone, the next one queued behind it; return its number of frames."""

    def settle(self) -> None:
        """Wait for what `compute` has counted and not waited for."""


def pictures(count: int) -> list[Any]:
    """Noise in rings of SPEC, `count` of them: what is in a picture changes nothing but suppression's share."""
    noise = np.random.default_rng(1)
    return [noise.integers(0, 255, SPEC.frame_bytes, dtype=np.uint8) for _ in range(count)]


def yolo_predict(cache: Path, device: str = "cpu", count: int = 1) -> Callable[[], Any] | None:
    """Ultralytics' own way with the same weights and input size, `count` pictures in a list; None without it."""
    if importlib.util.find_spec("ultralytics") is None:
        return None
    prepare_ultralytics(cache)
    import ultralytics

    network = ultralytics.YOLO(resolve_model(MODEL, "person", "torch").path)
    shown = [np.random.default_rng(1).integers(0, 255, (SPEC.height, SPEC.width, 3), dtype=np.uint8)] * count

    kind = {"device": device, **({"half": True} if device == "cuda" else {})}

    def predict() -> Any:
        return network.predict(shown, imgsz=INPUT, conf=0.1, iou=0.7, batch=count, verbose=False, **kind)

    predict()
    return predict


def cuda() -> bool:
    """Check whether there is a CUDA device; report on stderr where there is none, since rows are missing then."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return True
    print("no CUDA device: its rows are left out", file=sys.stderr)
    return False


def sweep(curves: Mapping[str, Sequence[float]], batches: Sequence[int], picture: Path) -> list[Row]:
    """sweep/<frames at once>/<suffix> of every curve, in frames per second, and their picture where matplotlib is."""
    if importlib.util.find_spec("matplotlib"):
        import matplotlib

        matplotlib.use("agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4))
        for name, values in curves.items():
            axes.plot(batches, values, marker="o", label=name)
        axes.set(xlabel="frames waiting at once", ylabel="frames/s, 640x360", xscale="log", ylim=(0, None))
        axes.set_xticks(batches, [str(count) for count in batches])
        axes.grid(alpha=0.3)
        axes.legend()
        picture.parent.mkdir(exist_ok=True)
        figure.savefig(picture, dpi=110, bbox_inches="tight")
        plt.close(figure)
    return [
        Row(name=f"sweep/{count}/{name}", value=value, unit="frames/s", better="higher")
        for name, values in curves.items()
        for count, value in zip(batches, values)
    ]
