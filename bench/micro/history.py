"""A year of crossings: how fast counts over it answer, what it weighs, and what counting one by one would take.

The full form fills an embedded Redis with 10 million crossings (about 3 GB, some minutes), the short one with 200,000.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.harness import Row
from crowdperf.messaging.redis.client import OUTAGE, connect, connect_async
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import build_web_config
from crowdperf.storage import counts
from crowdperf.storage.buckets import Bucket, Calendar
from crowdperf.storage.counts import CrossingRecord, encode_member, get_log_key
from crowdperf.storage.postgres import backfill
from crowdperf.storage.queries import CrossingFilter, count_crossings
from crowdperf.supervision.embedded_redis import build_command, find_server_binary
from crowdperf.web.process import main

CALENDAR = Calendar("Europe/Berlin")
BEGIN = 1_750_000_000.0
YEAR_S = 365 * 86_400
CAMERAS, LINES = 20, 2
CLASSES = ("person",) * 8 + ("car", "bicycle")
LIMIT_MS = 100.0
RECORDED = 20_000
"""Crossings that are added by the recorder's own script, to time it."""


def crossings(number: int) -> Iterator[CrossingRecord]:
    """Yield a year of a site, more by day than by night, in order of time."""
    rng = random.Random(4)
    step = YEAR_S / number
    for n in range(number):
        yield CrossingRecord(
            id=f"camera-{n % CAMERAS}:1750000000000:{n}:door:in:0",
            ts=round(BEGIN + (n + rng.random()) * step, 3),
            camera=f"camera-{rng.randrange(CAMERAS)}",
            line=f"line-{rng.randrange(LINES)}",
            direction="in" if rng.random() < 0.5 else "out",
            class_name=rng.choice(CLASSES),
            track=n,
        )


def fill(client: Any, number: int) -> None:
    """Record as an older version did: without counters."""
    source = crossings(number)
    for _ in range(0, number, 20_000):
        logs: dict[str, dict[bytes, float]] = {}
        for _, row in zip(range(20_000), source):
            logs.setdefault(get_log_key(row.class_name), {})[encode_member(row)] = row.ts
        with client.pipeline(transaction=False) as pipe:
            for name, members in logs.items():
                pipe.zadd(name, members)
            pipe.execute()


