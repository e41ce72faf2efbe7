"""The plumbing of rule workers against a real Redis: exactly once, split by camera, taken over, poison put aside."""

from __future__ import annotations

import pytest
import redis

from crowdperf.messaging.dead_letter_queue import DeadLetterStore
from crowdperf.messaging.outages import run_until_stopped
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import CameraChanged, Event, LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import get_shard
from crowdperf.web.live.counts import decode_event
from crowdperf.workers import leases
from crowdperf.workers.sharded_consumer import ShardedConsumer
from tests.conftest import RedisServer
from tests.support.counting_logic import DEADLY, WORKER, Clock, Died, member

CAMERAS = ("lobby", "gate", "dock", "yard")
LEASE_S = 3_600.0


@pytest.fixture(autouse=True)
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The members' clocks are the tests', the end of a lease is real: none may end because a test takes its time."""
    monkeypatch.setattr(leases, "LEASE_S", LEASE_S)


def crossing(camera: str, n: int, line: str = "door") -> LineCrossed:
    return LineCrossed(
        id=f"{camera}:5:{n}:{line}:in:0", camera=camera, ts=1.8e9 + n, line=line, direction="in", class_name="person",
        track=n, epoch=5, sequence=n,
    )  # fmt: skip


def publish(server: RedisServer, *events: Event) -> None:
    publisher: Publisher[Event] = Publisher(server.client(), EVENTS)
    for event in events:
        publisher.publish(event)


def read_published(server: RedisServer) -> list[str]:
    """What the workers have published, by camera."""
    events = [decode_event(fields) for _, fields in server.client().xrange("crowdperf:events")]
    return sorted(event.id for event in events if isinstance(event, CameraChanged))


def expected(*events: LineCrossed) -> list[str]:
    numbers: dict[str, int] = {}
    for event in events:
        numbers[event.camera] = numbers.get(event.camera, 0) + 1
        numbers[event.id] = numbers[event.camera]
    return sorted(f"{event.id}:{numbers[event.id]}" for event in events)


def drain(*members: ShardedConsumer) -> None:
    """Turn until nobody has anything to do."""
    idle = 0
    while idle < 2:
        idle = 0 if sum(row.step(block_ms=1) for row in members) else idle + 1


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_any_number_of_instances_gives_the_same_history(redis_server: RedisServer, instances: int) -> None:
    events = [crossing(camera, n) for n in range(1, 120) for camera in CAMERAS]
    publish(redis_server, *events[:200])
    members = [member(redis_server, n, instances) for n in range(instances)]
    for row in members:
        row.start()
    drain(*members)
    publish(redis_server, *events[200:])
    drain(*members)
    assert read_published(redis_server) == expected(*events)
    assert {share for row in members for share in row.shards} == set(range(instances))


def test_after_a_kill_nothing_is_missing_and_nothing_said_twice(redis_server: RedisServer) -> None:
    events = [crossing(camera, n) for n in range(1, 40) for camera in CAMERAS]
    for at in range(0, len(events), 10):
        publish(redis_server, *events[at : at + 10])
        fresh = member(redis_server)
        fresh.start()
        fresh.step(block_ms=1)
    drain(fresh)
    assert read_published(redis_server) == expected(*events)


def test_an_event_that_comes_twice_is_handled_once(redis_server: RedisServer) -> None:
    only = member(redis_server)
    only.start()
    publish(redis_server, crossing("lobby", 1), crossing("lobby", 1))
    drain(only)
    publish(redis_server, crossing("lobby", 1), crossing("lobby", 2))
    drain(only)
    assert read_published(redis_server) == expected(crossing("lobby", 1), crossing("lobby", 2))


def test_a_dead_siblings_cameras_are_taken_over_and_handed_back(redis_server: RedisServer) -> None:
    theirs = next(camera for camera in CAMERAS if get_shard(camera, 2) == 1)
    clock = Clock()
    first, second = member(redis_server, 0, 2, clock), member(redis_server, 1, 2, clock)
    first.start()
    second.start()
    publish(redis_server, *(crossing(theirs, n) for n in range(1, 4)))
    drain(first, second)
    assert (first.shards, second.shards) == ({0}, {1})
    publish(redis_server, *(crossing(theirs, n) for n in range(4, 7)))
    # The second one is dead: its lease ends in Redis, which alone keeps real time here.
    redis_server.client().delete(f"crowdperf:lease:{WORKER}:1of2")
    first.step(block_ms=1)
    clock.now += 2
    first.step(block_ms=1)
    clock.now += LEASE_S + 1
    drain(first)
    assert first.shards == {0, 1}
    assert read_published(redis_server) == expected(*(crossing(theirs, n) for n in range(1, 7)))
    again = member(redis_server, 1, 2, clock)
    again.start()
    clock.now += 2
    first.step(block_ms=1)
    clock.now += 2
    publish(redis_server, crossing(theirs, 7))
    drain(again, first)
    assert (first.shards, again.shards) == ({0}, {1})
    assert read_published(redis_server) == expected(*(crossing(theirs, n) for n in range(1, 8)))


def test_who_has_lost_its_lease_stores_nothing(redis_server: RedisServer) -> None:
    stopped = member(redis_server)
    stopped.start()
    publish(redis_server, crossing("lobby", 1))
    drain(stopped)
    redis_server.client().set(f"crowdperf:lease:{WORKER}:0of1", "somebody else")
    publish(redis_server, crossing("lobby", 2))
    assert stopped.step(block_ms=1) == 0
    assert stopped.shards == set()
    assert read_published(redis_server) == expected(crossing("lobby", 1))


@pytest.mark.parametrize("lost", ["everything", "group"])
def test_lost_data_on_a_live_connection_is_begun_anew(redis_server: RedisServer, lost: str) -> None:
    runtime = ProcessRuntime(WORKER, 0)
    clock = Clock()
    only = member(redis_server, clock=clock)
    publish(redis_server, crossing("lobby", 1))
    client = redis_server.client()
    turns = 0

    def step() -> None:
        nonlocal turns
        turns += 1
        clock.now += leases.RENEW_S
        if turns == 5 and lost == "everything":
            client.flushall()
        elif turns == 5:
            client.xgroup_destroy("crowdperf:events", WORKER)
        if turns == 8:
            publish(redis_server, crossing("gate", 2))
        if turns == 30:
            runtime.stop()
        only.step(block_ms=1)

    run_until_stopped(runtime, only.start, step, "the stream keeps it")
    assert f"{crossing('gate', 2).id}:1" in read_published(redis_server)
    assert only.shards == {0}


def test_an_idle_member_creates_a_lost_group_at_once(redis_server: RedisServer) -> None:
    clock, client = Clock(), redis_server.client()
    only = member(redis_server, clock=clock)
    only.step(block_ms=1)
    client.xgroup_destroy("crowdperf:events", WORKER)
    clock.now += leases.RENEW_S
    only.step(block_ms=1)
    assert [row["name"] for row in client.xinfo_groups("crowdperf:events")] == [WORKER.encode()]


def test_new_number_of_instances_continues_the_old_state(redis_server: RedisServer) -> None:
    events = [crossing(camera, n) for n in range(1, 30) for camera in CAMERAS]
    pair = [member(redis_server, n, 2) for n in range(2)]
    for row in pair:
        row.start()
    publish(redis_server, *events[:50])
    drain(pair[0])
    drain(*pair)
    publish(redis_server, *events[50:])
    # One is ahead of the other when the number changes; the old ones are still there, and may not store any more.
    drain(pair[0])
    three = [member(redis_server, n, 3) for n in range(3)]
    for row in three:
        row.start()
    drain(*three)
    assert sum(row.step(block_ms=1) for row in pair) == 0
    assert read_published(redis_server) == expected(*events)


def test_the_group_stands_at_the_slowest_share(redis_server: RedisServer) -> None:
    first = member(redis_server, 0, 2)
    first.start()
    publish(redis_server, *(crossing(camera, n) for n in range(1, 5) for camera in CAMERAS))
    drain(first)
    group = redis_server.client().xinfo_groups("crowdperf:events")[0]
    assert group["last-delivered-id"] == b"0-0", "what the second share has not read would be trimmed"


def test_what_nobody_can_decode_is_put_aside_once(redis_server: RedisServer) -> None:
    members = [member(redis_server, n, 2) for n in range(2)]
    for row in members:
        row.start()
    redis_server.client().xadd("crowdperf:events", {"type": "LineCrossed", "camera": "lobby"})
    redis_server.client().xadd("crowdperf:events", {"what": b"\xff"})
    publish(redis_server, crossing("lobby", 1))
    drain(*members)
    assert read_published(redis_server) == expected(crossing("lobby", 1))
    assert [box.count for box in DeadLetterStore(redis_server.client()).list_queues()] == [2]


def test_what_ends_the_process_again_and_again_is_put_aside(redis_server: RedisServer) -> None:
    events = [crossing("lobby", 1), crossing("lobby", 2, DEADLY), crossing("gate", 3), crossing("lobby", 4)]
    publish(redis_server, *events)
    deaths = 0
    for _ in range(30):
        fresh = member(redis_server)
        try:
            fresh.start()
            drain(fresh)
            break
        except Died:
            deaths += 1
    assert 5 <= deaths <= 10
    assert read_published(redis_server) == expected(events[0], events[2], events[3])
    letters = DeadLetterStore(redis_server.client()).get_letters(f"events:{WORKER}")
    assert [letter.fields["id"] for letter in letters] == [events[1].id]
    assert "ended the process" in letters[0].reason


def test_an_outage_loses_nothing(redis_server: RedisServer) -> None:
    only = member(redis_server)
    only.start()
    events = [crossing("lobby", n) for n in range(1, 10)]
    publish(redis_server, *events[:5])
    drain(only)
    publish(redis_server, events[5])
    redis_server.kill()
    with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        only.step(block_ms=1)
    redis_server.start()
    only.start()
    publish(redis_server, *events[6:])
    drain(only)
    assert read_published(redis_server) == expected(*events)


def test_single_member_needs_no_wait_for_its_lease(redis_server: RedisServer) -> None:
    member(redis_server).start()
    fresh = member(redis_server)
    fresh.start()
    assert fresh.shards == {0}
