"""How many cameras of 10 frames a second a whole site sustains on this machine, beside the bare compiled model.

A number is sustained while less than 0.5 % of the frames are dropped, every camera gets its rate and tracking is less
than a second behind; one that fails is tried once more, since a neighbour on the machine may have been the cause.
Latency is measured at half of the greatest sustained number. `--scenes` says what the cameras play (`bench.mixed`), and
`--before` has the site of another checkout measured in turn with this one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import mixed
from bench.harness import Row, compared
from bench.micro.inference import CpuSubject
from bench.mixed import Footage
from bench.site import ROOT, Load, Site, site
from crowdperf.demo.outlines import FPS

DROPS = 0.005
RATE = 0.95
"""Of its frames per second: what a camera must get."""
LAG_S = 1.0
MOST = 8
"""Times the cameras that the bare model would allow: no more are tried."""


def rows(short: bool, scenes: str = "demo", before: Path | None = None) -> list[Row]:
    """cameras_sustained, frame_to_event_p99_ms and p50, processor time and memory per camera, cameras_vs_before."""
    allowed = bare_fps() / FPS
    footage = mixed.footage_of(scenes)
    suffix = "" if scenes == "demo" else f"/{scenes}"
    seconds = 5.0 if short else 20.0
    first, most = max(1, int(allowed * (0.5 if short else 0.3))), int(allowed * MOST) + 2
    with most_sustained(footage, seconds, first, most) as (running, best, load):
        half = max(1, best // 2)
        running.set_camera_count(half)
        memory = running.measure_capture_memory(half)
        calm = running.measure(half, 15.0 if short else 120.0)
    p50, p99 = calm.late_ms_percentiles
    at_half: dict[str, Any] = {"limit_or_peer": f"{half} cameras", "repetitions": len(calm.late_ms)}
    return [
        Row(
            name=f"cameras_sustained{suffix}",
            value=best,
            unit="cameras",
            limit_or_peer=f"the bare compiled model would allow {allowed:.1f}",
            ratio=best / allowed,
            better="higher",
            counts=load.counts,
        ),
        *(_compare(footage, seconds, (best, load), before, suffix, 1 if short else 3) if before else ()),
        Row(
            name=f"cameras_sustained/drops{suffix}",
            value=load.drop_share * 100,
            unit="%",
            limit_or_peer="limit 0.5",
            counts=load.counts,
        ),
        Row(
            name=f"cameras_sustained/lag_ms{suffix}",
            value=load.lag_s * 1e3,
            unit="ms",
            limit_or_peer=f"limit {LAG_S:g} s",
            counts=load.counts,
        ),
        Row(name=f"frame_to_event_p50_ms{suffix}", value=p50, unit="ms", counts=calm.counts, **at_half),
        Row(name=f"frame_to_event_p99_ms{suffix}", value=p99, unit="ms", counts=calm.counts, **at_half),
        _cpu(f"cpu_per_camera/capture{suffix}", load.cpu_s.get("capture", 0.0), load, best),
        _cpu(f"cpu_per_camera/site{suffix}", sum(load.cpu_s.values()), load, best),
        Row(
            name=f"memory_per_camera/capture{suffix}",
            value=memory / 2**20,
            unit="MiB",
            limit_or_peer="its process and FFmpeg",
            counts=calm.counts,
        ),
    ]


def _compare(
    footage: list[Footage], seconds: float, ours: tuple[int, Load], before: Path, suffix: str, repetitions: int
) -> list[Row]:
    """Measure the build before in turn with this one, whose first figure is there already."""
    pairs, counts = [], []
    best, most = ours[0], ours[0] * 2 + 2
    for number in range(repetitions):
        if number:
            with most_sustained(footage, seconds, max(1, best), most) as (_, best, load):
                ours = best, load
        # Half of them is a number to begin with: fewer cameras need no search when the build before holds them.
        with most_sustained(footage, seconds, max(1, best // 2), most, before) as (_, held, load):
            pairs.append((float(best), max(1.0, float(held))))
            counts.append(load.counts)
    commit = subprocess.run(
        ["git", "-C", str(before), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    name = f"the build before, {commit or before.name}"
    return [
        compared(f"cameras_vs_before{suffix}", pairs, name, unit="cameras", better="higher", counts=ours[1].counts),
        Row(
            name=f"cameras_sustained/before{suffix}",
            value=float(np.median([other for _, other in pairs])),
            unit="cameras",
            limit_or_peer=name,
            repetitions=repetitions,
            better="higher",
            counts=counts[-1],
        ),
    ]


@contextlib.contextmanager
def most_sustained(
    footage: list[Footage], seconds: float, first: int, max_cameras: int, build: Path = ROOT
) -> Iterator[tuple[Site, int, Load]]:
    """Yield a site at the largest number of cameras that it sustains, that number, and its load.

    Args:
        footage: what the cameras play.
        seconds: how long each number is watched.
        first, max_cameras: as `search` has them.
        build: checkout whose code runs.
    """
    with site(footage, max_cameras, build) as running:
        running.start(first)
        best, load = search(lambda cameras: attempt(running, cameras, seconds), first, max_cameras)
        yield running, best, load


def bare_fps() -> float:
    """Pictures per second of the compiled model that this machine's site would choose, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as cache:
        subject = CpuSubject("auto", Path(cache))
        return 1e3 / min(subject.bare(20) for _ in range(3))


def search(measure_load: Callable[[int], Load], first: int, max_cameras: int) -> tuple[int, Load]:
    """Return the largest sustained number and its load; 0 where not even one camera is sustained.

    Steps up are doubled until one is too large; then the interval is halved.

    Args:
        measure_load: the load of so many cameras.
        first: the number that is tried first.
        max_cameras: no more are tried.
    """
    held, failed, number, step = 0, max_cameras + 1, first, 1
    best = load = measure_load(number)
    while True:
        if sustained(load):
            held, best = number, load
        else:
            failed = number
        if failed - held <= 1:
            return held, best if held else load
        number = min(number + step, max_cameras) if failed > max_cameras else (held + failed) // 2
        step *= 2
        load = measure_load(number)


def attempt(running: Site, cameras: int, seconds: float) -> Load:
    """Return the load of so many cameras, of a second attempt where the first was not sustained."""
    load = Load(seconds, 0.0, FPS * cameras * seconds, 0.0, seconds)
    for _ in range(2):
        try:
            running.set_camera_count(cameras)
        except TimeoutError as error:
            print(f"{cameras} cameras: {error}", file=sys.stderr)
            break
        load = running.measure(cameras, seconds)
        print(
            f"{cameras} cameras: {load.fps:.1f} frames/s, {load.drop_share:.2%} dropped, the slowest camera got "
            f"{load.min_camera_share:.1%} of its rate, tracking {load.lag_s * 1e3:.0f} ms behind, "
            f"counted {load.counts.counted} of {load.counts.true}, {load.counts.matched} matched",
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
    share = 100 * seconds / load.seconds / max(1, cameras)
    return Row(name=name, value=share, unit="% of a core", counts=load.counts)
