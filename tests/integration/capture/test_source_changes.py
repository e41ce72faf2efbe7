"""Every change of a camera's connection is published: on the camera's stream, a new state also on the site's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdperf.capture.state_publisher import MAX_QUEUED_EVENTS, StatePublisher
from crowdperf.messaging import codec
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import CameraChanged
from crowdperf.messaging.streams import CONNECTIONS, EVENTS, Stream, stream_key
from crowdperf.runtime.metrics import Metrics
from tests.conftest import RedisServer, wait_until
from tests.support.capturing import Camera, make_clip
from tests.support.ports import free_port
from tests.support.rtsp_server import Mount, RtspServer


def change(number: int, camera: str = "cam") -> CameraChanged:
    state: Any = ("connecting", "backing_off")[number % 2]
    return CameraChanged(id=f"{camera}:state:{number}:{state}", camera=camera, ts=float(number), state=state)


def stored(client: Any, stream: Stream, camera: str = "cam") -> list[str]:
    rows = client.xrange(stream_key(stream, camera))
    return [codec.decode(stream, fields).id for _, fields in rows]


@pytest.fixture
def publisher(redis_server: RedisServer) -> Iterator[StatePublisher]:
    made = StatePublisher(redis_server.url, "", Metrics())
    yield made
    made.close()


@pytest.mark.parametrize("backend", ["ffmpeg", "pyav"])
def test_retries_of_a_down_camera_are_changes_but_no_events(tmp_path: Path, backend: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    port = free_port()
    cam = Camera(f"rtsp://127.0.0.1:{port}/a", tmp_path, backend=backend)
    cam.run_until(lambda: cam.counter("ffmpeg_restarts_total") >= 3)
    with RtspServer({"a": Mount(clip, 10, loop=True)}, port):
        cam.run_until(lambda: "live" in cam.states())
    cam.tail.close()
    cam.capture.close()
    *retries, live, stopped = [(change.state, change.failures) for change in cam.changes]
    tried = len(retries) // 2
    assert retries == [row for n in range(tried) for row in (("connecting", n), ("backing_off", n + 1))] + [
        ("connecting", tried)
    ]
    assert tried >= 3
    assert (live, stopped) == (("live", tried), ("stopped", tried))
    assert [(event.state, event.failures) for event in cam.events] == [retries[0], retries[1], live, stopped]
    assert len({change.id for change in cam.changes}) == len(cam.changes)


def test_only_new_states_reach_the_event_stream(publisher: StatePublisher, redis_server: RedisServer) -> None:
    for number in range(6):
        publisher.publish(change(number), number < 2)
    client = redis_server.client()
    every = [change(number).id for number in range(6)]
    wait_until(lambda: stored(client, CONNECTIONS) == every, what="every change")
    assert stored(client, EVENTS) == every[:2]


def test_retries_push_out_no_site_event_while_redis_is_down(redis_server: RedisServer) -> None:
    redis_server.kill()
    publisher = StatePublisher(redis_server.url, "", Metrics())
    for number in range(3 * MAX_QUEUED_EVENTS):
        publisher.publish(change(number), number < 2)
    redis_server.start()
    client = redis_server.client()
    last = change(3 * MAX_QUEUED_EVENTS - 1).id
    wait_until(lambda: stored(client, CONNECTIONS)[-1:] == [last], what="the newest retry")
    publisher.close()
    assert list(dict.fromkeys(stored(client, EVENTS))) == [change(0).id, change(1).id]
    assert len(dict.fromkeys(stored(client, CONNECTIONS))) == MAX_QUEUED_EVENTS


def test_a_day_of_retries_of_many_cameras_takes_bounded_room(redis_server: RedisServer) -> None:
    client = redis_server.client()
    publisher: Publisher[CameraChanged] = Publisher(client, CONNECTIONS)
    for camera in ("one", "two"):
        with client.pipeline(transaction=False) as pipe:
            for number in range(16 * 60 * 24):
                publisher.stage(pipe, change(number, camera), camera)
            pipe.execute()
        assert CONNECTIONS.max_entries <= client.xlen(stream_key(CONNECTIONS, camera)) < CONNECTIONS.max_entries + 200
        assert stored(client, CONNECTIONS, camera)[-1] == change(16 * 60 * 24 - 1, camera).id
    assert not client.exists(stream_key(EVENTS))
