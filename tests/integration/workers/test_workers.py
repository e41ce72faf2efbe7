"""Recorder and housekeeping against a real Redis."""

from __future__ import annotations

import itertools
import threading

import msgspec
import pytest
import redis

from crowdperf.messaging.consumer import MAX_DELIVERIES
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AnyEvent, CameraGap, LineCrossed
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.settings.site import Retention
from crowdperf.storage.counts import LOGS, build_crossing, decode_member
from crowdperf.workers.housekeeping import Housekeeper, trim_stream
from crowdperf.workers.recorder import ORPHAN_CHECK_INTERVAL_S, ORPHAN_IDLE_MS, Recorder
from crowdperf.workers.recorder import main as recorder_main
from tests.conftest import RedisServer, wait_until
from tests.support.counting_logic import Clock

DAY_S = 86_400
NOW = 1_800_000_000.0


def crossing(n: int, class_name: str = "person", ts: float | None = None) -> LineCrossed:
    return LineCrossed(
        id=f"lobby:5:{n}:door:in:0",
        camera="lobby",
        ts=NOW + n if ts is None else ts,
        line="door",
        direction="in",
        class_name=class_name,
        track=n,
        epoch=5,
        sequence=n,
    )


def recorder(server: RedisServer, instance: int = 0, clock: Clock | None = None) -> Recorder:
    made = Recorder(server.client(), f"worker-recorder-{instance}", "Europe/Berlin", clock=clock or Clock())
    made.start()
    return made


def publish(server: RedisServer, *events: AnyEvent) -> None:
    publisher: Publisher[AnyEvent] = Publisher(server.client(), EVENTS)
    for event in events:
        publisher.publish(event)


def make_config(server: RedisServer, role: str, instance: int = 0) -> WorkerConfig:
    return WorkerConfig(role=role, instance=instance, retention=Retention(), redis_url=server.url, key_prefix="")


@pytest.fixture
def config(redis_server: RedisServer) -> WorkerConfig:
    return make_config(redis_server, "housekeeping")


def test_persons_and_vehicles_go_to_their_logs_by_event_time(redis_server: RedisServer) -> None:
    publish(redis_server, crossing(1), crossing(2, "bus"), crossing(3, "bicycle"))
    assert recorder(redis_server).step().added == 3
    client = redis_server.client()
    persons = client.zrange("person_logs", 0, -1, withscores=True)
    assert [(decode_member(raw).id, score) for raw, score in persons] == [(crossing(1).id, NOW + 1)]
    assert [decode_member(raw).class_name for raw in client.zrange("vehicle_logs", 0, -1)] == ["bus", "bicycle"]


def redeliver(server: RedisServer) -> list[int]:
    """Publish one crossing three times, in one batch and in two; return what each batch added to the history."""
    publish(server, crossing(1), crossing(1))
    writer = recorder(server)
    added = [writer.step().added]
    publish(server, crossing(1))
    return [*added, writer.step().added]


def test_an_event_that_comes_twice_is_recorded_once(redis_server: RedisServer) -> None:
    assert redeliver(redis_server) == [1, 0]
    assert redis_server.client().zcard("person_logs") == 1


