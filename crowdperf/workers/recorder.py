"""The recorder: the only writer of the history.

Each batch's effects (crossings and their counters) and its acknowledgement are one atomic step, and a crossing that is
there already changes nothing, so every event is in the history, and in its counts, exactly once. No crossing depends on
another one either, so that several instances simply share the stream as one consumer group, without shares of cameras:
what a dead one was given and never acknowledged is taken over by a sibling.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import redis

from crowdperf.events import permissions
from crowdperf.events.bus import Consumer, Entry
from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.schema import AnyEvent, LineCrossed, ZoneMinute
from crowdperf.events.streams import EVENTS
from crowdperf.runtime import Runtime
from crowdperf.slices import WorkerSlice
from crowdperf.storage import backfill, zones
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import COMPLETE, Added, ZoneChanged, add
from crowdperf.storage.crossings import LATEST_S, crossing_of

ORPHANED_MS = 15_000
"""An entry that an instance has held for so long without recording it is taken over: the instance is gone."""
ADOPT_S = 5.0
"""How often such entries are looked for."""

log = logging.getLogger(__name__)


class Recorder:
    """One consumer of the events stream and the history it writes; `clock` is a monotonic one, in seconds."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        timezone: str,
        prefix: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._prefix = prefix
        self._calendar = Calendar(timezone)
        self.consumer: Consumer[AnyEvent] = Consumer(client, EVENTS, "recorder", name, prefix=prefix)
        self._clock = clock
        self._adopt_at = float("-inf")
        self._uncounted = False
        """Whether there are crossings that the counters do not cover yet."""

    def start(self) -> None:
        """Begin; call it again after every outage.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is away.
            Forbidden: its user may not do all of what recording takes. Nothing is read then: an entry that is
                delivered again and again would look like poison, and a script that stops half way loses a count.
        """
        permissions.require(self._client, self._prefix, permissions.RECORDING)
        self.consumer.start()
        self._uncounted = backfill.prepare(self._client, self._calendar, self._prefix)
        if self._uncounted:
            log.info("counting the crossings that were recorded without counters")

    def turn(self) -> Added:
        """Record one batch, and count one page of an older history where there is one.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next turn.
            redis.OutOfMemoryError: the server is full; nothing was recorded, the stream keeps it.
        """
        entries = self._orphaned() or self.consumer.read(count=256, **({"block_ms": 1} if self._uncounted else {}))
        if entries:
            return self._record(entries)
        if self._uncounted:
            self._count_page()
        return Added(0, 0, not self._uncounted)

    def _orphaned(self) -> list[Entry[AnyEvent]]:
        """What a dead sibling, or an instance of a configuration that had more of them, has left behind."""
        now = self._clock()
        if now < self._adopt_at:
            return []
        self._adopt_at = now + ADOPT_S
        return self.consumer.claim_from_others(ORPHANED_MS)

    def _record(self, entries: list[Entry[AnyEvent]]) -> Added:
        rows = []
        for entry in list(entries):
            if not isinstance(entry.message, LineCrossed):
                continue
            if math.isfinite(entry.message.ts) and 0 <= entry.message.ts < LATEST_S:
                rows.append(crossing_of(entry.message))
            else:
                self.consumer.bury(entry, f"ts {entry.message.ts!r} is no time")
                entries.remove(entry)
        if not entries:
            return Added(0, 0, not self._uncounted)
        minutes = [entry.message for entry in entries if isinstance(entry.message, ZoneMinute)]
        if minutes:
            # Before the acknowledgement, and the same however often: a member holds nothing that varies.
            with self._client.pipeline(transaction=True) as pipe:
                for minute in minutes:
                    zones.stage(pipe, minute, self._prefix)
                pipe.execute()
        acknowledge = (entries[0].stream, self.consumer.group, [entry.id for entry in entries])
        try:
            done = add(self._client, self._calendar, rows, self._prefix, acknowledge)
        except ZoneChanged:
            backfill.prepare(self._client, self._calendar, self._prefix)
            done = add(self._client, self._calendar, rows, self._prefix, acknowledge)
        self._uncounted = not done.complete
        if self._uncounted:
            self._count_page()
        return done

    def _count_page(self) -> None:
        if backfill.step(self._client, self._calendar, self._prefix) >= COMPLETE:
            log.info("every crossing is counted")
            self._uncounted = False


def main(slice_: WorkerSlice, runtime: Runtime) -> None:
    """Record until told to stop; an outage of Redis is waited out."""
    recorder = Recorder(connect(slice_.redis_url), runtime.name, slice_.timezone, slice_.key_prefix)
    backoff = Backoff()
    connected = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not connected:
                recorder.start()
                connected = True
            done = recorder.turn()
            runtime.metrics.count("crossings_recorded", done.added)
            runtime.metrics.count("crossings_too_old", done.late)
            runtime.metrics.gauge("dead_letters", recorder.consumer.dead_letters)
            backoff.reset()
        except OUTAGE as error:
            if backoff.worth_saying(error):
                log.warning("Redis takes nothing (%s): the events stream keeps what is not recorded yet", error)
            connected = False
            runtime.wait(backoff.next())
        except redis.ResponseError as error:
            # A Redis that was emptied has lost the group as well: the next start makes it again.
            if "NOGROUP" not in str(error):
                raise
            log.warning("Redis was emptied: %s", error)
            connected = False
            runtime.wait(backoff.next())
