"""Processes against a real Redis: what comes of thousands of tracks, cameras, viewers and messages does not stay."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from crowdperf.messaging import codec
from crowdperf.messaging.delivery_queue import DeliveryQueue, stage_item
from crowdperf.messaging.schema import Event, TrackedFrame
from crowdperf.messaging.streams import EVENTS, TRACKS, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.areas import Area
from crowdperf.settings.config import Deployment
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import WorkerConfig, build_web_config
from crowdperf.settings.site import Retention
from crowdperf.settings.worker_config import AreasConfig
from crowdperf.storage.alerts import AlertDoc
from crowdperf.storage.occupancy import areas_key
from crowdperf.web.live.channel import MAX_QUEUED_MESSAGES
from crowdperf.web.live.feed import run_until_cancelled
from crowdperf.web.live.tiles import Viewer
from crowdperf.web.state import AppState
from crowdperf.workers.areas import AreaLogic, stage_effect
from crowdperf.workers.housekeeping import Housekeeper
from crowdperf.workers.leases import Leases
from crowdperf.workers.notify.delivery import ChannelDelivery
from crowdperf.workers.notify.logic import Notification
from crowdperf.workers.recorder import Recorder
from crowdperf.workers.sharded_consumer import FORGET_AFTER_S, ShardedConsumer
from tests.conftest import RedisServer
from tests.support.alerting import crossing, make_config
from tests.support.bounds import largest
from tests.support.counting_logic import WORKER, Clock, member
from tests.support.webserver import site_config

MANY = 10_000
BATCH = 256
"""Entries that a worker reads at once."""


def publish(server: RedisServer, events: list[Event]) -> None:
    with server.client().pipeline(transaction=False) as pipe:
        for event in events:
            pipe.xadd(stream_key(EVENTS), codec.encode(EVENTS, event))
        pipe.execute()


def passers(cameras: int, each: int = 1) -> list[Event]:
    """Crossings of as many people, at that many cameras."""
    now = time.time()
    return [crossing(n, now, f"camera-{number}") for number in range(cameras) for n in range(each)]


def test_removed_cameras_leave_no_state_in_workers_and_redis(redis_server: RedisServer) -> None:
    client, late, clock = redis_server.client(), [0.0], Clock()
    known = {f"camera-{number}" for number in range(5)}
    worker = member(redis_server, known=known, clock=clock, wall=lambda: time.time() + late[0])

    def turn(times: int = 1) -> None:
        for _ in range(times):
            clock.now += 1
            worker.step(block_ms=1)

    publish(redis_server, passers(2000))
    worker.start()
    # What it says of them comes back to it.
    turn(2 * 2000 // BATCH + 2)
    assert client.scard(f"crowdperf:cameras:{WORKER}") == 2000
    late[0] = FORGET_AFTER_S - 30
    turn()
    assert client.scard(f"crowdperf:cameras:{WORKER}") == 2000, "they may only be silent"
    late[0] = FORGET_AFTER_S + 30
    turn()
    assert client.scard(f"crowdperf:cameras:{WORKER}") == 5
    assert {name.decode() for name in client.scan_iter(f"crowdperf:state:{WORKER}:*")} == {
        f"crowdperf:state:{WORKER}:{camera}" for camera in known
    }
    assert largest(worker)[0] <= BATCH
    # A fresh process finds the same; and a camera that comes back begins anew.
    fresh = member(redis_server, known=known, clock=clock)
    fresh.start()
    assert largest(fresh)[0] <= BATCH
    late[0] = 0.0
    publish(redis_server, passers(8))
    turn(2000 // BATCH + 2)
    published = [
        fields[b"id"] for _, fields in client.xrange(stream_key(EVENTS)) if fields[b"type"] == b"CameraChanged"
    ]
    assert sum(row.startswith(b"camera-7:gone:") for row in published) == 1
    assert sum(row.startswith(b"camera-7:") and row.endswith(b":1") for row in published) == 3, "two crossings, one end"


def test_a_commit_that_fails_forgets_nobody(redis_server: RedisServer) -> None:
    client, late, clock = redis_server.client(), [0.0], Clock()
    worker = member(redis_server, known=set(), clock=clock, wall=lambda: time.time() + late[0])
    publish(redis_server, passers(3))
    worker.start()
    worker.step(block_ms=1)
    late[0], clock.now = FORGET_AFTER_S + 30, 0.9
    # A sibling takes the share between the reading and the commit.
    client.set(f"crowdperf:lease:{WORKER}:0of1", "somebody else")
    worker.step(block_ms=1)
    assert client.scard(f"crowdperf:cameras:{WORKER}") == 3


def area_worker(server: RedisServer, clock: Clock, late: list[float], *names: str) -> ShardedConsumer:
    """worker-areas with these areas, as its own main makes it."""
    doors = [{"camera": "camera-1", "line": "door"}]
    areas = tuple(msgspec.convert({"id": name, "doors": doors}, Area) for name in names)
    config = AreasConfig(instance=0, instances=1, areas=areas, timezone="UTC", redis_url="", key_prefix="")
    client = server.client()
    leases = Leases(client, "areas", 0, 1, "worker-areas-0")

    def stage(pipe: Any, effect: Struct) -> None:
        stage_effect(pipe, effect, Metrics())

    worker = ShardedConsumer(
        client, AreaLogic(config), leases, Metrics(), clock, lambda: time.time() + late[0], stage=stage
    )
    worker.start()
    return worker


def test_recorder_and_areas_keep_no_state_of_people_and_cameras(redis_server: RedisServer) -> None:
    recorder = Recorder(redis_server.client(), "worker-recorder-0", "Europe/Berlin", clock=Clock())
    recorder.start()
    clock, late = Clock(), [0.0]
    areas = area_worker(redis_server, clock, late, "hall", "yard")
    publish(redis_server, passers(MANY // 50, 50))
    recorded = 0
    while recorded < MANY:
        recorded += recorder.step().added
        clock.now += 1
        areas.step(block_ms=1)
    assert largest(recorder)[0] <= BATCH
    assert largest(areas)[0] <= BATCH
    client = redis_server.client()
    assert set(client.hkeys(areas_key())) == {b"hall", b"yard"}
    # An area that has left the configuration is shown no longer.
    areas, late[0] = area_worker(redis_server, clock, late, "hall"), FORGET_AFTER_S + 30
    for _ in range(5):
        clock.now += 1
        areas.step(block_ms=1)
    assert set(client.hkeys(areas_key())) == {b"hall"}
    assert {row.decode() for row in client.smembers("crowdperf:cameras:areas")} == {"hall"}


def test_housekeeping_keeps_nothing_of_cameras(redis_server: RedisServer) -> None:
    config = WorkerConfig(role="housekeeping", instance=0, retention=Retention(), redis_url="", key_prefix="")
    runtime = ProcessRuntime("worker-housekeeping", 0)
    housekeeper = Housekeeper(redis_server.client(), config, runtime)
    with redis_server.client().pipeline(transaction=False) as pipe:
        for number in range(MANY // 10):
            pipe.xadd(f"crowdperf:detections:camera-{number}", {"a": "b"})
        pipe.execute()
    for sweep in range(3):
        housekeeper.sweep(1.8e9 + 15 * sweep, 15.0 * sweep)
    assert largest([housekeeper, runtime.metrics], config)[0] < 100


class Taken:
    """An endpoint that takes everything."""

    def send(self, notification: Notification, now: float) -> None:
        pass

    def poll(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("most", [0, 600])
def test_delivering_thousands_of_notifications_keeps_a_minute(redis_server: RedisServer, most: int) -> None:
    hook = {"type": "webhook", "id": "hook", "url": "https://hooks.example/x", "max_per_minute": most}
    (channel,) = make_config({"channels": [hook]}).alerts.channels
    client, runtime = redis_server.client(), ProcessRuntime("worker-notify-0", 0)
    delivery = ChannelDelivery(channel, DeliveryQueue(client, "hook"), Taken(), runtime.metrics)
    doc = AlertDoc(
        id="", rule="r", severity="info", camera="plaza", subject="", title="t", detail="", event="e", raised_at=0.0,
        last_at=0.0, count=1,
    )  # fmt: skip
    for number in range(MANY // 5):
        alert = msgspec.structs.replace(doc, id=f"a{number}")
        one = Notification(id=alert.id, channel="hook", due=0.0, stage=0, alert=alert, site="s", camera_title="c")
        stage_item(client, "hook", one.id, msgspec.json.encode(one), 0.0)
        delivery.step(number / 10)
    assert runtime.metrics.get_counter("notifications_sent", "hook") > MANY // 10
    assert largest(delivery, channel)[0] <= 601


async def until(condition: Callable[[], object]) -> None:
    """As `wait_until`, on the loop."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_web_process_keeps_nothing_of_people_and_viewers(redis_server: RedisServer, tmp_path: Path) -> None:
    config = build_web_config(Deployment(site_config(redis_server.url, 8080), Paths(tmp_path)))

    async def busy(context: AppState) -> None:
        feed = asyncio.create_task(run_until_cancelled(context.feed))
        viewers = [Viewer() for _ in range(MANY // 10)]
        for viewer in viewers:
            for camera in context.tiles.views:
                context.tiles.join(camera, viewer)
        listeners = [context.broadcast.subscribe() for _ in range(50)]
        for part in range(10):
            # The listeners never read, as browsers that have fallen asleep.
            publish(redis_server, passers(3, MANY // 30))
            show(part)
            await asyncio.sleep(0)
        newest = redis_server.client().xrevrange(stream_key(EVENTS), count=1)[0][0]
        await until(lambda: context.feed._last_event == newest)
        assert len(context.broadcast) == 50
        assert largest(context, config)[0] <= MANY
        for listener in listeners:
            assert len(listener._queue) == MAX_QUEUED_MESSAGES
            context.broadcast.unsubscribe(listener)
        for viewer in viewers:
            for camera in context.tiles.views:
                context.tiles.leave(camera, viewer)
        await until(lambda: not context.feed.frames)
        feed.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feed

    def show(part: int) -> None:
        client: Any = redis_server.client()
        for camera in ("plaza", "lobby"):
            frame = TrackedFrame(
                camera=camera, epoch=1, sequence=part, captured_at_ns=time.time_ns(), tracks=b"", boxes=b"", classes=b""
            )  # fmt: skip
            client.xadd(stream_key(TRACKS, camera), codec.encode(TRACKS, frame))

    async def whole() -> None:
        context = AppState(config, Metrics())
        await busy(context)
        context.publish_metrics()
        # Today's ids have a bound of their own (`test_bounds`).
        size, path = largest(context, config, context.feed._today._event_ids)
        assert size < 60, path
        await context.close()

    asyncio.run(whole())
