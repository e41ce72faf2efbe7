"""Show the live rings of this installation, as `top` shows processes: `crowdperf ring`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import redis

from crowdperf.frames.ring import FrameReader, RingSpec, RingUnavailable
from crowdperf.messaging.process_metrics import decode_snapshot, metrics_key
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation

FIRST_INTERVAL_S = 1.0
DOWN_PERIODS, DOWN_S = 5, 3.0
"""A camera is shown as without picture when its newest frame is older than both: frame periods and seconds."""
HEADINGS = ("CAMERA", "EPOCH", "HEAD", "FPS", "AGE", "SIZE", "FORMAT", "SLOTS", "SKIPPED", "")
CLEAR_SCREEN = "\x1b[H\x1b[J"


class RingReading(NamedTuple):
    """The state of a ring at one moment."""

    camera: str
    epoch: int
    head: int
    at_ns: int
    """CLOCK_MONOTONIC of the reading."""
    newest_ns: int | None
    """CLOCK_MONOTONIC of the newest frame; None before the first."""
    heartbeat_ns: int
    spec: RingSpec


def read_rings(prefix: str, now_ns: int) -> list[RingReading]:
    """Read every ring below `prefix`, by camera. A ring that vanishes meanwhile is left out."""
    folder, readings = Path(prefix).parent, []
    for path in sorted(folder.glob(Path(prefix).name + "*")):
        try:
            reader = FrameReader(path)
        except RingUnavailable:
            continue
        head = reader.head()
        stamp = reader.stamp(head)
        readings.append(
            RingReading(
                camera=path.name.removeprefix(Path(prefix).name),
                epoch=reader.epoch,
                head=head,
                at_ns=now_ns,
                newest_ns=stamp.monotonic_ns if stamp else None,
                heartbeat_ns=reader.heartbeat_ns(),
                spec=reader.spec,
            )
        )
        reader.close()
    return readings


def count_skipped_frames(snapshots: list[bytes]) -> dict[str, int]:
    """Count frames that inference wanted and did not get, by camera, from the processes' snapshots."""
    skipped: dict[str, int] = {}
    for raw in snapshots:
        for name, row in decode_snapshot(raw).counters.items():
            if name.startswith("drops_"):
                for camera, count in row.items():
                    skipped[camera] = skipped.get(camera, 0) + int(count)
    return skipped


def format_row(current: RingReading, previous: RingReading | None, skipped: dict[str, int] | None) -> tuple[str, ...]:
    """Format the cells of one ring.

    Args:
        current: the present reading.
        previous: the reading before, for rates; None at first.
        skipped: skipped frames by camera; None where Redis is unavailable.

    Returns:
        One text per heading.
    """
    fps = "-"
    if previous and previous.epoch == current.epoch and current.at_ns > previous.at_ns:
        fps = f"{(current.head - previous.head) / (current.at_ns - previous.at_ns) * 1e9:.1f}"
    age = "-" if current.newest_ns is None else f"{max(0.0, (current.at_ns - current.newest_ns) / 1e9):.2f} s"
    note = ""
    spec = current.spec
    down_ns = max(DOWN_S, DOWN_PERIODS / spec.target_fps) * 1e9
    if current.at_ns - current.heartbeat_ns > DOWN_S * 1e9:
        note = "no writer"
    elif current.newest_ns is None or current.at_ns - current.newest_ns > down_ns:
        note = "no picture"
    numbers = (str(current.epoch), str(current.head), fps, age)
    shape = (f"{spec.width}x{spec.height}", spec.pix_fmt, str(spec.slots))
    return (current.camera, *numbers, *shape, "-" if skipped is None else str(skipped.get(current.camera, 0)), note)


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Align the rows below their headings."""
    widths = [max(len(line[i]) for line in (HEADINGS, *rows)) for i in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in (HEADINGS, *rows)]
    return "\n".join(lines)


def main(words: list[str], installation: Installation) -> int:
    """Show the rings until interrupted, or once; the status is 1 when there is no ring."""
    parser = argparse.ArgumentParser(prog="crowdperf ring", description="show the live rings, as top shows processes")
    parser.add_argument("--once", action="store_true", help="one table, for scripts; its rates are of one second")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between two looks")
    arguments = parser.parse_args(words)
    if arguments.interval <= 0:
        raise ConfigError(f"ring --interval {arguments.interval:g} is no time. Remedy: give seconds above 0.")
    deployment = installation.load()
    prefix = str(installation.paths.get_ring_path(""))
    client = connect(deployment.redis_url)
    previous = {reading.camera: reading for reading in read_rings(prefix, time.monotonic_ns())}
    wait_s = FIRST_INTERVAL_S if arguments.once else arguments.interval
    try:
        while True:
            time.sleep(wait_s)
            readings = read_rings(prefix, time.monotonic_ns())
            skipped = _fetch_skipped_frames(client, deployment.config.key_prefix)
            table = format_table([format_row(reading, previous.get(reading.camera), skipped) for reading in readings])
            print(table if arguments.once else CLEAR_SCREEN + table, flush=True)
            if arguments.once:
                break
            previous = {reading.camera: reading for reading in readings}
    except KeyboardInterrupt:
        return 0
    if not readings:
        print("no ring: no camera has delivered a picture since its capture began", file=sys.stderr)
    return 0 if readings else 1


def _fetch_skipped_frames(client: redis.Redis, key_prefix: str) -> dict[str, int] | None:
    try:
        raw = client.get(metrics_key("inference", key_prefix))
    except OUTAGE:
        return None
    return count_skipped_frames([raw]) if isinstance(raw, bytes) else None
