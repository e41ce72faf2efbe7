"""Trim streams behind their slowest reader, expire the history by its retention, watch the memory of Redis.

Of several instances one is active: the holder of the lease. Another one takes over when it is gone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import redis

from crowdperf.messaging.consumer import parse_entry_id
from crowdperf.messaging.outages import run_until_stopped
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import OUTAGE, AnyClient, RedisPermissionError, connect
from crowdperf.messaging.schema import StoreFilling
from crowdperf.messaging.streams import AUDIT, DETECTIONS, EVENTS, OBSERVATIONS, STREAMS, Stream, stream_key
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.runtime.tasks import TaskGuard
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.storage import evidence, occupancy, retention
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.steady_clock import DAY_S, SteadyClock, clock_key, compute_rule_wait, compute_wait, load_clock
from crowdperf.supervision.processes import PROCESSES
from crowdperf.workers.clock_leaps import is_ahead
from crowdperf.workers.leases import Leases

INTERVAL_S = 15.0
LEASE_S = 3 * INTERVAL_S
OBSERVATIONS_RETENTION_S = 600
COUNTS_INTERVAL_S = 3600.0
MAX_AGE_SCAN = 10_000
"""Entries whose age is looked up in one sweep."""
CLOCK_LEAP_WARN_S = 3600.0
"""Difference between the machine's clock and the accepted time from which it is logged."""

log = logging.getLogger(__name__)


