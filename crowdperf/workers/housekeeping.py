"""Housekeeping: streams are trimmed behind their slowest reader, history is ended by its retention."""

from __future__ import annotations

import logging
import time
from typing import Any

from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.streams import DETECTIONS, EVENTS, OBSERVATIONS, key
from crowdperf.runtime import Runtime
from crowdperf.slices import WorkerSlice
from crowdperf.storage import crossings, zones

INTERVAL_S = 15.0
OBSERVATIONS_S = 600

log = logging.getLogger(__name__)


def main(slice_: WorkerSlice, runtime: Runtime) -> None:
    """Sweep every 15 s until told to stop."""
    client = connect(slice_.redis_url)
    backoff = Backoff()
    while not runtime.stopping:
        runtime.tick()
        try:
            sweep(client, slice_, runtime, time.time())
            backoff.reset()
            runtime.wait(INTERVAL_S)
        except OUTAGE as error:
            if backoff.worth_saying:
                log.warning("Redis is away (%s): housekeeping waits", error)
            runtime.wait(backoff.next())


def sweep(client: Any, slice_: WorkerSlice, runtime: Runtime, now: float) -> None:
    """Trim every stream and apply the retention once; `now` in Unix seconds."""
    prefix, retention = slice_.key_prefix, slice_.retention
    # Asked of Redis, not of the configuration: the stream of a camera that is gone has to be trimmed as well.
    for name in client.scan_iter(match=key(DETECTIONS, "*", prefix), count=1000):
        runtime.metrics.count("detections_trimmed", trim(client, name.decode(), keep_after=None))
    events_name = key(EVENTS, prefix=prefix)
    oldest = int((now - retention.events_days * 86_400) * 1000)
    runtime.metrics.count("events_trimmed", trim(client, events_name, keep_after=f"{oldest}-0"))
    observed = int((now - OBSERVATIONS_S) * 1000)
    trimmed = trim(client, key(OBSERVATIONS, prefix=prefix), keep_after=f"{observed}-0")
    runtime.metrics.count("observations_trimmed", trimmed)
    zones.expire(client, now - retention.zones_days * 86_400, prefix)
    with client.pipeline(transaction=False) as pipe:
        crossings.stage_retention(pipe, now - retention.crossings_days * 86_400, prefix)
        removed = pipe.execute()
    runtime.metrics.count("crossings_expired", sum(removed))


def trim(client: Any, name: str, keep_after: str | None) -> int:
    """Remove what every group has acknowledged (and, with `keep_after`, only what is older than that id).

    A stream without a group is left alone: nobody has read it yet. Returns the number of entries removed.
    """
    if not client.exists(name):
        return 0
    floors = []
    for group in client.xinfo_groups(name):
        pending = client.xpending(name, group["name"])
        # Acknowledged is everything before the oldest pending entry, or up to the last delivered one.
        floors.append(pending["min"] if pending["pending"] else group["last-delivered-id"])
    if not floors:
        return 0
    floor = min(floors, key=_order)
    if keep_after is not None:
        floor = min(floor, keep_after.encode(), key=_order)
    return int(client.xtrim(name, minid=floor, approximate=True))


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number or 0)
