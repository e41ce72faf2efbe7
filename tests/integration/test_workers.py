"""Recorder and housekeeping against a real Redis."""

from __future__ import annotations

import itertools

import msgspec
import pytest
import redis

from crowdperf.events.bus import Publisher
from crowdperf.events.schema import AnyEvent, CameraGap, LineCrossed
from crowdperf.events.streams import EVENTS
from crowdperf.runtime import Runtime
from crowdperf.settings.site import Retention
from crowdperf.slices import WorkerSlice
from crowdperf.storage.crossings import crossing_of, decode_member
from crowdperf.workers.housekeeping import Housekeeper, trim
from crowdperf.workers.recorder import Recorder
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


def recorder(server: RedisServer) -> Recorder:
    made = Recorder(server.client(), "worker-recorder", "Europe/Berlin")
    made.start()
    return made


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
    assert recorder(redis_server).turn().added == 3
    client = redis_server.client()
    persons = client.zrange("person_logs", 0, -1, withscores=True)
    assert [(decode_member(raw).id, score) for raw, score in persons] == [(crossing(1).id, NOW + 1)]
    assert [decode_member(raw).klass for raw in client.zrange("vehicle_logs", 0, -1)] == ["bus", "bicycle"]


def redeliver(server: RedisServer) -> list[int]:
    """One crossing said three times, in one batch and in two; what each batch added to the history."""
    publish(server, crossing(1), crossing(1))
    writer = recorder(server)
    added = [writer.turn().added]
    publish(server, crossing(1))
    return [*added, writer.turn().added]


def test_an_event_that_comes_twice_is_recorded_once(redis_server: RedisServer) -> None:
    assert redeliver(redis_server) == [1, 0]
    assert redis_server.client().zcard("person_logs") == 1


