"""The worker of the areas against a real Redis: killed at any moment, every change is there exactly once."""

from __future__ import annotations

import asyncio
import random

import msgspec
import redis.asyncio

from crowdperf.counting.areas import AreaCounter
from crowdperf.events import wire
from crowdperf.events.bus import Publisher
from crowdperf.events.schema import AnyEvent, AreaChanged, Event, LineCrossed, ZoneMinute
from crowdperf.events.streams import EVENTS, key
from crowdperf.settings.area import Area
from crowdperf.slices import AreasSlice
from crowdperf.storage import areas, zones
from crowdperf.workers.areas import GROUP, Areas
from tests.conftest import RedisServer

NOON = 1_800_000_000.0
AREA = msgspec.convert({"id": "hall", "doors": [{"camera": "lobby", "line": "door"}], "limit": 5, "limit_s": 0}, Area)


def crossing(n: int, way: str) -> LineCrossed:
    return LineCrossed(
        id=f"lobby:5:{n}:door:{way}:0",
        camera="lobby",
        ts=NOON + n,
        line="door",
        direction=way,  # type: ignore[arg-type]
        klass="person",
        track=n,
        epoch=5,
        sequence=n,
    )


def slice_of(server: RedisServer) -> AreasSlice:
    return AreasSlice(areas=(AREA,), timezone="UTC", redis_url=server.url, key_prefix="")


def started(server: RedisServer) -> Areas:
    worker = Areas(slice_of(server), server.client(), "worker-areas")
    worker.start()
    return worker


def made(server: RedisServer) -> list[Event]:
    rows = server.client().xrange(key(EVENTS))
    events = [wire.decode(EVENTS, fields) for _, fields in rows]
    return [event for event in events if not isinstance(event, LineCrossed)]


def test_killed_between_reading_and_storing_every_change_is_there_once(redis_server: RedisServer) -> None:
    chance = random.Random(3)
    events = [crossing(n, chance.choice(["in", "in", "out"])) for n in range(200)]
    publisher: Publisher[AnyEvent] = Publisher(redis_server.client(), EVENTS)
    worker = started(redis_server)
    for n in range(0, len(events), 10):
        for event in events[n : n + 10]:
            publisher.publish(event)
        if chance.random() < 0.3:
            # A redelivery under a new stream id, as by a producer that was not sure.
            publisher.publish(events[n])
        fate = chance.random()
        if fate < 0.4:
            # Killed with events read and nothing stored.
            worker._consumer.read(count=256, block_ms=1)
            worker = started(redis_server)
        elif fate < 0.6:
            # Killed after the transaction.
            worker.turn(NOON, block_ms=1)
            worker = started(redis_server)
        worker.turn(NOON, block_ms=1)
    while worker.turn(NOON, block_ms=1):
        pass
    reference = AreaCounter(AREA, "UTC")
    expected = [made for event in events for made in reference.update(event)]
    assert made(redis_server) == expected
    assert any(event for event in expected if not isinstance(event, AreaChanged)), "the limit was never passed"
    assert redis_server.client().xpending(key(EVENTS), GROUP)["pending"] == 0
    shown = asyncio.run(read_now(redis_server))
    assert (shown["hall"].occupancy, shown["hall"].entries) == (reference.state.occupancy, reference.state.entries)


async def read_now(server: RedisServer) -> dict[str, areas.AreaNow]:
    async with redis.asyncio.from_url(server.url) as client:
        return await areas.read(client)


def test_a_state_that_cannot_be_read_begins_anew(redis_server: RedisServer) -> None:
    redis_server.client().set("crowdperf:state:areas", b"\xc1")
    worker = started(redis_server)
    assert worker.counters[0].state.occupancy == 0


def test_minutes_of_zones_are_stored_once_and_read_back(redis_server: RedisServer) -> None:
    event = ZoneMinute(
        id="lobby:hall:minute:30000000",
        camera="lobby",
        ts=NOON,
        zone="hall",
        occupancy=1,
        maximum=4,
        mean=2.0,
        observed_s=60.0,
        entries=3,
        exits=2,
        dwells="5,95.5",
        longest_wait_s=12.0,
    )
    client = redis_server.client()
    for _ in range(2):
        zones.stage(client, event)
    zones.stage(client, msgspec.structs.replace(event, ts=NOON - 60, id="before"))

    async def read() -> list[zones.Minute]:
        async with redis.asyncio.from_url(redis_server.url) as own:
            return await zones.read(own, "lobby", "hall", NOON, NOON + 3600)

    minutes = asyncio.run(read())
    assert len(minutes) == 1
    stats = zones.summarise(minutes, 3600)
    assert (stats.maximum, stats.mean, stats.entries, stats.exits) == (4, 0.033, 3, 2)
    assert (stats.dwell_mean_s, stats.dwell_median_s, stats.dwell_p90_s, stats.dwell_max_s) == (50.2, 5.0, 95.5, 95.5)
    assert stats.dwell_histogram == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert zones.expire(client, NOON) == 1
