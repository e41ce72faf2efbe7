"""kill -9 of both recorders, SQL recorder, Redis and PostgreSQL at random while events come, some of them twice: in the
end each is in the history, in its counters, in PostgreSQL and in its summaries exactly once.

The short form sends 4,000 events and kills 10 times; CROWDPERF_LONG=1 sends 100,000 and kills 60 times. Controls put a
defect into the recorders, which the same check must find.
"""

from __future__ import annotations

import functools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.messaging.schema import LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.storage.counts import decode_member
from crowdperf.storage.postgres import driver, migrations
from crowdperf.supervision.embedded_redis import find_server_binary
from tests.conftest import ROOT, RedisServer, missing, wait_until
from tests.support.postgres import PostgresServer, binaries

LONG = os.environ.get("CROWDPERF_LONG") == "1"
NUMBER, KILLS = (100_000, 60) if LONG else (4_000, 10)
RECORDERS = ("recorder", "recorder-1", "sql")
DAY = 1_774_742_400.0


class StrictRedis(RedisServer):
    """A Redis whose acknowledged writes survive everything: `appendfsync always`."""

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(find_server_binary(), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning"),
            ]
        )
        self.wait_ready()


class Recorders:
    """Redis, PostgreSQL, two recorders, the SQL recorder, and a supervisor that restarts what was killed."""

    def __init__(self, folder: Path, server: PostgresServer, defects: dict[str, str]) -> None:
        self.folder = folder
        self.redis = StrictRedis(folder)
        self.postgres = server
        self._defects = defects
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        admin = driver.connect(server.get_dsn())
        admin.run("DROP DATABASE IF EXISTS exactly_once")
        admin.run("CREATE DATABASE exactly_once TEMPLATE template0")
        admin.close()
        self.dsn = server.get_dsn("exactly_once")
        database = driver.connect(self.dsn)
        migrations.migrate(database, migrations.list_migrations())
        database.close()
        self.redis.start()
        for role in RECORDERS if not defects else ("recorder", "sql"):
            self.start(role)

    def start(self, role: str) -> None:
        """Start a recorder."""
        defect = [self._defects[role]] if role in self._defects else []
        words = [role, self.redis.url, self.dsn, str(self.folder), *defect]
        command = [sys.executable, "-m", "tests.support.worker_main", *words]
        self.workers[role] = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    def kill(self, victim: str) -> None:
        """kill -9, and start it again."""
        if victim == "redis":
            self.redis.kill()
            self.redis.start()
        elif victim == "postgres":
            self.postgres.kill()
            self.postgres.start()
        else:
            self.workers[victim].kill()
            self.workers[victim].wait()
            self.start(victim)

    def end(self, role: str) -> None:
        """kill -9 for good, as of a process that supervisord has given up."""
        process = self.workers.pop(role)
        process.kill()
        process.wait()

    def supervise(self) -> None:
        """Start again what has died by itself."""
        for role, process in list(self.workers.items()):
            if process.poll() is not None:
                self.start(role)

    def positions(self) -> dict[bytes, bytes]:
        """How far each group is."""
        client: Any = self.redis.client()
        return {row["name"]: row["last-delivered-id"] for row in client.xinfo_groups("crowdperf:events")}

    def moved(self, before: dict[bytes, bytes]) -> bool:
        """Whether both groups are further than that, or at the end."""
        self.supervise()
        now = self.positions()
        return len(now) == 2 and (all(now[name] != before.get(name) for name in now) or self.done())

    def done(self) -> bool:
        """Whether both groups have handled everything."""
        self.supervise()
        client: Any = self.redis.client()
        newest = client.xinfo_stream("crowdperf:events")["last-generated-id"]
        groups = {row["name"]: row for row in client.xinfo_groups("crowdperf:events")}
        return len(groups) == 2 and all(
            row["pending"] == 0 and row["last-delivered-id"] == newest for row in groups.values()
        )

    def close(self) -> None:
        """End everything but PostgreSQL, which the next test uses."""
        for process in self.workers.values():
            process.kill()
            process.wait()
        self.redis.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    folder = binaries()
    if folder is None or not driver.list_drivers():
        missing("PostgreSQL and a driver")
    assert folder is not None
    made = PostgresServer(folder)
    made.start()
    yield made
    made.remove()


@pytest.fixture
def recorders(tmp_path: Path, server: PostgresServer) -> Iterator[Callable[..., Recorders]]:
    made: list[Recorders] = []

    def make(**defects: str) -> Recorders:
        made.append(Recorders(tmp_path, server, defects))
        return made[0]

    yield make
    for one in made:
        one.close()


