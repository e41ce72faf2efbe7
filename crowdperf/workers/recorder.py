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

from crowdperf.messaging.bus import Consumer, StreamEntry
from crowdperf.messaging.redis import acl
from crowdperf.messaging.redis.client import OUTAGE, Backoff, connect
from crowdperf.messaging.schema import AnyEvent, LineCrossed, ZoneMinute
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.storage import occupancy
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import (
    FRONTIER_COMPLETE,
    MAX_TIME_S,
    AddResult,
    CountersOutdatedError,
    add_crossings,
    build_crossing,
)
from crowdperf.storage.postgres import backfill

ORPHAN_IDLE_MS = 15_000
"""An entry that an instance has held for so long without recording it is taken over: the instance is gone."""
ORPHAN_CHECK_INTERVAL_S = 5.0
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
        self._next_orphan_check_at = float("-inf")
        self._has_uncounted = False
        """Whether there are crossings that the counters do not cover yet."""

    def start(self) -> None:
        """Begin; call it again after every outage.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is away.
            Forbidden: its user may not do all of what recording takes. Nothing is read then: an entry that is
                delivered again and again would look like poison, and a script that stops half way loses a count.
        """
        acl.require_permissions(self._client, self._prefix, acl.RECORDER_COMMANDS)
        self.consumer.start()
        self._has_uncounted = backfill.prepare(self._client, self._calendar, self._prefix)
        if self._has_uncounted:
            log.info("counting the crossings that were recorded without counters")

    def step(self) -> AddResult:
        """Record one batch, and count one page of an older history where there is one.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next turn.
            redis.OutOfMemoryError: the server is full; nothing was recorded, the stream keeps it.
        """
        entries = self._claim_orphans() or self.consumer.read(
            count=256, **({"block_ms": 1} if self._has_uncounted else {})
        )
        if entries:
            return self._record(entries)
        if self._has_uncounted:
            self._count_page()
        return AddResult(0, 0, not self._has_uncounted)

    def _claim_orphans(self) -> list[StreamEntry[AnyEvent]]:
        """What a dead sibling, or an instance of a configuration that had more of them, has left behind."""
        now = self._clock()
        if now < self._next_orphan_check_at:
            return []
        self._next_orphan_check_at = now + ORPHAN_CHECK_INTERVAL_S
        return self.consumer.claim_from_others(ORPHAN_IDLE_MS)

    def _record(self, entries: list[StreamEntry[AnyEvent]]) -> AddResult:
        rows = []
        for entry in list(entries):
            if not isinstance(entry.message, LineCrossed):
                continue
            if math.isfinite(entry.message.ts) and 0 <= entry.message.ts < MAX_TIME_S:
                rows.append(build_crossing(entry.message))
            else:
                self.consumer.dead_letter(entry, f"ts {entry.message.ts!r} is no time")
                entries.remove(entry)
        if not entries:
            return AddResult(0, 0, not self._has_uncounted)
        minutes = [entry.message for entry in entries if isinstance(entry.message, ZoneMinute)]
        if minutes:
            # Before the acknowledgement, and the same however often: a member holds nothing that varies.
            with self._client.pipeline(transaction=True) as pipe:
                for minute in minutes:
                    occupancy.stage_zone_minute(pipe, minute, self._prefix)
                pipe.execute()
        acknowledge = (entries[0].stream, self.consumer.group, [entry.id for entry in entries])
        try:
            done = add_crossings(self._client, self._calendar, rows, self._prefix, acknowledge)
        except CountersOutdatedError:
            backfill.prepare(self._client, self._calendar, self._prefix)
            done = add_crossings(self._client, self._calendar, rows, self._prefix, acknowledge)
        self._has_uncounted = not done.complete
        if self._has_uncounted:
            self._count_page()
        return done

    def _count_page(self) -> None:
        if backfill.run_step(self._client, self._calendar, self._prefix) >= FRONTIER_COMPLETE:
            log.info("every crossing is counted")
            self._has_uncounted = False


def main(config: WorkerConfig, runtime: ProcessRuntime) -> None:
    """Record until told to stop; an outage of Redis is waited out."""
    recorder = Recorder(connect(config.redis_url), runtime.name, config.timezone, config.key_prefix)
    backoff = Backoff()
    connected = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not connected:
                recorder.start()
                connected = True
            done = recorder.step()
            runtime.metrics.count("crossings_recorded", done.added)
            runtime.metrics.count("crossings_too_old", done.late)
            runtime.metrics.set_gauge("dead_letters", recorder.consumer.dead_letters)
            backoff.reset()
        except OUTAGE as error:
            if backoff.should_log(error):
                log.warning("Redis unavailable (%s): the events stream keeps what is not recorded yet", error)
            connected = False
            runtime.wait_for_stop(backoff.next())
        except redis.ResponseError as error:
            # A Redis that was emptied has lost the group as well: the next start makes it again.
            if "NOGROUP" not in str(error):
                raise
            log.warning("Redis was emptied: %s", error)
            connected = False
            runtime.wait_for_stop(backoff.next())