def test_without_the_dedupe_it_would_be_recorded_each_time(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: members that vary from delivery to delivery."""
    times = itertools.count()
    monkeypatch.setattr(
        "crowdperf.workers.recorder.build_crossing",
        lambda event: msgspec.structs.replace(build_crossing(event), track=next(times)),
    )
    assert redeliver(redis_server) == [2, 1]
    assert redis_server.client().zcard("person_logs") == 3


def test_what_was_read_but_not_recorded_comes_again(redis_server: RedisServer) -> None:
    publish(redis_server, crossing(1), crossing(2))
    recorder(redis_server).consumer.read()
    assert recorder(redis_server).step().added == 2
    assert redis_server.client().xpending("crowdperf:events", "recorder")["pending"] == 0


def history(server: RedisServer) -> dict[str, object]:
    """The logs and every counter."""
    client = server.client()
    logs: dict[str, object] = {name: client.zrange(name, 0, -1, withscores=True) for name in LOGS}
    return logs | {name.decode(): client.get(name) for name in client.scan_iter("crowdperf:counts:*:*:*")}


def test_two_recorders_at_once_write_the_history_of_one(redis_server: RedisServer) -> None:
    kinds = ("person", "bus")
    events = [crossing(n, kinds[n % 2]) for n in range(3000)]
    written = []
    for instances in (1, 2):
        redis_server.client().flushall()
        runtimes = [ProcessRuntime(f"worker-recorder-{n}", 0) for n in range(instances)]
        threads = [
            threading.Thread(target=recorder_main, args=(make_config(redis_server, "recorder", n), runtime))
            for n, runtime in enumerate(runtimes)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda threads=threads: consumers(redis_server) == len(threads), what="every instance reads")
        # Every third is published twice: which of the two instances gets it is chance.
        publish(redis_server, *(row for event in events for row in (event,) * (2 if event.track % 3 == 0 else 1)))
        wait_until(lambda: done(redis_server), what="all crossings are recorded")
        for runtime in runtimes:
            runtime.stop()
        for thread in threads:
            thread.join()
        shares = [runtime.metrics.get_counter("crossings_recorded") for runtime in runtimes]
        assert sum(shares) == 3000
        assert all(shares), "one of the two had nothing to do"
        written.append(history(redis_server))
    assert written[0] == written[1]


def consumers(server: RedisServer) -> int:
    """How many members the recorder's group has."""
    client = server.client()
    groups = client.xinfo_groups("crowdperf:events") if client.exists("crowdperf:events") else []
    return sum(group["consumers"] for group in groups)


def done(server: RedisServer) -> bool:
    """Whether the recorder's group has acknowledged everything."""
    client = server.client()
    newest = client.xinfo_stream("crowdperf:events")["last-generated-id"]
    return any(
        (group["name"], group["pending"], group["last-delivered-id"]) == (b"recorder", 0, newest)
        for group in client.xinfo_groups("crowdperf:events")
    )


def test_what_a_dead_recorder_was_given_is_taken_over(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publish(redis_server, *(crossing(n) for n in range(20)))
    taken = recorder(redis_server, 1).consumer.read(count=15)
    assert len(taken) == 15
    # It is gone, and supervisord has given it up.
    clock = Clock()
    successor = recorder(redis_server, 0, clock)
    assert successor.step().added == 5
    clock.now += ORPHAN_CHECK_INTERVAL_S
    assert successor.consumer.read(block_ms=1) == []
    idle = {"time": None, "idle": ORPHAN_IDLE_MS}
    client.xclaim("crowdperf:events", "recorder", "worker-recorder-1", 0, [row.id for row in taken], **idle)
    assert successor.step().added == 15
    assert client.xpending("crowdperf:events", "recorder")["pending"] == 0
    assert client.zcard("person_logs") == 20


def test_what_nobody_survives_is_not_handed_on_for_ever(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publish(redis_server, crossing(1))
    entry = recorder(redis_server, 1).consumer.read()[0].id
    for turn in range(8):
        # Each instance that gets it dies of it.
        client.xclaim(
            "crowdperf:events", "recorder", "worker-recorder-1", 0, [entry], idle=ORPHAN_IDLE_MS, retrycount=turn
        )
        taken = recorder(redis_server).consumer.claim_from_others(ORPHAN_IDLE_MS)
        if not taken:
            break
    assert turn == MAX_DELIVERIES
    assert client.xlen("crowdperf:dead:events:recorder") == 1


def test_of_two_housekeepers_one_acts_and_the_other_follows(redis_server: RedisServer) -> None:
    client = redis_server.client()
    config = make_config(redis_server, "housekeeping")
    runtimes = [ProcessRuntime(f"worker-housekeeping-{n}", 0) for n in range(2)]
    first, second = (Housekeeper(redis_server.client(), config, runtime) for runtime in runtimes)

    def sweep(housekeeper: Housekeeper, at: float) -> int:
        """Crossings that one sweep removes, of those that are a year old."""
        publish(redis_server, crossing(int(at), ts=NOW - 400 * 86_400))
        client.hdel("crowdperf:counts:meta", "floor")
        recorder(redis_server).step()
        before = client.zcard("person_logs")
        housekeeper.sweep(NOW, at)
        return int(before - client.zcard("person_logs"))

    assert [sweep(first, 0), sweep(second, 1), sweep(first, 15), sweep(second, 16)] == [1, 0, 2, 0]
    client.delete("crowdperf:lease:housekeeping:0of1")  # what Redis does when the first one is silent for long enough
    assert [sweep(second, 31), sweep(first, 32)] == [2, 0]
    second.stop()
    assert sweep(first, 47) == 2


TASKS = [name for name in vars(Housekeeper) if name.startswith(("_trim_", "_expire_", "_watch_"))]


@pytest.mark.parametrize("task", TASKS)
def test_no_task_of_housekeeping_stops_another(
    task: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = ProcessRuntime("worker-housekeeping-0", 0)
    housekeeper = Housekeeper(redis_server.client(), make_config(redis_server, "housekeeping"), runtime)
    called = []
    for name in TASKS:

        def run(*_: object, name: str = name) -> int:
            called.append(name)
            if name == task:
                raise PermissionError(13, "Permission denied", "2026-01-01")
            return 0

        monkeypatch.setattr(housekeeper, name, run)
    housekeeper.sweep(NOW, 0.0)
    assert set(TASKS) - set(called) <= {"_trim_events"}, "the task of events calls it"
    assert sum(runtime.metrics.snapshot("", 0).counters.get("task_failures", {}).values()) == (task in called)


@pytest.mark.parametrize("leap", [7200.0, 10 * 365 * DAY_S])
def test_events_expire_after_a_clock_that_was_ahead(redis_server: RedisServer, leap: float) -> None:
    client, key, ahead = redis_server.client(), stream_key(EVENTS), int((NOW + leap) * 1000)
    client.xgroup_create(key, "recorder", id="0", mkstream=True)
    ages = [40.0] * 500 + [-leap / DAY_S] * 200 + [31.0] * 500 + [1.0] * 500
    for n, days in enumerate(ages):
        ts = NOW - days * DAY_S if n else "malformed"
        client.xadd(key, {"n": n, "ts": ts}, id=f"{ahead}-{n + 1}")
    client.xgroup_setid(key, "recorder", f"{ahead}-{len(ages)}")
    config = make_config(redis_server, "housekeeping")
    Housekeeper(redis_server.client(), config, ProcessRuntime("worker-housekeeping-0", 0)).sweep(NOW, 0.0)
    left = [int(fields[b"n"]) for _, fields in client.xrange(key)]
    assert left[-500:] == [*range(1200, 1700)], "of what is young enough, nothing is removed"
    assert len(left) < 700


def test_other_events_are_acknowledged_and_not_logged(redis_server: RedisServer) -> None:
    publish(redis_server, CameraGap(id="g", camera="lobby", ts=NOW, start=NOW - 1, end=NOW, cause="x"))
    assert recorder(redis_server).step().added == 0
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
    assert trim_stream(client, "s", ("fast", "slow"), keep_after=None) > 1000
    left = [entry.decode() for entry, _ in client.xrange("s")]
    assert left[-501:] == [f"1-{n}" for n in range(1500, 2001)]


@pytest.mark.parametrize(
    ("group", "has_postgres", "holds"),
    [("sql", False, False), ("sql", True, True), ("notify", False, True), ("of-an-older-version", True, False)],
)
def test_only_a_configured_group_holds_events_back(
    redis_server: RedisServer, group: str, has_postgres: bool, holds: bool
) -> None:
    """The worker of a configured group may be stopped. The others are switched off or were removed."""
    client = redis_server.client()
    key = stream_key(EVENTS)
    client.xgroup_create(key, "recorder", id="0", mkstream=True)
    client.xgroup_create(key, group, id="0")
    for n in range(1, 1001):
        client.xadd(key, {"n": n}, id=f"1-{n}")
    client.xgroup_setid(key, "recorder", "1-1000")
    config = msgspec.structs.replace(make_config(redis_server, "housekeeping"), has_postgres=has_postgres)
    Housekeeper(redis_server.client(), config, ProcessRuntime("worker-housekeeping-0", 0)).sweep(NOW, 0.0)
    assert (client.xlen(key) == 1000) is holds
    assert group.encode() in {row["name"] for row in client.xinfo_groups(key)}, "it can be switched on again"


def test_a_stream_that_nobody_reads_is_left_alone(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for n in range(1, 500):
        client.xadd("s", {"n": n}, id=f"1-{n}")
    assert trim_stream(client, "s", ("fast", "slow"), keep_after=None) == 0
    assert trim_stream(client, "missing", (), keep_after=None) == 0


def test_retention_ends_old_crossings_and_only_those(redis_server: RedisServer, config: WorkerConfig) -> None:
    year = 366 * 86_400
    publish(redis_server, crossing(1, ts=NOW - year), crossing(2, ts=NOW - 60), crossing(3, "car", ts=NOW - year))
    recorder(redis_server).step()
    runtime = ProcessRuntime("worker-housekeeping-0", 0)
    Housekeeper(redis_server.client(), config, runtime).sweep(NOW, 0.0)
    assert [decode_member(raw).track for raw in redis_server.client().zrange("person_logs", 0, -1)] == [2]
    assert redis_server.client().zcard("vehicle_logs") == 0
    assert runtime.metrics.get_counter("crossings_expired") == 2


def test_streams_of_cameras_that_are_gone_are_trimmed_too(redis_server: RedisServer, config: WorkerConfig) -> None:
    client = redis_server.client()
    client.xgroup_create("crowdperf:detections:gone", "tracking", id="0", mkstream=True)
    for n in range(1, 1001):
        client.xadd("crowdperf:detections:gone", {"d": msgspec.msgpack.encode(n)}, id=f"1-{n}")
    client.xgroup_setid("crowdperf:detections:gone", "tracking", "1-1000")
    Housekeeper(client, config, ProcessRuntime("worker-housekeeping-0", 0)).sweep(NOW, 0.0)
    assert client.xlen("crowdperf:detections:gone") < 200


def test_a_full_server_is_trimmed_whoever_has_the_lease(redis_server: RedisServer, config: WorkerConfig) -> None:
    client = redis_server.client()
    client.xgroup_create("crowdperf:detections:a", "tracking", id="0", mkstream=True)
    for n in range(1, 1001):
        client.xadd("crowdperf:detections:a", {"d": msgspec.msgpack.encode(n)}, id=f"1-{n}")
    client.xgroup_setid("crowdperf:detections:a", "tracking", "1-1000")
    client.config_set("maxmemory", "1mb")
    try:
        Housekeeper(client, config, ProcessRuntime("worker-housekeeping-0", 0)).sweep(NOW, 0.0)
    finally:
        client.config_set("maxmemory", "0")
    assert client.xlen("crowdperf:detections:a") < 200


def test_invalid_time_becomes_a_dead_letter(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publish(redis_server, crossing(1))
    for ts in ("nan", "inf", "-5", "1e18"):
        fields = {"type": "LineCrossed", "id": ts, "camera": "lobby", "ts": ts, "line": "door", "direction": "in"}
        client.xadd("crowdperf:events", {**fields, "klass": "person", "track": 1, "epoch": 1, "sequence": 1})
    publish(redis_server, crossing(2))
    assert recorder(redis_server).step().added == 2
    assert client.xlen("crowdperf:dead:events:recorder") == 4
    assert client.xpending("crowdperf:events", "recorder")["pending"] == 0


def test_a_redis_that_was_emptied_is_recorded_into_again(redis_server: RedisServer) -> None:
    writer = recorder(redis_server)
    publish(redis_server, crossing(1))
    writer.step()
    redis_server.client().flushall()
    publish(redis_server, crossing(2), crossing(1))
    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        writer.step()
    writer.start()
    assert writer.step() == (2, 0, True)


def test_a_full_server_refuses_and_nothing_is_lost(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publish(redis_server, *(crossing(n) for n in range(20)))
    writer = recorder(redis_server)
    client.config_set("maxmemory", "1mb")
    try:
        for _ in range(MAX_DELIVERIES * 2):
            # As in the worker's loop: a server just below its limit lets `start` pass and refuses the batch.
            client.config_set("maxmemory", "0")
            writer.start()
            client.config_set("maxmemory", "1mb")
            with pytest.raises(redis.OutOfMemoryError):
                writer.step()
        assert client.exists("person_logs", "crowdperf:dead:events:recorder") == 0
        assert client.xpending("crowdperf:events", "recorder")["pending"] == 20
    finally:
        client.config_set("maxmemory", "0")
    writer.start()
    assert writer.step().added == 20


def test_filling_server_is_reported_and_relieved_in_order(redis_server: RedisServer, config: WorkerConfig) -> None:
    client = redis_server.client()
    day = 86_400
    publish(redis_server, *(crossing(n, ts=NOW - 40 * day + n * day / 10) for n in range(200)))
    recorder(redis_server).step()
    runtime = ProcessRuntime("worker-housekeeping-0", 0)
    housekeeper = Housekeeper(client, config, runtime)
    housekeeper.sweep(NOW, 0.0)
    # Counters of minutes go first: put some of an older day back, which the hourly pass has not seen.
    client.setbit("crowdperf:counts:minute:100:lobby/door/person/in", 9, 1)
    used = int(client.info("memory")["used_memory"])
    client.config_set("maxmemory", int(used / 0.95))
    try:
        before = client.zcard("person_logs")
        housekeeper.sweep(NOW, 15.0)
        assert client.exists("crowdperf:counts:minute:100:lobby/door/person/in") == 0
        assert client.zcard("person_logs") == before, "crossings go last"
        housekeeper.sweep(NOW, 30.0)
        assert 0 < client.zcard("person_logs") < before
        for turn in range(60):
            housekeeper.sweep(NOW, 45.0 + 15 * turn)
        assert client.zcount("person_logs", NOW - 7 * day, "+inf") == client.zcard("person_logs")
    finally:
        client.config_set("maxmemory", "0")
    states = [fields[b"state"] for _, fields in client.xrange("crowdperf:events") if fields[b"type"] == b"StoreFilling"]
    assert states[0] == b"dropping"
    assert runtime.metrics.snapshot("x", 0).gauges["redis_limit_bytes"][""] > 0


def test_a_server_that_is_full_to_the_last_byte_is_relieved(redis_server: RedisServer, config: WorkerConfig) -> None:
    """It filled between two sweeps, or was started again with less memory: everything that writes is refused."""
    client = redis_server.client()
    publish(redis_server, *(crossing(n, ts=NOW - 40 * DAY_S + n * DAY_S / 10) for n in range(300)))
    writer = recorder(redis_server)
    while writer.step().added:
        pass
    housekeeper = Housekeeper(client, config, ProcessRuntime("worker-housekeeping", 0))
    client.config_set("maxmemory", int(int(client.info("memory")["used_memory"]) * 0.98))
    try:
        with pytest.raises(redis.OutOfMemoryError):
            client.set("any", b"value")
        housekeeper.sweep(NOW, 0.0)
        housekeeper.sweep(NOW, 15.0)
        assert client.zcard("person_logs") < 300, "the oldest have made room"
        floor = float(client.hget("crowdperf:counts:meta", "floor"))
        assert client.zcount("person_logs", "-inf", f"({floor!r}") == 0
    finally:
        client.config_set("maxmemory", "0")


def test_clock_ten_years_ahead_removes_nothing_at_once(
    redis_server: RedisServer, config: WorkerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    publish(redis_server, *(crossing(n) for n in range(20)))
    recorder(redis_server).step()
    client = redis_server.client()
    Housekeeper(client, config, ProcessRuntime("worker-housekeeping-0", 0)).sweep(NOW + 60, 0.0)
    after = Housekeeper(client, config, ProcessRuntime("worker-housekeeping-0", 0))
    for turn in range(10):
        after.sweep(NOW + 3650 * 86_400, 15.0 * turn)
    assert client.zcard("person_logs") == 20
    assert caplog.text.count("days ahead") == 1
