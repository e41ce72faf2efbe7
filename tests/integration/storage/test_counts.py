"""Counters of crossings against a real Redis: equal to counting one by one, whatever comes twice or late."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import datetime

import pytest
import redis

from crowdperf.messaging.redis.client import connect_async
from crowdperf.settings.site import Retention
from crowdperf.storage import counts
from crowdperf.storage.buckets import BUCKETS, Bucket, Calendar
from crowdperf.storage.counts import CrossingRecord, encode_member, get_log_key
from crowdperf.storage.postgres import backfill
from crowdperf.storage.queries import GROUP_FIELDS, CrossingFilter, GroupKey, count_crossings
from crowdperf.storage.retention import HistoryRetention
from crowdperf.storage.steady_clock import DAY_S
from tests.conftest import RedisServer

BERLIN = Calendar("Europe/Berlin")
KOLKATA = Calendar("Asia/Kolkata")
SPRING = datetime(2026, 3, 27, tzinfo=BERLIN.zone).timestamp()
"""Two days before the clocks change."""


def made(number: int, start: float = SPRING, days: float = 5, seed: int = 1) -> list[CrossingRecord]:
    rng = random.Random(seed)
    return [
        CrossingRecord(
            id=f"{seed}:{n}",
            ts=start + rng.uniform(0, days * DAY_S),
            camera=rng.choice(["lobby", "gate/2", "50%"]),
            line=rng.choice(["door", "hall"]),
            direction=rng.choice(["in", "out"]),
            class_name=rng.choice(["person", "person", "car"]),
            track=n,
        )
        for n in range(number)
    ]


def counted(
    server: RedisServer,
    wanted: CrossingFilter,
    fields: tuple[str, ...],
    bucket: Bucket | None,
    calendar: Calendar = BERLIN,
) -> dict[GroupKey, int]:
    async def ask() -> dict[GroupKey, int]:
        client = connect_async(server.url)
        try:
            return await count_crossings(client, wanted, fields, bucket, calendar)
        finally:
            await client.aclose()

    return asyncio.run(ask())


def expected(
    rows: list[CrossingRecord],
    wanted: CrossingFilter,
    fields: tuple[str, ...],
    bucket: Bucket | None,
    calendar: Calendar = BERLIN,
) -> dict[GroupKey, int]:
    """The same, one by one."""
    totals: Counter[GroupKey] = Counter()
    for row in rows:
        if wanted.start <= row.ts < wanted.end and wanted.admits(row):
            values = counts.get_series(row)
            group = tuple(values[GROUP_FIELDS.index(name)] for name in fields)
            totals[group, calendar.get_bucket_start(bucket, row.ts) if bucket else 0] += 1
    return dict(totals)


def ranges(seed: int, number: int) -> list[CrossingFilter]:
    rng = random.Random(seed)
    found = []
    for _ in range(number):
        start = SPRING + rng.uniform(-DAY_S, 4 * DAY_S)
        length = rng.choice([rng.uniform(0.01, 7200), rng.uniform(7200, 6 * DAY_S), 3600.0, DAY_S])
        filters = rng.choice([{}, {"camera": "gate/2"}, {"class_name": "car"}, {"direction": "in", "line": "hall"}])
        found.append(CrossingFilter(start, start + length, **filters))
    return [*found, CrossingFilter(SPRING, SPRING + 3 * DAY_S), CrossingFilter(float(int(SPRING)), SPRING + 86_400)]


@pytest.mark.parametrize("calendar", [BERLIN, KOLKATA], ids=lambda calendar: calendar.name)
def test_counters_equal_counting_one_by_one(redis_server: RedisServer, calendar: Calendar) -> None:
    rows = made(2500)
    client = redis_server.client()
    for at in range(0, len(rows), 300):
        assert counts.add_crossings(client, calendar, rows[at : at + 300]) == (len(rows[at : at + 300]), 0, True)
    for minutes_kept in (True, False):
        if not minutes_kept:
            HistoryRetention(client).expire_minutes(SPRING + 2 * DAY_S)
        for wanted in ranges(3, 25):
            for bucket in (None, *BUCKETS):
                for fields in ((), ("camera", "direction"), ("class",)):
                    found = counted(redis_server, wanted, fields, bucket, calendar)
                    assert found == expected(rows, wanted, fields, bucket, calendar), (wanted, bucket, fields)


def test_what_comes_twice_is_counted_once(redis_server: RedisServer) -> None:
    rows = made(200)
    client = redis_server.client()
    counts.add_crossings(client, BERLIN, [*rows, *rows[:50]])
    assert counts.add_crossings(client, BERLIN, rows) == (0, 0, True)
    everything = CrossingFilter(SPRING - DAY_S, SPRING + 9 * DAY_S)
    assert counted(redis_server, everything, ("class",), "day") == expected(rows, everything, ("class",), "day")


def old_installation(client: redis.Redis, rows: list[CrossingRecord]) -> None:
    """Crossings as versions without counters recorded them."""
    for row in rows:
        client.zadd(get_log_key(row.class_name), {encode_member(row): row.ts})


def test_old_history_is_counted_once_while_recording(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "PAGE_CROSSINGS", 40)
    client = redis_server.client()
    old, new = made(700), made(300, seed=2)
    same = made(60, days=0.0, seed=3)
    old_installation(client, old + same)
    client.zadd("person_logs", {b"somebody's note": SPRING + 5})
    assert backfill.prepare(client, BERLIN)
    everything = CrossingFilter(SPRING - DAY_S, SPRING + 9 * DAY_S)
    left = list(new)
    frontier, steps = counts.FRONTIER_BEGIN, 0
    while frontier < counts.FRONTIER_COMPLETE:
        assert counted(redis_server, everything, (), None) == expected(
            [*old, *same, *new[: len(new) - len(left)]], everything, (), None
        ), "while it is counted, answers are right as well"
        batch, left = left[:10], left[10:]
        counts.add_crossings(client, BERLIN, [*batch, *old[:3]])
        frontier = backfill.run_step(client, BERLIN)
        steps += 1
    assert steps > 5
    counts.add_crossings(client, BERLIN, left)
    assert not backfill.prepare(client, BERLIN)
    for bucket in BUCKETS:
        assert counted(redis_server, everything, GROUP_FIELDS, bucket) == expected(
            [*old, *same, *new], everything, GROUP_FIELDS, bucket
        )


def test_a_page_that_somebody_writes_into_is_counted_anew(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, other = redis_server.client(), redis_server.client()
    rows, late = made(300), made(5, seed=9)
    old_installation(client, rows)
    backfill.prepare(client, BERLIN)
    before = float(client.hget(counts.meta_key(), "frontier"))
    interfered = []
    stage_tally = backfill._stage_tally

    def interfering(*arguments: object) -> None:
        stage_tally(*arguments)  # type: ignore[arg-type]
        if not interfered:
            interfered.append(counts.add_crossings(other, BERLIN, late))

    monkeypatch.setattr(backfill, "_stage_tally", interfering)
    assert backfill.run_step(client, BERLIN) == before, "nothing was counted, and nobody waits until nobody writes"
    assert backfill.run_step(client, BERLIN) == counts.FRONTIER_COMPLETE
    assert interfered == [(5, 0, False)]
    everything = CrossingFilter(SPRING - DAY_S, SPRING + 9 * DAY_S)
    assert counted(redis_server, everything, (), "day") == expected([*rows, *late], everything, (), "day")


def test_another_zone_counts_everything_anew(redis_server: RedisServer) -> None:
    client = redis_server.client()
    rows = made(400)
    counts.add_crossings(client, BERLIN, rows)
    with pytest.raises(counts.CountersOutdatedError):
        counts.add_crossings(client, KOLKATA, made(1, seed=5))
    assert backfill.prepare(client, KOLKATA)
    while backfill.run_step(client, KOLKATA) < counts.FRONTIER_COMPLETE:
        pass
    everything = CrossingFilter(SPRING - DAY_S, SPRING + 9 * DAY_S)
    for bucket in BUCKETS:
        assert counted(redis_server, everything, (), bucket, KOLKATA) == expected(rows, everything, (), bucket, KOLKATA)


def test_minutes_of_a_long_past_are_neither_written_nor_needed(redis_server: RedisServer) -> None:
    client = redis_server.client()
    old = made(200, days=60)
    old_installation(client, old)
    backfill.prepare(client, BERLIN)
    while backfill.run_step(client, BERLIN) < counts.FRONTIER_COMPLETE:
        pass
    counts.add_crossings(client, BERLIN, made(200, days=60, seed=2))
    days = {int(name.split(b":")[3]) for name in client.scan_iter("crowdperf:counts:minute:*")}
    assert 0 < len(days) <= 9
    both = [*old, *made(200, days=60, seed=2)]
    for start in (SPRING + 3 * DAY_S + 61.5, SPRING + 58 * DAY_S + 61.5):
        some = CrossingFilter(start, start + 9000)
        assert counted(redis_server, some, (), "minute") == expected(both, some, (), "minute")


def test_counts_outlive_crossings_and_expired_ones_stay_out(redis_server: RedisServer) -> None:
    client = redis_server.client()
    rows = made(400)
    counts.add_crossings(client, BERLIN, rows)
    gone = [row for row in rows if row.ts < SPRING + 2 * DAY_S]
    assert HistoryRetention(client).expire_crossings(SPRING + 2 * DAY_S) == len(gone) > 0
    assert counts.add_crossings(client, BERLIN, gone) == (0, len(gone), True)
    days = CrossingFilter(SPRING, SPRING + 4 * DAY_S + 82_800)
    assert counted(redis_server, days, (), "day") == expected(rows, days, (), "day")


def test_retention_per_kind_removes_whole_chunks_only(redis_server: RedisServer) -> None:
    client = redis_server.client()
    rows = made(300, days=200)
    counts.add_crossings(client, BERLIN, rows)
    kept = Retention(minute_counts_days=2, hour_counts_days=90, day_counts_days=3650)
    now = SPRING + 200 * DAY_S
    assert HistoryRetention(client).expire_counts(kept, BERLIN, now) > 0
    names = [name.decode().split(":")[2:4] for name in client.scan_iter("crowdperf:counts:*:*:*")]
    minutes = [int(chunk) for kind, chunk in names if kind == "minute"]
    hours = [int(chunk) for kind, chunk in names if kind == "hour"]
    assert minutes
    assert min(minutes) * DAY_S >= now - 3 * DAY_S
    assert min((chunk + 1) * 672 * 3600 for chunk in hours) > now - 90 * DAY_S
    assert {chunk for kind, chunk in names if kind == "day"} == {str(BERLIN.get_day(row.ts) // 512) for row in rows}
    edge = CrossingFilter(SPRING + 60 * DAY_S + 61, SPRING + 60 * DAY_S + 3000)
    assert counted(redis_server, edge, (), "minute") == expected(rows, edge, (), "minute")
