"""Recorders of the history and of PostgreSQL under faults at random, and what is not there exactly once afterwards."""

from __future__ import annotations

import functools
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.messaging.schema import LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.storage.counts import decode_member
from crowdperf.storage.postgres import driver, migrations
from crowdperf.supervision.embedded_redis import find_server_binary
from crowdperf.workers.housekeeping import trim_stream
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.postgres import PostgresServer

RECORDERS = ("recorder", "recorder-1", "sql")
FAULTS = (*RECORDERS, "redis", "postgres", "full", "group", "cut")
"""kill -9 of a process, a Redis that takes no writes for a while, a lost consumer group, cut connections."""
STREAM = "crowdperf:events"
BATCH = 100
"""Events that are published together; ten of them come twice."""
TRIM_INTERVAL = 20_000
"""Events between two trims of what is handled, so that a lost group does not read a million entries again."""
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

    def inject(self, fault: str, rng: random.Random) -> None:
        """Cause one of `FAULTS`."""
        client: Any = self.redis.client()
        if fault == "full":
            client.config_set("maxmemory", 1)
            time.sleep(rng.uniform(0.05, 0.5))  # how long it takes no writes
            client.config_set("maxmemory", 0)
        elif fault == "group":
            client.xgroup_destroy(STREAM, rng.choice(["recorder", "sql"]))
        elif fault == "cut":
            client.client_kill_filter(_type="normal", skipme=True)
        else:
            self.kill(fault)

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
        return {row["name"]: row["last-delivered-id"] for row in client.xinfo_groups(STREAM)}

    def has_groups(self) -> bool:
        """Whether no group is lost at the moment: what its reader has not seen must not be trimmed."""
        self.supervise()
        return len(self.positions()) == 2

    def moved(self, before: dict[bytes, bytes]) -> bool:
        """Whether both groups are further than that, or at the end."""
        self.supervise()
        now = self.positions()
        return len(now) == 2 and (all(now[name] != before.get(name) for name in now) or self.done())

    def done(self) -> bool:
        """Whether both groups have handled everything."""
        self.supervise()
        client: Any = self.redis.client()
        newest = client.xinfo_stream(STREAM)["last-generated-id"]
        groups = {row["name"]: row for row in client.xinfo_groups(STREAM)}
        return len(groups) == 2 and all(
            row["pending"] == 0 and row["last-delivered-id"] == newest for row in groups.values()
        )

    def close(self) -> None:
        """End everything but PostgreSQL, which the next test uses."""
        for process in self.workers.values():
            process.kill()
            process.wait()
        self.redis.kill()


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
                    pipe.xadd(STREAM, codec.encode(EVENTS, event(n)))
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


class Storm(NamedTuple):
    """One run: how many events and faults there were, how long it took, and what is wrong."""

    events: int
    faults: Counter[str]
    seconds: float
    wrong: list[str]
    dead_letters: int


def storm(recorders: Recorders, number: int, faults: int, rng: random.Random) -> Storm:
    """Publish events, some of them twice, and cause faults at random places meanwhile.

    Args:
        recorders: everything that runs.
        number: how many events.
        faults: how many faults, of each kind as many as of any other.
        rng: decides on the order and the places.

    Returns:
        The run, once both recorders have handled everything.
    """
    order = [FAULTS[at % len(FAULTS)] for at in range(faults)]
    rng.shuffle(order)
    places = sorted(rng.choice(range(0, number, BATCH)) for _ in order)
    seen = Counter(order)
    began = time.monotonic()
    for at in range(0, number, BATCH):
        numbers = list(range(at, at + BATCH))
        publish(recorders, numbers + rng.sample(numbers, BATCH // 10))
        while places and places[0] <= at:
            places.pop(0)
            before = recorders.positions()
            wait_until(functools.partial(recorders.moved, before), 120, "both recorders work again")
            publish(recorders, numbers)
            time.sleep(rng.uniform(0, 0.05))  # where in the recorders' work it strikes
            recorders.inject(order.pop(), rng)
        if at % TRIM_INTERVAL == 0:
            wait_until(recorders.has_groups, 60, "both groups are there")
            trim_stream(recorders.redis.client(), STREAM, ("recorder", "sql"), None)
    publish(recorders, [*range(number)][-2000:])
    recorders.end("recorder-1")
    wait_until(recorders.done, 600, "both recorders have handled everything")
    seconds = time.monotonic() - began
    dead = len(list(recorders.redis.client().scan_iter("crowdperf:dead:*")))
    return Storm(number, seen, seconds, discrepancies(recorders, number), dead)