class Housekeeper:
    """One instance of the worker.

    Args:
        client: a redis-py client.
        config: the worker's configuration.
        runtime: the process.
    """

    def __init__(self, client: redis.Redis, config: WorkerConfig, runtime: ProcessRuntime) -> None:
        self._client: AnyClient = client
        self._config = config
        self._prefix = config.key_prefix
        self._readers = {stream.name: list_groups(stream, config.has_postgres) for stream in STREAMS}
        self._clock_key = clock_key(self._prefix)
        self._metrics = runtime.metrics
        self._guard = TaskGuard(
            runtime.metrics, passes=(redis.ConnectionError, redis.TimeoutError), expected=(*OUTAGE, OSError)
        )
        self._calendar = Calendar(config.timezone)
        self._events: Publisher[StoreFilling] = Publisher(client, EVENTS, config.key_prefix)
        self._lease = Leases(client, "housekeeping", 0, 1, runtime.name, config.key_prefix, LEASE_S)
        self._history = retention.HistoryRetention(self._client, self._prefix)
        self._clock: SteadyClock | None = None
        self._filling: retention.Filling = "ok"
        self._counts_expired_at = float("-inf")
        self._clock_leap_logged = False
        self._wall = 0.0
        """Time of this sweep by the machine's clock, Unix seconds."""
        self._memory_unavailable = False
        """Redis does not allow reading how full it is."""

    def sweep(self, wall: float, monotonic: float) -> None:
        """Trim every stream, apply the retention, check the memory; do nothing while a sibling is active.

        A task that fails is logged and counted, and the others run.

        `wall` is Unix time and `monotonic` a monotonic time, both in seconds.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is unavailable; sweep again.
        """
        is_active = self._holds_lease(monotonic)
        self._metrics.set_gauge("acts", is_active)
        if not is_active:
            # A takeover goes on from the time that the sibling has stored.
            self._clock = None
            return
        now = self._get_steady_time(wall, monotonic)
        self._wall = wall
        for name, task in (
            ("detections", self._trim_detections),
            ("clock", lambda: self._store_clock(now)),
            ("events", lambda: self._expire_events(now)),
            ("observations", lambda: self._expire_observations(now)),
            ("audit", lambda: self._expire_audit(now)),
            ("zones", lambda: self._expire_zones(now)),
            ("evidence", lambda: self._expire_evidence(now)),
            ("crossings", lambda: self._expire_crossings(now)),
            ("counts", lambda: self._expire_counts(now, monotonic)),
            ("memory", lambda: self._watch_memory(now)),
        ):
            self._guard.run(name, task)

    def _holds_lease(self, monotonic: float) -> bool:
        """Check whether this instance has the lease."""
        try:
            # At each sweep, since a Redis that was emptied has lost it.
            self._lease.start()
            return bool(self._lease.renew(monotonic))
        except redis.OutOfMemoryError:
            # A full server stores no lease. Two instances may make room at the same time.
            return True

    def stop(self) -> None:
        """Release the lease at an orderly end, so that a sibling takes over at once."""
        with contextlib.suppress(*OUTAGE):
            self._lease.release()

    def _get_steady_time(self, wall: float, monotonic: float) -> float:
        """Return the steady clock's time, which goes on from the stored one."""
        if self._clock is None:
            self._clock = load_clock(self._client, self._prefix)
        now = self._clock.now(wall, monotonic)
        lead = wall - now
        has_leapt = lead > CLOCK_LEAP_WARN_S
        if has_leapt and not self._clock_leap_logged:
            log.error(
                "the clock is %.1f days ahead of the accepted time, which goes on without it. Rules take it over after "
                "%.1f hours (at once where a time service keeps it), retention after %.1f hours. Remedy: correct the "
                "clock before that if it is wrong",
                lead / DAY_S,
                compute_rule_wait(lead) / 3600,
                compute_wait(lead) / 3600,
            )
        self._clock_leap_logged = has_leapt
        self._metrics.set_gauge("clock_leap_s", max(0.0, lead))
        return now

    def _store_clock(self, now: float) -> None:
        self._history.set_field(self._clock_key, "clock", now)
        if self._clock is not None:
            self._history.set_field(self._clock_key, "state", self._clock.dump_state())

    def _trim_detections(self) -> None:
        # Listed by Redis, not by the configuration: the stream of a removed camera must be trimmed too.
        for name in self._client.scan_iter(match=stream_key(DETECTIONS, "*", self._prefix), count=1000):
            trimmed = trim_stream(self._client, name.decode(), self._readers[DETECTIONS.name], keep_after=None)
            self._metrics.count("detections_trimmed", trimmed)

    def _trim_events(self, before: float) -> int:
        key, readers = stream_key(EVENTS, prefix=self._prefix), self._readers[EVENTS.name]
        return trim_stream(self._client, key, readers, find_entry_id(self._client, key, before, self._wall))

    def _expire_events(self, now: float) -> None:
        before = now - self._config.retention.events_days * DAY_S
        self._metrics.count("events_trimmed", self._trim_events(before))

    def _expire_observations(self, now: float) -> None:
        key, readers = stream_key(OBSERVATIONS, prefix=self._prefix), self._readers[OBSERVATIONS.name]
        oldest = find_entry_id(self._client, key, now - OBSERVATIONS_RETENTION_S, self._wall)
        trimmed = trim_stream(self._client, key, readers, oldest)
        self._metrics.count("observations_trimmed", trimmed)

    def _expire_audit(self, now: float) -> None:
        key, before = stream_key(AUDIT, prefix=self._prefix), now - self._config.retention.audit_days * DAY_S
        self._client.xtrim(key, minid=find_entry_id(self._client, key, before, self._wall), approximate=True)

    def _expire_zones(self, now: float) -> None:
        before = now - self._config.retention.zones_days * DAY_S
        occupancy.expire_zone_minutes(self._client, before, self._prefix)

    def _expire_evidence(self, now: float) -> None:
        kept = self._config.retention
        if not self._config.evidence:
            return
        before = now - kept.evidence_days * DAY_S
        expired, errors = evidence.expire(Path(self._config.evidence), before, kept.evidence_mb << 20)
        self._metrics.count("evidence_expired", expired)
        if errors:
            raise errors[0]

    def _expire_crossings(self, now: float) -> None:
        before = now - self._config.retention.crossings_days * DAY_S
        self._metrics.count("crossings_expired", self._history.expire_crossings(before))

    def _expire_counts(self, now: float, monotonic: float) -> None:
        if monotonic - self._counts_expired_at >= COUNTS_INTERVAL_S:
            expired = self._history.expire_counts(self._config.retention, self._calendar, now)
            self._counts_expired_at = monotonic
            self._metrics.count("count_chunks_expired", expired)

    def _watch_memory(self, now: float) -> None:
        """Report how full the server is, and drop old data before it refuses writes."""
        try:
            usage = retention.read_memory_usage(self._client)
        except RedisPermissionError as error:
            # A hosted Redis may not allow it. Trimming and retention work without it.
            if not self._memory_unavailable:
                log.warning("the memory of Redis is not watched, so nothing is dropped before it is full: %s", error)
            self._memory_unavailable = True
            return
        self._memory_unavailable = False
        state = retention.update_filling(usage.share, self._filling)
        self._metrics.set_gauge("redis_used_bytes", usage.used)
        self._metrics.set_gauge("redis_limit_bytes", usage.limit)
        text = f"{usage.used / 2**20:.0f} of {usage.limit / 2**20:.0f} MiB used"
        if state == "dropping":
            dropped = self._history.relieve(now, self._trim_events)
            self._metrics.count("store_dropped")
            log.error(
                "Redis is nearly full (%s). Dropped: %s", text, dropped or "nothing, there is nothing left to drop"
            )
        if state != self._filling:
            log.warning("Redis memory: %s, %s", state, text)
            event_id = f"store:{state}:{int(now * 1000)}"
            event = StoreFilling(
                id=event_id, camera="", ts=now, state=state, used_bytes=usage.used, limit_bytes=usage.limit
            )
            try:
                self._events.publish(event)
            except redis.OutOfMemoryError:
                # The server is full: the event follows at the next sweep, when the dropped data has made room.
                return
            self._filling = state


