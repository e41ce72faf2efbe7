"""The recorder: the only writer of the history.

Each batch's effects and its acknowledgement go in one MULTI, and an effect repeated is the same effect (the member of a
crossing holds nothing that varies), so every event is in the history exactly once.
"""

from __future__ import annotations

import logging
from typing import Any

from crowdperf.events.bus import Consumer
from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.schema import AnyEvent, LineCrossed, ZoneMinute
from crowdperf.events.streams import EVENTS
from crowdperf.runtime import Runtime
from crowdperf.slices import WorkerSlice
from crowdperf.storage import crossings, zones

log = logging.getLogger(__name__)


def main(slice_: WorkerSlice, runtime: Runtime) -> None:
    """Record until told to stop; an outage of Redis is waited out."""
    client = connect(slice_.redis_url)
    consumer: Consumer[AnyEvent] = Consumer(client, EVENTS, "recorder", runtime.name, prefix=slice_.key_prefix)
    backoff = Backoff()
    connected = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not connected:
                consumer.start()
                connected = True
            recorded = record(consumer, client, slice_.key_prefix)
            runtime.metrics.count("crossings_recorded", recorded)
            runtime.metrics.gauge("dead_letters", consumer.dead_letters)
            backoff.reset()
        except OUTAGE as error:
            if backoff.worth_saying:
                log.warning("Redis is away (%s): the events stream keeps what is not recorded yet", error)
            connected = False
            runtime.wait(backoff.next())


def record(consumer: Consumer[AnyEvent], client: Any, prefix: str = "") -> int:
    """Record one batch; returns how many crossings it held."""
    entries = consumer.read(count=256)
    if not entries:
        return 0
    crossed = [entry.message for entry in entries if isinstance(entry.message, LineCrossed)]
    minutes = [entry.message for entry in entries if isinstance(entry.message, ZoneMinute)]
    with client.pipeline(transaction=True) as pipe:
        for minute in minutes:
            zones.stage(pipe, minute, prefix)
        for event in crossed:
            crossings.stage(pipe, event, prefix)
        consumer.stage_ack(pipe, entries)
        pipe.execute()
    return len(crossed)
