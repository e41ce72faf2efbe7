"""`python -m crowdperf ring [--once] [--interval S]`: the live rings of this installation, as `top` shows processes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import redis

from crowdperf.events.connection import OUTAGE, connect
from crowdperf.events.metrics import decode, metrics_key
from crowdperf.frames.ring import FrameReader, RingUnavailable
from crowdperf.settings.base import ConfigError

FIRST_LOOK_S = 1.0
DOWN_PERIODS, DOWN_S = 5, 3.0
"""A newest frame that is older than both, in frame periods and in seconds, is no picture of now."""
HEADINGS = ("CAMERA", "EPOCH", "HEAD", "FPS", "AGE", "SIZE", "FORMAT", "SLOTS", "SKIPPED", "")
CLEAR = "\x1b[H\x1b[J"


class Look(NamedTuple):
    """What one look at a ring shows."""

    camera: str
    epoch: int
    head: int
    at_ns: int
    """CLOCK_MONOTONIC of the look."""
    newest_ns: int | None
    """CLOCK_MONOTONIC of the newest frame; None before the first."""
    heartbeat_ns: int
    size: str
    pix_fmt: str
    slots: int
    target_fps: float


def look(prefix: str, now_ns: int) -> list[Look]:
    """Every ring below `prefix`, by camera. A ring that goes away meanwhile is left out."""
    folder, found = Path(prefix).parent, []
    for path in sorted(folder.glob(Path(prefix).name + "*")):
        try:
            reader = FrameReader(path)
        except RingUnavailable:
            continue
        head = reader.head()
        stamp, spec = reader.stamp(head), reader.spec
        found.append(
            Look(
                camera=path.name.removeprefix(Path(prefix).name),
                epoch=reader.epoch,
                head=head,
                at_ns=now_ns,
                newest_ns=stamp.monotonic_ns if stamp else None,
                heartbeat_ns=reader.heartbeat_ns(),
                size=f"{spec.width}x{spec.height}",
                pix_fmt=spec.pix_fmt,
                slots=spec.slots,
                target_fps=spec.target_fps,
            )
        )
        reader.close()
    return found


def skips(snapshots: list[bytes]) -> dict[str, int]:
    """Frames that inference wanted and did not get, by camera, out of the processes' snapshots."""
    found: dict[str, int] = {}
    for raw in snapshots:
        for name, row in decode(raw).counters.items():
            if name.startswith("drops_"):
                for camera, count in row.items():
                    found[camera] = found.get(camera, 0) + int(count)
    return found


def row(now: Look, before: Look | None, skipped: dict[str, int] | None) -> tuple[str, ...]:
    """One line's cells; `before` is the same ring's last look, if there was one. `skipped` None: nobody could say."""
    fps = "-"
    if before and before.epoch == now.epoch and now.at_ns > before.at_ns:
        fps = f"{(now.head - before.head) / (now.at_ns - before.at_ns) * 1e9:.1f}"
    age = "-" if now.newest_ns is None else f"{max(0.0, (now.at_ns - now.newest_ns) / 1e9):.2f} s"
    note = ""
    down_ns = max(DOWN_S, DOWN_PERIODS / now.target_fps) * 1e9
    if now.at_ns - now.heartbeat_ns > DOWN_S * 1e9:
        note = "no writer"
    elif now.newest_ns is None or now.at_ns - now.newest_ns > down_ns:
        note = "no picture"
    return (
        *(now.camera, str(now.epoch), str(now.head), fps, age, now.size, now.pix_fmt, str(now.slots)),
        *("-" if skipped is None else str(skipped.get(now.camera, 0)), note),
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """The rows below their headings, in columns."""
    widths = [max(len(line[i]) for line in (HEADINGS, *rows)) for i in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in (HEADINGS, *rows)]
    return "\n".join(lines)


def main(argv: list[str], prefix: str, redis_url: str, key_prefix: str) -> int:
    """Show the rings until interrupted, or once; the exit status is 1 where there is none.

    Args:
        prefix: path of the rings without the camera's id.
    """
    parser = argparse.ArgumentParser(prog="crowdperf ring", description="show the live rings, as top shows processes")
    parser.add_argument("--once", action="store_true", help="one table, for scripts; its rates are of one second")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between two looks")
    arguments = parser.parse_args(argv)
    if arguments.interval <= 0:
        raise ConfigError(f"ring --interval {arguments.interval:g} is no time. Remedy: give seconds above 0.")
    client = connect(redis_url)
    before = {each.camera: each for each in look(prefix, time.monotonic_ns())}
    wait_s = FIRST_LOOK_S if arguments.once else arguments.interval
    try:
        while True:
            time.sleep(wait_s)
            now = look(prefix, time.monotonic_ns())
            skipped = _skipped(client, key_prefix)
            shown = table([row(each, before.get(each.camera), skipped) for each in now])
            print(shown if arguments.once else CLEAR + shown, flush=True)
            if arguments.once:
                break
            before = {each.camera: each for each in now}
    except KeyboardInterrupt:
        return 0
    if not now:
        print("no ring: no camera has delivered a picture since its capture began", file=sys.stderr)
    return 0 if now else 1


def _skipped(client: redis.Redis, key_prefix: str) -> dict[str, int] | None:
    try:
        raw = client.get(metrics_key("inference", key_prefix))
    except OUTAGE:
        return None
    return skips([raw]) if isinstance(raw, bytes) else None