def event(n: int) -> LineCrossed:
    return LineCrossed(
        id=f"plaza:1:{n}:door:in:0",
        camera="plaza",
        ts=DAY + n / 16,
        line="door",
        direction="in" if n % 2 else "out",
        class_name="person" if n % 3 else "car",
        track=n,
        epoch=1,
        sequence=n,
    )


def publish(recorders: Recorders, numbers: list[int]) -> None:
    """Publish as tracking does: what may not have arrived is sent again."""

    def sent() -> bool:
        client = recorders.redis.client()
        try:
            with client.pipeline(transaction=False) as pipe:
                for n in numbers:
                    pipe.xadd("crowdperf:events", codec.encode(EVENTS, event(n)))
                pipe.execute()
        except OUTAGE:
            return False
        return True

    wait_until(sent, 60, "Redis takes events")


def discrepancies(recorders: Recorders, number: int) -> list[str]:
    """What is not there exactly once."""
    client: Any = recorders.redis.client()
    found = []
    published = {event(n).id for n in range(number)}
    rows = [decode_member(raw) for name in ("person_logs", "vehicle_logs") for raw in client.zrange(name, 0, -1)]
    times = Counter(row.id for row in rows if row is not None)
    found += [f"{rows.count(None)} members are unreadable"] if None in rows else []
    found += [f"{len(published - set(times))} are not in the history"] if published - set(times) else []
    found += [f"{name} is in the history {n} times" for name, n in times.items() if n != 1]
    for level, size in (("minute", 2), ("hour", 4), ("day", 4)):
        values = [client.get(name) for name in client.scan_iter(f"crowdperf:counts:{level}:*", count=1000)]
        total = sum(int.from_bytes(raw[at : at + size], "big") for raw in values for at in range(0, len(raw), size))
        found += [f"counters by {level} say {total}"] if total != number else []
    database = driver.connect(recorders.dsn)
    [(count, ids)] = database.run("SELECT count(*), count(DISTINCT id) FROM events WHERE kind = 'LineCrossed'")
    found += [f"PostgreSQL has {count} events"] if (count, ids) != (number, number) else []
    for period, total in database.run("SELECT period, sum(count)::bigint FROM summaries GROUP BY period"):
        found += [f"summaries by {period} say {total}"] if total != number else []
    database.close()
    return found


def test_every_event_is_everywhere_once(
    recorders: Callable[..., Recorders], record_property: Callable[[str, object], None]
) -> None:
    made = recorders()
    rng = random.Random(7)
    victims = [*RECORDERS, "redis", "postgres"] * (KILLS // 5)
    rng.shuffle(victims)
    kill_at = sorted(rng.sample(range(0, NUMBER, 100), len(victims)))
    for at in range(0, NUMBER, 100):
        numbers = list(range(at, at + 100))
        publish(made, numbers + rng.sample(numbers, 10))
        while kill_at and kill_at[0] <= at:
            kill_at.pop(0)
            before = made.positions()
            wait_until(functools.partial(made.moved, before), 60, "both recorders work again")
            publish(made, numbers)
            time.sleep(rng.uniform(0, 0.05))  # where in the recorders' work it strikes
            made.kill(victims.pop())
    publish(made, [*range(NUMBER)][-2000:])
    made.end("recorder-1")
    wait_until(made.done, 120, "both recorders have handled everything")
    record_property("figures", f"exactly once: {NUMBER} events, {KILLS} kills, {discrepancies(made, NUMBER)} wrong")
    assert discrepancies(made, NUMBER) == []
    assert list(made.redis.client().scan_iter("crowdperf:dead:*")) == []


@pytest.mark.parametrize(
    ("role", "defect", "words"),
    [
        ("recorder", "ack-first", "are not in the history"),
        ("recorder", "no-dedupe", "counters by day"),
        ("sql", "move-first", "PostgreSQL has"),
    ],
)
def test_control_a_defect_is_found(recorders: Callable[..., Recorders], role: str, defect: str, words: str) -> None:
    made = recorders(**{role: defect})
    publish(made, [*range(100), *range(50)])
    wait_until(made.done, 60, "both recorders have handled the first events")
    (made.folder / "armed").touch()
    publish(made, [*range(100, 300)])
    wait_until(made.done, 60, "both recorders have handled everything")
    assert any(words in text for text in discrepancies(made, 300))
