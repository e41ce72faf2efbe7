"""Forty cameras of which four are busy, on one machine: what is left unanswered, how late counts are, what each costs.

A busy camera plays a clip with truth, the others nearly empty video (`bench.mixed`).
"""

from __future__ import annotations

import sys

import msgspec

from bench import mixed
from bench.harness import Row
from bench.site import site
from crowdperf.demo.outlines import FPS

LIMITS = {"unanswered": 0.5, "p99_ms": 150.0, "memory": 40.0}


def rows(short: bool) -> list[Row]:
    """forty/unanswered, forty/second_sample_to_event_*, forty/cpu/<kind of process>, forty/memory_per_camera."""
    footage = mixed.footage_of("forty")
    cameras = len(footage)
    busy = f"{cameras} cameras, {mixed.FORTY_BUSY} of them busy"
    with site(footage, cameras) as running:
        try:
            running.start(cameras)
        except TimeoutError as error:
            # A site that is too slow for them has its figures all the same.
            print(error, file=sys.stderr)
        load = running.measure(cameras, 15.0 if short else 120.0)
        memory = running.measure_capture_memory(cameras)
    # The second sample comes a frame after the first, whose time a crossing bears.
    p50, p99 = (late_ms - 1e3 / FPS for late_ms in load.late_ms_percentiles)
    due = load.seconds * FPS * cameras
    # What capture had no time to read was due as well. The newest frame of each camera may be in the works.
    unanswered = 100 * max(load.dropped, due - cameras - load.analysed) / due
    found = [
        Row(
            name="forty/unanswered",
            value=unanswered,
            unit="%",
            limit_or_peer=f"limit {LIMITS['unanswered']:g}, {busy}",
            ratio=unanswered / LIMITS["unanswered"],
        ),
        Row(
            name="forty/second_sample_to_event_p50_ms",
            value=p50,
            unit="ms",
            limit_or_peer=busy,
            repetitions=len(load.late_ms),
        ),
        Row(
            name="forty/second_sample_to_event_p99_ms",
            value=p99,
            unit="ms",
            limit_or_peer=f"limit {LIMITS['p99_ms']:g}",
            ratio=p99 / LIMITS["p99_ms"],
            repetitions=len(load.late_ms),
        ),
        Row(name="forty/analysed", value=load.fps, unit="frames/s", limit_or_peer=f"{FPS * cameras:g} are due"),
        *(
            Row(name=f"forty/cpu/{kind}", value=100 * value / load.seconds, unit="% of a core", limit_or_peer=busy)
            for kind, value in sorted(load.cpu_s.items())
        ),
        Row(
            name="forty/memory_per_camera",
            value=memory / 2**20,
            unit="MiB",
            limit_or_peer=f"limit {LIMITS['memory']:g}",
            ratio=memory / 2**20 / LIMITS["memory"],
        ),
    ]
    return [msgspec.structs.replace(row, counts=load.counts) for row in found]
