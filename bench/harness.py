"""What every bench shares: rows beside their limit or peer, the context they were measured in, and JSON."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil
from msgspec import Struct

from crowdperf.runtime.ffmpeg_binary import FfmpegMissing, find_ffmpeg

PACKAGES = (
    "av",
    "numpy",
    "redis",
    "litestar",
    "uvicorn",
    "msgspec",
    "openvino",
    "torch",
    "ultralytics-opencv-headless",
)
Better = Literal["lower", "higher"]


class Counts(Struct, frozen=True, kw_only=True):
    """How right the crossings are that were counted while a figure was measured."""

    counted: int
    true: int
    matched: int
    """True crossings that were counted."""

    @property
    def error(self) -> float:
        """Missed and surplus crossings as a share of the true ones."""
        return (self.counted + self.true - 2 * self.matched) / max(1, self.true)


class Row(Struct, frozen=True, kw_only=True):
    """One figure. `ratio` is this system divided by the limit or peer, both measured in the same run."""

    name: str
    value: float
    unit: str
    limit_or_peer: str = ""
    ratio: float | None = None
    repetitions: int = 1
    ci95: list[float] = []
    better: Better = "lower"
    counts: Counts | None = None
    """Of the same run; None where nothing is counted."""


class Result(Struct, frozen=True, kw_only=True):
    """What `--json` writes."""

    bench: str
    context: dict[str, Any]
    rows: list[Row]


def context() -> dict[str, Any]:
    """Return the machine, its load, the versions and the commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    versions = {dist.name: dist.version for dist in metadata.distributions() if dist.name in PACKAGES}
    return {
        "machine": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {**versions, "ffmpeg": _ffmpeg()},
        "commit": commit.stdout.strip(),
        "load": list(os.getloadavg()),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    """Return the processor's own name, where the kernel tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()


def _ffmpeg() -> str:
    """Return the version that the FFmpeg in use states."""
    try:
        banner = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True, check=False).stdout
    except FfmpegMissing:
        return "none"
    return banner.partition(" Copyright")[0].removeprefix("ffmpeg version ")


def paired(
    name: str,
    ours: Callable[[], float],
    peer: Callable[[], float],
    peer_name: str,
    *,
    unit: str = "us",
    repetitions: int = 15,
    better: Better = "lower",
) -> Row:
    """Measure both alternately and compare their medians; a noisy neighbour then hits both alike.

    Args:
        ours, peer: run once and return the figure in `unit`.
    """
    return compared(name, [(ours(), peer()) for _ in range(repetitions)], peer_name, unit=unit, better=better)


def compared(
    name: str,
    pairs: list[tuple[float, float]],
    peer_name: str,
    *,
    unit: str = "us",
    better: Better = "lower",
    counts: Counts | None = None,
) -> Row:
    """Return the row of figures that were measured in pairs (ours, peer), each pair close together in time."""
    repetitions = len(pairs)
    ratios = sorted(mine / other for mine, other in pairs)
    # Order statistics of the median: a distribution-free interval (Conover, Practical Nonparametric Statistics, 3.2).
    spread = max(1, round(0.98 * repetitions**0.5))
    middle = repetitions // 2
    return Row(
        name=name,
        value=statistics.median(mine for mine, _ in pairs),
        unit=unit,
        limit_or_peer=peer_name,
        ratio=statistics.median(ratios),
        repetitions=repetitions,
        ci95=[ratios[max(0, middle - spread)], ratios[min(repetitions - 1, middle + spread)]],
        better=better,
        counts=counts,
    )


def microseconds(work: Callable[[], object], times: int) -> float:
    """Microseconds per call over `times` calls."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times * 1e6
