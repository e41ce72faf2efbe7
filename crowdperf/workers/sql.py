"""The recorder's second half: events and summaries to PostgreSQL, in a process of its own, so that the history in Redis
never waits for it.

It follows the events stream with a group of its own, which keeps what PostgreSQL has not got from being trimmed. A
batch is one statement that changes nothing when repeated, and the group moves behind it afterwards: every event is
there once, whatever was killed in between. While PostgreSQL is away, the batch that was read is written again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from crowdperf.events.bus import Entry
from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.follower import Follower
from crowdperf.events.schema import AnyEvent
from crowdperf.events.streams import EVENTS
from crowdperf.runtime import Runtime
from crowdperf.settings.postgres import resolve_dsn
from crowdperf.slices import WorkerSlice
from crowdperf.storage import migrations, postgres, sql
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.history_pages import pages
from crowdperf.storage.postgres import Database, DatabaseAway, DatabaseRefuses

GROUP = "sql"
BATCH = 1000

log = logging.getLogger(__name__)


class SchemaMissing(Exception):
    """The tables are not there, or not this version's; the message says what to do."""


class SqlRecorder:
    """One follower of the events stream and the database it writes to."""

    def __init__(
        self,
        client: redis.Redis,
        dsn: str,
        timezone: str,
        prefix: str = "",
        driver: str | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._dsn = dsn
        self._driver = driver
        self._prefix = prefix
        self._calendar = Calendar(timezone)
        self._tick = tick
        self._done_key = f"{prefix}crowdperf:sql"
        """Hash: zone of the summaries, whether the history was copied."""
        self.follower: Follower[AnyEvent] = Follower(client, EVENTS, GROUP, prefix)
        self._database: Database | None = None
        self._following = False
        self._held: list[Entry[AnyEvent]] = []
        self.behind = False
        """Whether the stream had more than the last batch."""

    def turn(self) -> int:
        """Write one batch; returns how many events were new.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is away; call `forget_redis`, then turn again.
            DatabaseAway, SchemaMissing: PostgreSQL cannot be written to; turn again.
        """
        database = self._connected()
        if not self._following:
            self._begin(database)
        if not self._held:
            self._held = self.follower.read(BATCH)
        try:
            written = self._write(database, self._held)
        except DatabaseAway:
            self._disconnect()
            raise
        self.follower.commit()
        self.behind = len(self._held) == BATCH
        if not self._held:
            self.follower.check()
        self._held = []
        return written

    def forget_redis(self) -> None:
        """Redis was away: find the position again."""
        self._following = False
        self._held = []

    def close(self) -> None:
        """The orderly end."""
        self._disconnect()

    def _connected(self) -> Database:
        if self._database is None:
            database = postgres.connect(self._dsn, self._driver)
            try:
                left = migrations.pending(database, migrations.available())
            except (DatabaseAway, DatabaseRefuses):
                database.close()
                raise
            if left:
                database.close()
                raise SchemaMissing(f"{left[0].name} is not applied. Remedy: run `crowdperf migrate`.")
            self._database = database
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _begin(self, database: Database) -> None:
        """Find the position; a database that has nothing yet gets the crossings of the history first."""
        self.follower.start()
        try:
            zone, copied = self._client.hmget(self._done_key, "zone", "copied")
            if not copied or not database.run("SELECT 1 FROM events LIMIT 1"):
                self._copy_history(database)
            if zone is not None and zone != self._calendar.name.encode():
                log.warning("summaries are made anew for the zone %s", self._calendar.name)
                sql.recount(database, self._calendar, self._tick)
            self._client.hset(self._done_key, mapping={"zone": self._calendar.name, "copied": "1"})
        except DatabaseAway:
            self._disconnect()
            raise
        self._following = True

    def _copy_history(self, database: Database) -> None:
        """Every crossing that Redis has; those that the stream brings as well are there once all the same."""
        copied = 0
        for page in pages(self._client, self._prefix):
            self._tick()
            copied += sql.write(database, self._calendar, [sql.of_crossing(row) for row in page])
        log.info("%d crossings of the history were copied", copied)

    def _write(self, database: Database, entries: list[Entry[AnyEvent]]) -> int:
        """Write entries; those that PostgreSQL cannot hold become dead letters, one by one, and the others are written.

        Raises:
            DatabaseAway, SchemaMissing: the entries may or may not be there; write them again.
        """
        if not entries:
            return 0
        try:
            return sql.write(database, self._calendar, [sql.of_event(entry.message) for entry in entries])
        except (DatabaseRefuses, OverflowError) as error:
            if isinstance(error, DatabaseRefuses) and error.is_schema:
                self._disconnect()
                raise SchemaMissing(f"PostgreSQL refuses ({error}). Remedy: run `crowdperf migrate`.") from None
            if len(entries) == 1:
                self.follower.bury(entries[0], f"PostgreSQL: {error}")
                return 0
            half = len(entries) // 2
            return self._write(database, entries[:half]) + self._write(database, entries[half:])


def _lag_s(writer: SqlRecorder) -> float:
    """How old the newest event is that was read from the stream."""
    return max(0.0, time.time() - writer.follower.read_until)


def main(slice_: WorkerSlice, runtime: Runtime) -> None:
    """Write until told to stop; outages of Redis and of PostgreSQL are waited out.

    Raises:
        ConfigError: postgres.dsn leads nowhere, or no driver is installed.
    """
    dsn = resolve_dsn(slice_.postgres_dsn, Path.cwd())
    writer = SqlRecorder(connect(slice_.redis_url), dsn, slice_.timezone, slice_.key_prefix, tick=runtime.tick)
    backoff = Backoff()
    trouble: Exception
    while not runtime.stopping:
        runtime.tick()
        try:
            runtime.metrics.count("sql_events_written", writer.turn())
            runtime.metrics.gauge("sql_up", 1)
            runtime.metrics.gauge("sql_lag_s", _lag_s(writer) if writer.behind else 0.0)
            runtime.metrics.gauge("dead_letters", writer.follower.dead_letters)
            backoff.reset()
            continue
        except OUTAGE as error:
            trouble = error
            said = f"Redis takes nothing ({error})"
            writer.forget_redis()
        except redis.ResponseError as error:
            # A Redis that was emptied has lost the group as well: the next turn makes it again.
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise
            trouble = error
            said = f"Redis was emptied ({error})"
            writer.forget_redis()
        except (DatabaseAway, SchemaMissing) as error:
            trouble = error
            said = f"PostgreSQL takes nothing ({error}): the events stream keeps what is not there yet"
            runtime.metrics.gauge("sql_up", 0)
        if backoff.worth_saying(trouble):
            log.warning("%s", said)
        runtime.metrics.gauge("sql_lag_s", _lag_s(writer))
        runtime.wait(backoff.next())
    writer.close()