def test_without_the_dedupe_it_would_be_recorded_each_time(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: members that vary from delivery to delivery."""
    times = itertools.count()
    monkeypatch.setattr(
        "crowdperf.workers.recorder.crossing_of",
        lambda event: msgspec.structs.replace(crossing_of(event), track=next(times)),
    )
    assert redeliver(redis_server) == [2, 1]
    assert redis_server.client().zcard("person_logs") == 3


def test_what_was_read_but_not_recorded_comes_again(redis_server: RedisServer) -> None:
    publish(redis_server, crossing(1), crossing(2))
    recorder(redis_server).consumer.read()
    assert recorder(redis_server).turn().added == 2
    assert redis_server.client().xpending("crowdperf:events", "recorder")["pending"] == 0


def test_other_events_are_acknowledged_without_a_trace_in_the_logs(redis_server: RedisServer) -> None:
    publish(redis_server, CameraGap(id="g", camera="lobby", ts=NOW, start=NOW - 1, end=NOW, cause="x"))
    assert recorder(redis_server).turn().added == 0
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
    recorder(redis_server).turn()
    runtime = Runtime("worker-housekeeping", 0)
    Housekeeper(redis_server.client(), slice_, runtime).sweep(NOW, 0.0)
    assert [decode_member(raw).track for raw in redis_server.client().zrange("person_logs", 0, -1)] == [2]
    assert redis_server.client().zcard("vehicle_logs") == 0
    assert runtime.metrics.counter("crossings_expired") == 2


def test_streams_of_cameras_that_are_gone_are_trimmed_too(redis_server: RedisServer, slice_: WorkerSlice) -> None:
    client = redis_server.client()
    client.xgroup_create("crowdperf:detections:gone", "tracking", id="0", mkstream=True)
    for n in range(1, 1001):
        client.xadd("crowdperf:detections:gone", {"d": msgspec.msgpack.encode(n)}, id=f"1-{n}")
    client.xgroup_setid("crowdperf:detections:gone", "tracking", "1-1000")
    Housekeeper(client, slice_, Runtime("worker-housekeeping", 0)).sweep(NOW, 0.0)
    assert client.xlen("crowdperf:detections:gone") < 200


def test_a_time_that_is_none_goes_to_the_dead_letters_and_the_rest_is_recorded(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publish(redis_server, crossing(1))
    for ts in ("nan", "inf", "-5", "1e18"):
        fields = {"type": "LineCrossed", "id": ts, "camera": "lobby", "ts": ts, "line": "door", "direction": "in"}
        client.xadd("crowdperf:events", {**fields, "klass": "person", "track": 1, "epoch": 1, "sequence": 1})
    publish(redis_server, crossing(2))
    assert recorder(redis_server).turn().added == 2
    assert client.xlen("crowdperf:dead:events:recorder") == 4
    assert client.xpending("crowdperf:events", "recorder")["pending"] == 0


def test_a_redis_that_was_emptied_is_recorded_into_again(redis_server: RedisServer) -> None:
    writer = recorder(redis_server)
    publish(redis_server, crossing(1))
    writer.turn()
    redis_server.client().flushall()
    publish(redis_server, crossing(2), crossing(1))
    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        writer.turn()
    writer.start()
    assert writer.turn() == (2, 0, True)


def test_a_full_server_refuses_and_nothing_is_lost(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publish(redis_server, *(crossing(n) for n in range(20)))
    writer = recorder(redis_server)
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            writer.turn()
        assert client.exists("person_logs") == 0
        assert client.xpending("crowdperf:events", "recorder")["pending"] == 20
    finally:
        client.config_set("maxmemory", "0")
    writer.start()
    assert writer.turn().added == 20


def test_a_server_that_fills_is_said_and_relieved_in_the_documented_order(
    redis_server: RedisServer, slice_: WorkerSlice
) -> None:
    client = redis_server.client()
    day = 86_400
    publish(redis_server, *(crossing(n, ts=NOW - 40 * day + n * day / 10) for n in range(200)))
    recorder(redis_server).turn()
    runtime = Runtime("worker-housekeeping", 0)
    keeper = Housekeeper(client, slice_, runtime)
    keeper.sweep(NOW, 0.0)
    # Counters of minutes go first: put some of an older day back, which the hourly pass has not seen.
    client.setbit("crowdperf:counts:minute:100:lobby/door/person/in", 9, 1)
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", int(used / 0.95))
    try:
        before = client.zcard("person_logs")
        keeper.sweep(NOW, 15.0)
        assert client.exists("crowdperf:counts:minute:100:lobby/door/person/in") == 0
        assert client.zcard("person_logs") == before, "crossings go last"
        keeper.sweep(NOW, 30.0)
        assert 0 < client.zcard("person_logs") < before
        for turn in range(60):
            keeper.sweep(NOW, 45.0 + 15 * turn)
        assert client.zcount("person_logs", NOW - 7 * day, "+inf") == client.zcard("person_logs")
    finally:
        client.config_set("maxmemory", "0")
    said = [fields[b"state"] for _, fields in client.xrange("crowdperf:events") if fields[b"type"] == b"StoreFilling"]
    assert said[0] == b"dropping"
    assert runtime.metrics.snapshot("x", 0).gauges["redis_limit_bytes"][""] > 0


def test_a_clock_that_leaps_ten_years_ahead_removes_nothing_at_once(
    redis_server: RedisServer, slice_: WorkerSlice, caplog: pytest.LogCaptureFixture
) -> None:
    publish(redis_server, *(crossing(n) for n in range(20)))
    recorder(redis_server).turn()
    client = redis_server.client()
    Housekeeper(client, slice_, Runtime("worker-housekeeping", 0)).sweep(NOW + 60, 0.0)
    after = Housekeeper(client, slice_, Runtime("worker-housekeeping", 0))
    for turn in range(10):
        after.sweep(NOW + 3650 * 86_400, 15.0 * turn)
    assert client.zcard("person_logs") == 20
    assert caplog.text.count("days ahead") == 1
