"""Recorder and housekeeping against a real Redis."""

from __future__ import annotations

import msgspec
import pytest

from crowdperf.events.bus import Consumer, Publisher
from crowdperf.events.schema import AnyEvent, CameraGap, LineCrossed
from crowdperf.events.streams import EVENTS
from crowdperf.runtime import Runtime
from crowdperf.settings.site import Retention
from crowdperf.slices import WorkerSlice
from crowdperf.storage.crossings import decode_member
from crowdperf.workers.housekeeping import sweep, trim
from crowdperf.workers.recorder import record
from tests.conftest import RedisServer

NOW = 1_800_000_000.0


def crossing(n: int, klass: str = "person", ts: float | None = None) -> LineCrossed:
    return LineCrossed(
        id=f"lobby:5:{n}:door:in:0",
        camera="lobby",
        ts=NOW + n if ts is None else ts,
        line="door",
        direction="in",
        klass=klass,
        track=n,
        epoch=5,
        sequence=n,
    )


def consumer(server: RedisServer) -> Consumer[AnyEvent]:
    reader: Consumer[AnyEvent] = Consumer(server.client(), EVENTS, "recorder", "worker-recorder")
    reader.start()
    return reader


def publish(server: RedisServer, *events: AnyEvent) -> None:
    publisher: Publisher[AnyEvent] = Publisher(server.client(), EVENTS)
    for event in events:
        publisher.publish(event)


@pytest.fixture
def slice_(redis_server: RedisServer) -> WorkerSlice:
    return WorkerSlice(
        role="housekeeping", instance=0, retention=Retention(), redis_url=redis_server.url, key_prefix=""
    )


def test_persons_and_vehicles_go_to_their_logs_scored_by_event_time(redis_server: RedisServer) -> None:
    publish(redis_server, crossing(1), crossing(2, "bus"), crossing(3, "bicycle"))
    assert record(consumer(redis_server), redis_server.client()) == 3
    client = redis_server.client()
    persons = client.zrange("person_logs", 0, -1, withscores=True)
    assert [(decode_member(raw).id, score) for raw, score in persons] == [(crossing(1).id, NOW + 1)]
    assert [decode_member(raw).klass for raw in client.zrange("vehicle_logs", 0, -1)] == ["bus", "bicycle"]


def test_an_event_that_comes_twice_is_recorded_once(redis_server: RedisServer) -> None:
    publish(redis_server, crossing(1), crossing(1))
    reader = consumer(redis_server)
    record(reader, redis_server.client())
    publish(redis_server, crossing(1))
    record(reader, redis_server.client())
    assert redis_server.client().zcard("person_logs") == 1


def test_what_was_read_but_not_recorded_comes_again(redis_server: RedisServer) -> None:
    publish(redis_server, crossing(1), crossing(2))
    consumer(redis_server).read()
    assert record(consumer(redis_server), redis_server.client()) == 2
    assert redis_server.client().xpending("crowdperf:events", "recorder")["pending"] == 0


def test_other_events_are_acknowledged_without_a_trace_in_the_logs(redis_server: RedisServer) -> None:
    publish(redis_server, CameraGap(id="g", camera="lobby", ts=NOW, start=NOW - 1, end=NOW, cause="x"))
    assert record(consumer(redis_server), redis_server.client()) == 0
    assert redis_server.client().exists("person_logs", "vehicle_logs") == 0
    assert redis_server.client().xpending("crowdperf:events", "recorder")["pending"] == 0


def test_nothing_unread_is_trimmed(redis_server: RedisServer) -> None:
    client = redis_server.client()
    client.xgroup_create("s", "fast", id="0", mkstream=True)
    client.xgroup_create("s", "slow", id="0")
    for n in range(1, 2001):
        client.xadd("s", {"n": n}, id=f"1-{n}")
    client.xgroup_setid("s", "fast", "1-2000")
    client.xgroup_setid("s", "slow", "1-1500")
    assert trim(client, "s", keep_after=None) > 1000
    left = [entry.decode() for entry, _ in client.xrange("s")]
    assert left[-501:] == [f"1-{n}" for n in range(1500, 2001)]


def test_a_stream_that_nobody_reads_is_left_alone(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for n in range(1, 500):
        client.xadd("s", {"n": n}, id=f"1-{n}")
    assert trim(client, "s", keep_after=None) == 0
    assert trim(client, "missing", keep_after=None) == 0


def test_retention_ends_old_crossings_and_only_those(redis_server: RedisServer, slice_: WorkerSlice) -> None:
    year = 366 * 86_400
    publish(redis_server, crossing(1, ts=NOW - year), crossing(2, ts=NOW - 60), crossing(3, "car", ts=NOW - year))
    record(consumer(redis_server), redis_server.client())
    runtime = Runtime("worker-housekeeping", 0)
    sweep(redis_server.client(), slice_, runtime, NOW)
    assert [decode_member(raw).track for raw in redis_server.client().zrange("person_logs", 0, -1)] == [2]
    assert redis_server.client().zcard("vehicle_logs") == 0
    assert runtime.metrics.counter("crossings_expired") == 2


def test_streams_of_cameras_that_are_gone_are_trimmed_too(redis_server: RedisServer, slice_: WorkerSlice) -> None:
    client = redis_server.client()
    client.xgroup_create("crowdperf:detections:gone", "tracking", id="0", mkstream=True)
    for n in range(1, 1001):
        client.xadd("crowdperf:detections:gone", {"d": msgspec.msgpack.encode(n)}, id=f"1-{n}")
    client.xgroup_setid("crowdperf:detections:gone", "tracking", "1-1000")
    sweep(client, slice_, Runtime("worker-housekeeping", 0), NOW)
    assert client.xlen("crowdperf:detections:gone") < 200