async def timed(work: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """Milliseconds of each call."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        found.append((time.perf_counter() - began) * 1e3)
    return found


def asked(url: str, wanted: CrossingFilter, fields: list[str], bucket: Bucket | None, times: int) -> list[float]:
    """Milliseconds of `times` queries, the first one (imports, connection) left out."""

    async def run() -> list[float]:
        client = connect_async(url)
        try:
            return (await timed(lambda: count_crossings(client, wanted, fields, bucket, CALENDAR), times + 1))[1:]
        finally:
            await client.aclose()

    return asyncio.run(run())


def rows(short: bool) -> list[Row]:
    """history_<question>_p99_ms and rest_counts_p99_ms (over HTTP) beside 100 ms; memory; crossings per second."""
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder:
        socket = Path(folder) / "redis.sock"
        argv = [
            *build_command(find_server_binary(), socket, Path(folder)),
            "--appendonly",
            "no",
            "--loglevel",
            "warning",
        ]
        server = subprocess.Popen(argv)
        try:
            return measured(f"unix://{socket}", 200_000 if short else 10_000_000, 30 if short else 200)
        finally:
            server.kill()
            server.wait()


def measured(url: str, number: int, times: int) -> list[Row]:
    """Return all rows, against an empty server."""
    client: Any = connect(url)
    while True:
        try:
            client.ping()
            break
        except OUTAGE:
            time.sleep(0.05)
    empty = client.info("memory")["used_memory"]
    fill(client, number)
    raw = client.info("memory")["used_memory"] - empty
    year = CrossingFilter(BEGIN + 1234.5, BEGIN + YEAR_S)
    one_by_one = asked(url, year, ["camera"], "day", 1)[0] if number <= 1_000_000 else None
    backfill.prepare(client, CALENDAR)
    began = time.perf_counter()
    while backfill.run_step(client, CALENDAR) < counts.FRONTIER_COMPLETE:
        pass
    counting_s = time.perf_counter() - began
    counters = client.info("memory")["used_memory"] - empty - raw
    found = [
        row(f"history_{name}_p99_ms", asked(url, year._replace(**more), fields, bucket, times))
        for name, fields, bucket, more in QUESTIONS
    ]
    found.append(row("rest_counts_p99_ms", over_http(url, times)))
    new = [CrossingRecord(**{**fields_of(one), "id": f"new:{one.track}"}) for one in crossings(RECORDED)]
    began = time.perf_counter()
    for at in range(0, RECORDED, 256):
        counts.add_crossings(client, CALENDAR, new[at : at + 256])
    recorded_s = time.perf_counter() - began
    began = time.perf_counter()
    for one in new:
        client.zadd(get_log_key(one.class_name), {encode_member(one) + b" ": one.ts})
    zadd_s = time.perf_counter() - began
    found += [
        Row(name="history_crossings", value=number, unit="crossings", better="higher"),
        Row(name="history_raw_mb", value=raw / 1e6, unit="MB", limit_or_peer="bytes per crossing", ratio=raw / number),
        Row(name="history_counts_mb", value=counters / 1e6, unit="MB", limit_or_peer="raw", ratio=counters / raw),
        Row(name="history_backfill_per_s", value=number / counting_s, unit="1/s", better="higher"),
        Row(
            name="history_recorded_per_s",
            value=RECORDED / recorded_s,
            unit="1/s",
            limit_or_peer="ZADD one by one",
            ratio=zadd_s / recorded_s,
            better="higher",
        ),
    ]
    if one_by_one is not None:
        peer = statistics.median(asked(url, year, ["camera"], "day", times))
        found.append(
            Row(
                name="history_year_by_day_vs_crossings",
                value=peer,
                unit="ms",
                limit_or_peer="counting the crossings",
                ratio=peer / one_by_one,
            )
        )
    return found


QUESTIONS: tuple[tuple[str, list[str], Bucket | None, dict[str, Any]], ...] = (
    ("year_total", [], None, {}),
    ("year_by_day", ["direction"], "day", {}),
    ("year_by_day_of_everything", ["camera", "line", "class", "direction"], "day", {}),
    ("year_by_hour", ["direction"], "hour", {}),
    ("week_by_hour", ["camera", "direction"], "hour", {"start": BEGIN + YEAR_S - 7 * 86_400}),
    ("two_days_by_minute", ["direction"], "minute", {"start": BEGIN + YEAR_S - 2 * 86_400}),
)


def fields_of(one: CrossingRecord) -> dict[str, Any]:
    """Return the crossing's fields by name."""
    return {name: getattr(one, name) for name in one.__struct_fields__}


def over_http(url: str, times: int) -> list[float]:
    """Milliseconds of a chart of the year by day and direction, asked of the real web process over HTTP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="crowdperf-bench-") as folder:
        text = msgspec.json.encode(
            {"site": {"timezone": CALENDAR.name}, "redis": {"url": url}, "web": {"host": "127.0.0.1", "port": port}}
        )
        runtime = ProcessRuntime("web", 0)
        config = build_web_config(Deployment(parse(text), Paths(Path(folder))))
        server = threading.Thread(target=main, args=(config, runtime), daemon=True)
        server.start()
        query = {"from": "2025-06-16T00:00:00+02:00", "to": "2026-06-15T00:00:00+02:00", "bucket": "day"}
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                while not _answers(client):
                    time.sleep(0.05)
                return [_asked_over_http(client, query) for _ in range(times + 1)][1:]
        finally:
            runtime.stop()
            server.join(20)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def _asked_over_http(client: httpx.Client, query: dict[str, str]) -> float:
    began = time.perf_counter()
    reply = client.get("/api/v1/series", params=query)
    took = (time.perf_counter() - began) * 1e3
    assert sum(sum(one["counts"]) for one in reply.raise_for_status().json()["series"]) > 0
    return took


def row(name: str, found: list[float]) -> Row:
    """Return the 99th percentile beside the limit."""
    ordered = sorted(found)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return Row(
        name=name, value=p99, unit="ms", limit_or_peer="limit of 100 ms", ratio=p99 / LIMIT_MS, repetitions=len(found)
    )
