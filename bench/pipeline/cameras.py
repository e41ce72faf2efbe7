"""How many demo cameras of 10 frames a second a whole site sustains on this machine, beside the bare compiled model.

Cameras join one by one. A number is sustained while less than 0.5 % of the frames are dropped, every camera gets its
rate and tracking is less than a second behind; one that fails is tried once more, since a neighbour on the machine may
have been the cause. Latency is measured at half of that number.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.harness import Row
from bench.micro.inference import CpuSubject
from bench.site import FPS, Load, Site, site

DROPS = 0.005
RATE = 0.95
"""Of its frames per second: what a camera must get."""
LAG_S = 1.0


def rows(short: bool) -> list[Row]:
    """cameras_sustained, frame_to_event_p99_ms and p50, processor time and memory per camera."""
    allowed = bare_fps() / FPS
    first = max(1, int(allowed * (0.5 if short else 0.3)))
    with site(int(allowed) + 2) as running:
        running.start(first)
        seconds = 5.0 if short else 20.0
        best, load = search(lambda cameras: attempt(running, cameras, seconds), first, running.max_cameras)
        memory = running.measure_capture_memory()
        half = max(1, best // 2)
        running.set_camera_count(half)
        late = running.measure_crossing_delays_ms(15.0 if short else 120.0)
    p50, p99 = (float(np.percentile(late, share)) for share in (50, 99))
    at_half = f"{half} cameras"
    return [
        Row(
            name="cameras_sustained",
            value=best,
            unit="cameras",
            limit_or_peer=f"the bare compiled model would allow {allowed:.1f}",
            ratio=best / allowed,
            better="higher",
        ),
        Row(name="cameras_sustained/drops", value=load.drop_share * 100, unit="%", limit_or_peer="limit 0.5"),
        Row(name="cameras_sustained/lag_ms", value=load.lag_s * 1e3, unit="ms", limit_or_peer=f"limit {LAG_S:g} s"),
        Row(name="frame_to_event_p50_ms", value=p50, unit="ms", limit_or_peer=at_half, repetitions=len(late)),
        Row(name="frame_to_event_p99_ms", value=p99, unit="ms", limit_or_peer=at_half, repetitions=len(late)),
        _cpu("cpu_per_camera/capture", load.capture_cpu_s, load, best),
        _cpu("cpu_per_camera/site", load.cpu_s, load, best),
        Row(name="memory_per_camera/capture", value=memory / 2**20, unit="MiB", limit_or_peer="its process and FFmpeg"),
    ]


def bare_fps() -> float:
    """Pictures per second of the compiled model that this machine's site would choose, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as cache:
        subject = CpuSubject("auto", Path(cache))
        return 1e3 / min(subject.bare(20) for _ in range(3))


def search(measure_load: Callable[[int], Load], first: int, max_cameras: int) -> tuple[int, Load]:
    """Return the largest sustained number and its load; 0 where not even one camera is sustained.

    Args:
        load_of: the load of so many cameras.
        first: the number that is tried first; further ones step up from it, or down where it is too many.
        most: no more are tried.
    """
    number, load = first, measure_load(first)
    while number > 1 and not sustained(load):
        number -= 1
        load = measure_load(number)
    if not sustained(load):
        return 0, load
    while first <= number < max_cameras:
        further = measure_load(number + 1)
        if not sustained(further):
            break
        number, load = number + 1, further
    return number, load


def attempt(running: Site, cameras: int, seconds: float) -> Load:
    """Return the load of so many cameras, of a second attempt where the first was not sustained."""
    running.set_camera_count(cameras)
    for _ in range(2):
        load = running.measure(cameras, seconds)
        print(
            f"{cameras} cameras: {load.fps:.1f} frames/s, {load.drop_share:.2%} dropped, the slowest camera got "
            f"{load.min_camera_share:.1%} of its rate, tracking {load.lag_s * 1e3:.0f} ms behind",
            file=sys.stderr,
        )
        if sustained(load):
            break
    return load


def sustained(load: Load) -> bool:
    """Check whether the site loses nothing that people would notice."""
    return load.drop_share < DROPS and load.min_camera_share >= RATE and load.lag_s < LAG_S


def _cpu(name: str, seconds: float, load: Load, cameras: int) -> Row:
    """Share of one core."""
    return Row(name=name, value=100 * seconds / load.seconds / max(1, cameras), unit="% of a core")
