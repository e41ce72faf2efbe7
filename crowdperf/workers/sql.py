"""Write events and summaries to PostgreSQL, in a separate process, so that the history in Redis never waits for it.

It reads the events stream with its own group, so events that PostgreSQL lacks are not trimmed. A batch is one statement
that changes nothing when repeated, and the group moves behind it afterwards. So every event is there once after a kill
at any point. While PostgreSQL is unavailable, the same batch is tried again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import redis

from crowdperf.messaging.consumer import PositionConsumer, RawEntry, parse_entry_id
from crowdperf.messaging.outages import OutageHandler, run_until_stopped
from crowdperf.messaging.redis.client import AnyClient, connect
from crowdperf.messaging.schema import AnyEvent
from crowdperf.messaging.streams import EVENTS, stream_key
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
    """The tables are missing or of another version; the message names the remedy."""


class SqlRecorder:
    """Reader of the events stream, and writer of the database.

    Args:
        client: a redis-py client.
        dsn: data source name of the database.
        timezone: IANA name of the site's timezone.
        prefix: the configured prefix of every key.
        driver: name of the PostgreSQL driver; None for the first one installed.
        tick: called during long work, to feed the watchdog.
    """

    def __init__(
        self,
        client: redis.Redis,
        dsn: str,
        timezone: str,
        prefix: str = "",
        driver: str | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._client: AnyClient = client
        self._dsn = dsn
        self._driver = driver
        self._prefix = prefix
        self._calendar = Calendar(timezone)
        self._tick = tick
        self._progress_key = f"{prefix}crowdperf:sql"
        """Hash with the zone of the summaries, and whether the history was copied."""
        self._key = stream_key(EVENTS, prefix=prefix)
        self.reader: PositionConsumer[AnyEvent] = PositionConsumer(client, EVENTS, GROUP, prefix=prefix)
        self._database: Database | None = None
        self._is_following = False
        self._unwritten: list[tuple[RawEntry, AnyEvent]] = []
        self.has_backlog = False
        """Whether the stream had more than the last batch."""

    def restart(self) -> None:
        """Begin at what is stored; call it after every outage of Redis."""
        self._is_following = False
        self._unwritten = []

    def step(self) -> int:
        """Write one batch and return how many events were new.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is unavailable; call `restart` before the next step.
            DatabaseUnavailableError, SchemaMissingError: PostgreSQL cannot be written to; call `step` again.
        """
        database = self._get_database()
        if not self._is_following:
            self._start_following(database)
        if not self._unwritten:
            entries = self.reader.read(BATCH_SIZE)
            self.has_backlog = len(entries) == BATCH_SIZE
            decoded = ((entry, self.reader.decode(entry)) for entry in entries)
            self._unwritten = [(entry, event) for entry, event in decoded if event is not None]
        try:
            written = self._write(database, self._unwritten)
        except DatabaseUnavailableError:
            self.close()
            raise
        self.reader.commit()
        if not self._unwritten:
            self.reader.rewind_if_recreated(self._key)
        self._unwritten = []
        return written

    def get_lag_s(self) -> float:
        """Return the age of the newest event that was read, seconds."""
        return max(0.0, time.time() - parse_entry_id(self.reader.positions[self._key])[0] / 1000)

    def close(self) -> None:
        """Close the connection to the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _get_database(self) -> Database:
        if self._database is None:
            database = postgres.connect(self._dsn, self._driver)
            try:
                pending = migrations.list_pending(database, migrations.list_migrations())
            except (DatabaseUnavailableError, DatabaseRejectedError):
                database.close()
                raise
            if pending:
                database.close()
                raise SchemaMissingError(f"{pending[0].name} is not applied. Remedy: run `crowdperf migrate`.")
            self._database = database
        return self._database

    def _start_following(self, database: Database) -> None:
        """Find the position; an empty database first gets the crossings of the history."""
        self.reader.start()
        try:
            zone, copied = self._client.hmget(self._progress_key, "zone", "copied")
            if not copied or not database.run("SELECT 1 FROM events LIMIT 1"):
                self._copy_history(database)
            if zone is not None and zone != self._calendar.name.encode():
                log.warning("summaries are computed again for the zone %s", self._calendar.name)
                statements.recount_summaries(database, self._calendar, self._tick)
            self._client.hset(self._progress_key, mapping={"zone": self._calendar.name, "copied": "1"})
        except DatabaseUnavailableError:
            self.close()
            raise
        self._is_following = True

    def _copy_history(self, database: Database) -> None:
        """Copy every crossing of Redis; a crossing that the stream brings too is there once."""
        copied = 0
        for page in iter_history_pages(self._client, self._prefix):
            self._tick()
            copied += statements.write_rows(
                database, self._calendar, [statements.build_crossing_row(row) for row in page]
            )
        log.info("%d crossings of the history were copied", copied)

    def _write(self, database: Database, batch: list[tuple[RawEntry, AnyEvent]]) -> int:
        """Write a batch; halving it finds the entries that PostgreSQL refuses, which become dead letters.

        Raises:
            DatabaseUnavailableError, SchemaMissingError: the batch may or may not be there; write it again.
        """
        if not batch:
            return 0
        try:
            return statements.write_rows(
                database, self._calendar, [statements.build_event_row(event) for _, event in batch]
            )
        except (DatabaseRejectedError, OverflowError) as error:
            if isinstance(error, DatabaseRejectedError) and error.is_schema_error:
                self.close()
                raise SchemaMissingError(f"PostgreSQL refuses ({error}). Remedy: run `crowdperf migrate`.") from None
            if len(batch) == 1:
                self.reader.reject(batch[0][0], f"PostgreSQL: {error}")
                return 0
            half = len(batch) // 2
            return self._write(database, batch[:half]) + self._write(database, batch[half:])


def main(config: WorkerConfig, runtime: ProcessRuntime) -> None:
    """Write until the process is to stop; outages of Redis and of PostgreSQL are waited out.

    Raises:
        ConfigError: postgres.dsn leads nowhere, or no driver is installed.
    """
    dsn = resolve_dsn(config.postgres_dsn, Path.cwd())
    writer = SqlRecorder(connect(config.redis_url), dsn, config.timezone, config.key_prefix, tick=runtime.tick)
    consequence = "the events stream keeps what is not in PostgreSQL yet"
    postgres_outage = OutageHandler(consequence, (DatabaseUnavailableError, SchemaMissingError), "PostgreSQL")

    def step() -> None:
        with postgres_outage:
            runtime.metrics.count("sql_events_written", writer.step())
        wait_s = postgres_outage.wait_s
        runtime.metrics.set_gauge("sql_up", not wait_s)
        runtime.metrics.set_gauge("sql_lag_s", writer.get_lag_s() if wait_s or writer.has_backlog else 0.0)
        runtime.metrics.set_gauge("dead_letters", writer.reader.dead_letters)
        if wait_s:
            runtime.wait_for_stop(wait_s)

    run_until_stopped(runtime, writer.restart, step, consequence)
    writer.close()