def main(config: WorkerConfig, runtime: ProcessRuntime) -> None:
    """Sweep every 15 s until the process is to stop."""
    keeper = Housekeeper(connect(config.redis_url), config, runtime)

    def step() -> None:
        keeper.sweep(time.time(), time.monotonic())
        runtime.wait_for_stop(INTERVAL_S)

    run_until_stopped(runtime, lambda: None, step, "housekeeping waits")
    keeper.stop()


def find_entry_id(client: Any, name: str, before: float, now: float) -> str:
    """Find the id below which the entries of a stream are from before a time.

    Redis gives no smaller id than the newest one. So after a clock that was ahead for a while, ids tell no time. Then
    the oldest entries are looked at instead.

    Args:
        client: a redis-py client.
        name: key of the stream.
        before: the time, Unix seconds.
        now: the present, Unix seconds.

    Returns:
        The id; after such a clock, at most `MAX_AGE_SCAN` entries behind the oldest one.
    """
    newest = client.xrevrange(name, count=1)
    if not newest or not is_ahead(parse_entry_id(newest[0][0])[0] / 1000, now):
        return f"{max(0, int(before * 1000))}-0"
    oldest = b"0-0"
    for entry_id, fields in client.xrange(name, count=MAX_AGE_SCAN):
        ts = _parse_time(fields.get(b"ts", b""))
        if ts < before:
            oldest = entry_id
        elif not is_ahead(ts, now):
            break
    return str(oldest.decode())


def _parse_time(text: bytes) -> float:
    """Return the time of an entry; a malformed entry counts as old."""
    try:
        ts = float(text)
    except ValueError:
        return -math.inf
    return ts if math.isfinite(ts) else -math.inf


def list_groups(stream: Stream, has_postgres: bool) -> frozenset[str]:
    """List the consumer groups that the configuration reads a stream by, whether their workers run or not."""
    return frozenset(
        row.kind.removeprefix("worker-")
        for row in PROCESSES
        if stream.name in row.reads and (has_postgres or row.instances != "postgres")
    )


def trim_stream(client: Any, name: str, readers: Collection[str], keep_after: str | None) -> int:
    """Remove the entries that every group in use has acknowledged; a stream without a group is left alone.

    Args:
        client: a redis-py client.
        name: key of the stream.
        readers: the groups in use; any other one was left behind, and keeps nothing from being removed.
        keep_after: id from which entries are kept in any case; None for no such limit.

    Returns:
        Number of removed entries.
    """
    if not client.exists(name):
        return 0
    floors = []
    groups = client.xinfo_groups(name)
    for group in groups:
        if group["name"].decode() not in readers:
            continue
        pending = client.xpending(name, group["name"])
        # All is acknowledged before the oldest pending entry, or up to the last delivered one.
        floors.append(pending["min"] if pending["pending"] else group["last-delivered-id"])
    if groups and keep_after is not None:
        floors.append(keep_after.encode())
    if not floors:
        return 0
    floor = min(floors, key=parse_entry_id)
    return int(client.xtrim(name, minid=floor, approximate=True))
