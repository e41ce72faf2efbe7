"""The worker of the areas against a real Redis: killed at any moment, every change is there exactly once."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest
import redis.asyncio

from crowdperf.counting.areas import AreaCounter
from crowdperf.messaging import codec
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import Alert, AnyEvent, AreaChanged, Event, LineCrossed, ZoneMinute
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.areas import Area
from crowdperf.settings.process_config import get_shard
from crowdperf.settings.worker_config import AreasConfig
from crowdperf.storage import occupancy
from crowdperf.storage import occupancy as areas
from crowdperf.workers.areas import WORKER, AreaLogic
from crowdperf.workers.leases import LEASE_S, Leases
from crowdperf.workers.sharded_consumer import ShardedConsumer
from crowdperf.workers.worker_logic import WorkerCheckpoint, state_key
from tests.conftest import RedisServer
from tests.support.counting_logic import Clock

NOON = 1_800_000_000.0
HALL = {"id": "hall", "doors": [{"camera": "lobby", "line": "door"}], "limit": 5, "limit_s": 0}
# Shares a door with the hall, and is another instance's where there are two.
INTO_YARD = {"camera": "lobby", "line": "door", "enters": "out"}
YARD = {"id": "yard", "doors": [INTO_YARD, {"camera": "gate", "line": "door"}]}
AREAS = tuple(msgspec.convert(area, Area) for area in (HALL, YARD, {**HALL, "id": "annex"}))


def crossing(n: int, way: str, camera: str = "lobby") -> LineCrossed:
    return LineCrossed(
        id=f"{camera}:5:{n}:door:{way}:0",
        camera=camera,
        ts=NOON + n,
        line="door",
        direction=way,  # type: ignore[arg-type]
        class_name="person",
        track=n,
        epoch=5,
        sequence=n,
    )


def some(number: int, seed: int = 3) -> list[LineCrossed]:
    chance = random.Random(seed)
    return [crossing(n, chance.choice(["in", "in", "out"]), chance.choice(["lobby", "gate"])) for n in range(number)]


def started(server: RedisServer, instance: int = 0, instances: int = 1, clock: Clock | None = None) -> ShardedConsumer:
    config = AreasConfig(
        instance=instance, instances=instances, areas=AREAS, timezone="UTC", redis_url=server.url, key_prefix=""
    )
    client = server.client()
    leases = Leases(client, WORKER, instance, instances, f"worker-areas-{instance}")
    logic, moving = AreaLogic(config), clock or Clock()
    worker = ShardedConsumer(
        client, logic, leases, Metrics(), moving, lambda: NOON, stage=lambda p, now: areas.stage_area(p, now)
    )
    worker.start()
    return worker


def publish(server: RedisServer, *events: AnyEvent) -> None:
    publisher: Publisher[AnyEvent] = Publisher(server.client(), EVENTS)
    for event in events:
        publisher.publish(event)


def made(server: RedisServer) -> dict[str, list[Event]]:
    """Return what the worker has published, in order, by area."""
    published: dict[str, list[Event]] = {}
    for _, fields in server.client().xrange(stream_key(EVENTS)):
        event = codec.decode(EVENTS, fields)
        if isinstance(event, (AreaChanged, Alert)):
            published.setdefault(event.area, []).append(event)
    return published


def expected(events: list[LineCrossed]) -> dict[str, list[Event]]:
    """The same from the counters themselves."""
    counters = [AreaCounter(area, "UTC") for area in AREAS]
    return {counter.area.id: [row for event in events for row in counter.update(event)] for counter in counters}


def drain(*members: ShardedConsumer) -> None:
    """Turn until nobody has anything to do."""
    idle = 0
    while idle < 2:
        idle = 0 if sum(row.step(block_ms=1) for row in members) else idle + 1


def test_killed_between_read_and_store_each_change_is_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(4)
    events = some(200)
    worker = started(redis_server)
    for n in range(0, len(events), 10):
        publish(redis_server, *events[n : n + 10])
        if chance.random() < 0.3:
            # A redelivery under a new stream id, as by a producer that was not sure.
            publish(redis_server, events[n])
        fate = chance.random()
        if fate < 0.4:
            # Killed with events read and nothing stored.
            with monkeypatch.context() as killed:
                killed.setattr(worker, "_commit", lambda now: True)
                worker.step(block_ms=1)
            worker = started(redis_server)
        elif fate < 0.6:
            # Killed after the transaction.
            worker.step(block_ms=1)
            worker = started(redis_server)
        worker.step(block_ms=1)
    drain(worker)
    reference = expected(events)
    assert made(redis_server) == reference
    assert any(isinstance(event, Alert) for event in reference["hall"]), "the limit was never passed"
    shown = asyncio.run(read_now(redis_server))
    assert {area: row.occupancy for area, row in shown.items()} == {
        area: next(row.occupancy for row in reversed(rows) if isinstance(row, AreaChanged))
        for area, rows in reference.items()
    }


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_any_number_of_instances_counts_areas_as_one_does(redis_server: RedisServer, instances: int) -> None:
    assert {get_shard(area.id, 2) for area in AREAS} == {0, 1}, "one instance would have them all"
    events = some(200)
    publish(redis_server, *events[:120])
    members = [started(redis_server, n, instances) for n in range(instances)]
    drain(*members)
    publish(redis_server, *events[120:])
    drain(*members)
    assert made(redis_server) == expected(events)


def test_a_dead_instances_areas_are_taken_over(redis_server: RedisServer) -> None:
    clock = Clock()
    first, second = started(redis_server, 0, 2, clock), started(redis_server, 1, 2, clock)
    events = some(90)
    publish(redis_server, *events[:50])
    drain(first, second)
    assert (first.shards, second.shards) == ({0}, {1})
    # The second one is dead: its lease ends in Redis, which alone keeps real time here.
    publish(redis_server, *events[50:])
    drain(first)
    assert made(redis_server) != expected(events)
    redis_server.client().delete(f"crowdperf:lease:{WORKER}:1of2")
    clock.now += 2
    first.step(block_ms=1)
    clock.now += LEASE_S + 1
    drain(first)
    assert first.shards == {0, 1}
    assert made(redis_server) == expected(events)


async def read_now(server: RedisServer) -> dict[str, areas.AreaSnapshot]:
    async with redis.asyncio.from_url(server.url) as client:
        return await areas.read_areas(client)


def test_a_state_that_cannot_be_read_begins_anew(redis_server: RedisServer) -> None:
    worker = started(redis_server)
    publish(redis_server, crossing(1, "in"))
    drain(worker)
    name = state_key(WORKER, "hall")
    stored = msgspec.msgpack.decode(redis_server.client().get(name), type=WorkerCheckpoint)
    for damaged in (b"\xc1", msgspec.msgpack.encode([99, []])):
        redis_server.client().set(name, msgspec.msgpack.encode(msgspec.structs.replace(stored, state=damaged)))
        worker = started(redis_server)
        publish(redis_server, crossing(2, "in"))
        drain(worker)
        assert asyncio.run(read_now(redis_server))["hall"].occupancy == 1


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
        occupancy.stage_zone_minute(client, event)
    occupancy.stage_zone_minute(client, msgspec.structs.replace(event, ts=NOON - 60, id="before"))

    async def read() -> list[occupancy.ZoneMinuteRecord]:
        async with redis.asyncio.from_url(redis_server.url) as own:
            return await occupancy.read_zone_minutes(own, "lobby", "hall", NOON, NOON + 3600)

    minutes = asyncio.run(read())
    assert len(minutes) == 1
    stats = occupancy.summarise_minutes(minutes, 3600)
    assert (stats.maximum, stats.mean, stats.entries, stats.exits) == (4, 0.033, 3, 2)
    assert (stats.dwell_mean_s, stats.dwell_median_s, stats.dwell_p90_s, stats.dwell_max_s) == (50.2, 5.0, 95.5, 95.5)
    assert stats.dwell_histogram == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert occupancy.expire_zone_minutes(client, NOON) == 1


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("leap", [7200.0, 10 * 365 * 86_400.0])
def test_an_area_counts_on_after_a_clock_that_was_ahead(
    redis_server: RedisServer, leap: float, restarts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hall = msgspec.convert({**HALL, "reset_at": "09:00"}, Area)
    config = AreasConfig(instance=0, instances=1, areas=(hall,), timezone="UTC", redis_url="", key_prefix="")
    client, wall, clock = redis_server.client(), [NOON], Clock()

    def start() -> tuple[ShardedConsumer, AreaLogic]:
        logic, leases = AreaLogic(config), Leases(client, WORKER, 0, 1, "worker-areas-0")
        stage = areas.stage_area
        worker = ShardedConsumer(client, logic, leases, Metrics(), clock, lambda: wall[0], stage=stage)
        worker.start()
        return worker, logic

    def pass_people(first: int, ts: float) -> int:
        for n in range(first, first + 3):
            publish(redis_server, msgspec.structs.replace(crossing(n, "in"), ts=ts + n))
        clock.now += 1.0
        worker.step(block_ms=1)
        return logic.counters["hall"].state.entries

    worker, logic = start()
    assert pass_people(0, NOON) == 3
    wall[0] += leap
    pass_people(10, wall[0])
    wall[0] = NOON + 60.0
    if restarts:
        worker, logic = start()
    else:
        clock.now += 1.0
        worker.step(block_ms=1)
        assert "was ahead of the clock" in caplog.text
    before = logic.counters["hall"].state.entries
    assert pass_people(20, wall[0]) == before + 3
    wall[0] = NOON + 2 * 3600.0
    pass_people(30, wall[0])
    assert logic.counters["hall"].state.entries == 3, "and it is reset at its hour"


def test_an_area_that_was_removed_does_not_stop_the_worker(redis_server: RedisServer) -> None:
    worker = started(redis_server)
    publish(redis_server, *some(5))
    drain(worker)
    worker.stop()
    config = AreasConfig(instance=0, instances=1, areas=AREAS[:1], timezone="UTC", redis_url="", key_prefix="")
    client, logic = redis_server.client(), AreaLogic(config)
    leases = Leases(client, WORKER, 0, 1, "worker-areas-0")
    again = ShardedConsumer(client, logic, leases, Metrics(), Clock(), lambda: NOON, stage=areas.stage_area)
    again.start()
    publish(redis_server, crossing(90, "in"))
    assert again.step(block_ms=1) == 1
