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

from crowdperf.messaging.bus import StreamEntry
from crowdperf.messaging.redis.client import OUTAGE, Backoff, connect
from crowdperf.messaging.schema import AnyEvent
from crowdperf.messaging.stream_reader import StreamReader
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.settings.site import resolve_dsn
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.postgres import driver as postgres
from crowdperf.storage.postgres import migrations, statements
from crowdperf.storage.postgres.driver import Database, DatabaseRejectedError, DatabaseUnavailableError
from crowdperf.storage.queries import iter_history_pages

GROUP = "sql"
BATCH_SIZE = 1000

log = logging.getLogger(__name__)


class SchemaMissingError(Exception):
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
        self._progress_key = f"{prefix}crowdperf:sql"
        """Hash: zone of the summaries, whether the history was copied."""
        self.reader: StreamReader[AnyEvent] = StreamReader(client, EVENTS, GROUP, prefix)
        self._database: Database | None = None
        self._is_following = False
        self._unwritten: list[StreamEntry[AnyEvent]] = []
        self.has_backlog = False
        """Whether the stream had more than the last batch."""

    def step(self) -> int:
        """Write one batch; returns how many events were new.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is away; call `forget_redis`, then turn again.
            DatabaseAway, SchemaMissing: PostgreSQL cannot be written to; turn again.
        """
        database = self._get_database()
        if not self._is_following:
            self._start_following(database)
        if not self._unwritten:
            self._unwritten = self.reader.read(BATCH_SIZE)
        try:
            written = self._write(database, self._unwritten)
        except DatabaseUnavailableError:
            self._disconnect()
            raise
        self.reader.commit()
        self.has_backlog = len(self._unwritten) == BATCH_SIZE
        if not self._unwritten:
            self.reader.check_position()
        self._unwritten = []
        return written

    def forget_redis(self) -> None:
        """Redis was away: find the position again."""
        self._is_following = False
        self._unwritten = []

    def close(self) -> None:
        """The orderly end."""
        self._disconnect()

    def _get_database(self) -> Database:
        if self._database is None:
            database = postgres.connect(self._dsn, self._driver)
            try:
                left = migrations.list_pending(database, migrations.list_migrations())
            except (DatabaseUnavailableError, DatabaseRejectedError):
                database.close()
                raise
            if left:
                database.close()
                raise SchemaMissingError(f"{left[0].name} is not applied. Remedy: run `crowdperf migrate`.")
            self._database = database
        return self._database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _start_following(self, database: Database) -> None:
        """Find the position; a database that has nothing yet gets the crossings of the history first."""
        self.reader.start()
        try:
            zone, copied = self._client.hmget(self._progress_key, "zone", "copied")
            if not copied or not database.run("SELECT 1 FROM events LIMIT 1"):
                self._copy_history(database)
            if zone is not None and zone != self._calendar.name.encode():
                log.warning("summaries are made anew for the zone %s", self._calendar.name)
                statements.recount_summaries(database, self._calendar, self._tick)
            self._client.hset(self._progress_key, mapping={"zone": self._calendar.name, "copied": "1"})
        except DatabaseUnavailableError:
            self._disconnect()
            raise
        self._is_following = True

    def _copy_history(self, database: Database) -> None:
        """Every crossing that Redis has; those that the stream brings as well are there once all the same."""
        copied = 0
        for page in iter_history_pages(self._client, self._prefix):
            self._tick()
            copied += statements.write_rows(
                database, self._calendar, [statements.build_crossing_row(row) for row in page]
            )
        log.info("%d crossings of the history were copied", copied)

    def _write(self, database: Database, entries: list[StreamEntry[AnyEvent]]) -> int:
        """Write entries; those that PostgreSQL cannot hold become dead letters, one by one, and the others are written.

        Raises:
            DatabaseAway, SchemaMissing: the entries may or may not be there; write them again.
        """
        if not entries:
            return 0
        try:
            return statements.write_rows(
                database, self._calendar, [statements.build_event_row(entry.message) for entry in entries]
            )
        except (DatabaseRejectedError, OverflowError) as error:
            if isinstance(error, DatabaseRejectedError) and error.is_schema_error:
                self._disconnect()
                raise SchemaMissingError(f"PostgreSQL refuses ({error}). Remedy: run `crowdperf migrate`.") from None
            if len(entries) == 1:
                self.reader.dead_letter(entries[0], f"PostgreSQL: {error}")
                return 0
            half = len(entries) // 2
            return self._write(database, entries[:half]) + self._write(database, entries[half:])


def _compute_lag_s(writer: SqlRecorder) -> float:
    """How old the newest event is that was read from the stream."""
    return max(0.0, time.time() - writer.reader.read_until)


def main(config: WorkerConfig, runtime: ProcessRuntime) -> None:
    """Write until told to stop; outages of Redis and of PostgreSQL are waited out.

    Raises:
        ConfigError: postgres.dsn leads nowhere, or no driver is installed.
    """
    dsn = resolve_dsn(config.postgres_dsn, Path.cwd())
    writer = SqlRecorder(connect(config.redis_url), dsn, config.timezone, config.key_prefix, tick=runtime.tick)
    backoff = Backoff()
    trouble: Exception
    while not runtime.stopping:
        runtime.tick()
        try:
            runtime.metrics.count("sql_events_written", writer.step())
            runtime.metrics.set_gauge("sql_up", 1)
            runtime.metrics.set_gauge("sql_lag_s", _compute_lag_s(writer) if writer.has_backlog else 0.0)
            runtime.metrics.set_gauge("dead_letters", writer.reader.dead_letters)
            backoff.reset()
            continue
        except OUTAGE as error:
            trouble = error
            said = f"Redis unavailable ({error})"
            writer.forget_redis()
        except redis.ResponseError as error:
            # A Redis that was emptied has lost the group as well: the next turn makes it again.
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise
            trouble = error
            said = f"Redis was emptied ({error})"
            writer.forget_redis()
        except (DatabaseUnavailableError, SchemaMissingError) as error:
            trouble = error
            said = f"PostgreSQL takes nothing ({error}): the events stream keeps what is not there yet"
            runtime.metrics.set_gauge("sql_up", 0)
        if backoff.should_log(trouble):
            log.warning("%s", said)
        runtime.metrics.set_gauge("sql_lag_s", _compute_lag_s(writer))
        runtime.wait_for_stop(backoff.next())
    writer.close()
