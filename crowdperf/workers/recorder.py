"""Write the history: the recorder is its only writer.

A batch's effects (crossings and their counters) and its acknowledgement are one atomic step. A crossing that is already
there changes nothing. So every event is in the history, and in its counts, exactly once. No crossing depends on another
one, so several instances share the stream as one consumer group, without shards of cameras. A sibling takes over the
entries that a dead instance was given and never acknowledged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import redis

from crowdperf.messaging.consumer import Consumer, StreamEntry
from crowdperf.messaging.outages import run_until_stopped
from crowdperf.messaging.redis import acl
from crowdperf.messaging.redis.client import AnyClient, connect
from crowdperf.messaging.schema import AnyEvent, LineCrossed, ZoneMinute
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.storage import occupancy
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import (
    FRONTIER_COMPLETE,
    AddResult,
    CountersOutdatedError,
    add_crossings,
    build_crossing,
)
from crowdperf.storage.postgres import backfill

ORPHAN_IDLE_MS = 15_000
"""Idle time after which an instance's entry is taken over, since the instance is gone."""
ORPHAN_CHECK_INTERVAL_S = 5.0
"""Time between two searches for such entries."""

log = logging.getLogger(__name__)


class Recorder:
    """Consumer of the events stream, and writer of the history.

    Args:
        client: a redis-py client.
        name: name of this member of the consumer group.
        timezone: IANA name of the site's timezone.
        prefix: the configured prefix of every key.
        clock: monotonic clock, seconds.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        timezone: str,
        prefix: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client: AnyClient = client
        self._prefix = prefix
        self._calendar = Calendar(timezone)
        self.consumer: Consumer[AnyEvent] = Consumer(client, EVENTS, "recorder", name, prefix=prefix)
        self._clock = clock
        self._next_orphan_check_at = float("-inf")
        self._has_uncounted = False
        """Whether some crossings are not counted yet."""

    def start(self) -> None:
        """Begin; call it again after every outage.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is unavailable.
            RedisPermissionError: the user lacks a permission. Nothing is read then: an entry that is delivered again
                and again would look like poison, and a script that stops half way loses a count.
        """
        acl.require_permissions(self._client, self._prefix, acl.RECORDER_COMMANDS)
        self.consumer.start()
        self._has_uncounted = backfill.prepare(self._client, self._calendar, self._prefix)
        if self._has_uncounted:
            log.info("counting the crossings that were recorded without counters")

    def step(self) -> AddResult:
        """Record one batch, and count one page of an older history where there is one.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next step.
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
        """Take over entries of a dead sibling, or of an instance that is no longer configured."""
        now = self._clock()
        if now < self._next_orphan_check_at:
            return []
        self._next_orphan_check_at = now + ORPHAN_CHECK_INTERVAL_S
        return self.consumer.claim_from_others(ORPHAN_IDLE_MS)

    def _record(self, entries: list[StreamEntry[AnyEvent]]) -> AddResult:
        rows = [build_crossing(entry.message) for entry in entries if isinstance(entry.message, LineCrossed)]
        minutes = [entry.message for entry in entries if isinstance(entry.message, ZoneMinute)]
        if minutes:
            # Before the acknowledgement, and idempotent: a repetition writes the same values.
            with self._client.pipeline(transaction=True) as pipe:
                for minute in minutes:
                    occupancy.stage_zone_minute(pipe, minute, self._prefix)
                pipe.execute()
        acknowledge = (self.consumer.key, self.consumer.group, [entry.id for entry in entries])
        try:
            result = add_crossings(self._client, self._calendar, rows, self._prefix, acknowledge)
        except CountersOutdatedError:
            backfill.prepare(self._client, self._calendar, self._prefix)
            result = add_crossings(self._client, self._calendar, rows, self._prefix, acknowledge)
        self._has_uncounted = not result.complete
        if self._has_uncounted:
            self._count_page()
        return result

    def _count_page(self) -> None:
        if backfill.run_step(self._client, self._calendar, self._prefix) >= FRONTIER_COMPLETE:
            log.info("every crossing is counted")
            self._has_uncounted = False


def main(config: WorkerConfig, runtime: ProcessRuntime) -> None:
    """Record until the process is to stop; an outage of Redis is waited out."""
    recorder = Recorder(connect(config.redis_url), runtime.name, config.timezone, config.key_prefix)

    def step() -> None:
        result = recorder.step()
        runtime.metrics.count("crossings_recorded", result.added)
        runtime.metrics.count("crossings_too_old", result.late)
        runtime.metrics.set_gauge("dead_letters", recorder.consumer.dead_letters)

    run_until_stopped(runtime, recorder.start, step, "the events stream keeps what is not recorded yet")
