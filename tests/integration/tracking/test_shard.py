"""A tracking shard against a real Redis: killed at any moment, every event is there exactly once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis.asyncio

from crowdperf.messaging import codec
from crowdperf.messaging.outbox import Outbox
from crowdperf.messaging.schema import CameraGap, Event, FrameDetections, LineCrossed, ZoneChanged, ZoneMinute
from crowdperf.messaging.streams import DETECTIONS, EVENTS, TRACKS, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Tracking
from crowdperf.settings.process_config import TrackedCamera, TrackingConfig
from crowdperf.storage import density
from crowdperf.tracking.pipeline import CameraPipeline
from crowdperf.tracking.shard import GROUP, QUIET_AFTER_S, TrackingShard, state_key
from crowdperf.workers import housekeeping
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.sequences import LINE, detections, standing

ZONE = Zone(id="hall", polygon=[[0.4, 0.1], [0.6, 0.1], [0.6, 0.9], [0.4, 0.9]])
CAMERAS = ("lobby", "gate")


def make_config(server: RedisServer, lines: tuple[Line, ...] = (LINE,)) -> TrackingConfig:
    cameras = tuple(TrackedCamera(camera_id=name, lines=lines, zones=(ZONE,), target_fps=10.0) for name in CAMERAS)
    return TrackingConfig(
        shard=0, settings=Tracking(), cameras=cameras, redis_url=server.url, key_prefix="", density_days=3650
    )


def frames_of(camera: str, count: int) -> list[FrameDetections]:
    """People who walk over the line to and fro, in different rhythms; twice the stream is lost for a while."""
    shift = 7 * CAMERAS.index(camera)
    found = []
    for number in range(1, count + 1):
        boxes = []
        for person, (period, y) in enumerate(((31, 0.3), (43, 0.6), (57, 0.85))):
            phase = (number + shift + 5 * person) % (2 * period)
            boxes.append(standing(0.3 + 0.4 * abs(phase - period) / period, y))
        late = 2.0 * (number > count // 3) + 5.0 * (number > count // 2)
        frame = detections(number, boxes, at_s=number / 10 + late, epoch=1 + (number > count // 2))
        found.append(msgspec.structs.replace(frame, camera=camera))
    return found


def expected(camera: str, frames: list[FrameDetections]) -> list[Event]:
    """What an uninterrupted run gives."""
    pipeline = CameraPipeline(camera, Tracking(), (LINE,), (ZONE,), 10.0)
    return [event for frame in frames for event in pipeline.step(frame)[1]]


def seconds(camera: str, frames: list[FrameDetections]) -> int:
    """Whole seconds in the density grid of an uninterrupted run, of the minutes that are over."""
    pipeline = CameraPipeline(camera, Tracking(), (LINE,), (ZONE,), 10.0)
    for frame in frames:
        pipeline.step(frame)
    return sum(sum(minute.cells.values()) for minute in pipeline.take_density())


def gathered(server: RedisServer, camera: str) -> int:
    """The same of what is stored."""

    async def read() -> list[list[int]]:
        async with redis.asyncio.from_url(server.url) as client:
            return await density.read(client, camera, 1_699_999_200, 1_700_010_000)

    return sum(map(sum, asyncio.run(read())))


def publish(server: RedisServer, frames: list[FrameDetections]) -> None:
    outbox = Outbox(server.client())
    for frame in frames:
        outbox.put(frame)
    while len(outbox):
        assert outbox.flush(0.0)


def stored(server: RedisServer, camera: str) -> list[Event]:
    rows: Any = server.client().xrange(stream_key(EVENTS))
    return [event for _, fields in rows if (event := codec.decode(EVENTS, fields)).camera == camera]


def shown(server: RedisServer, camera: str) -> tuple[int, int]:
    """(epoch, sequence) of the newest live boxes: progress that may not be committed yet."""
    rows: Any = server.client().xrevrange(stream_key(TRACKS, camera), count=1)
    if not rows:
        return 0, 0
    frame = codec.decode(TRACKS, rows[0][1])
    return frame.epoch, frame.sequence


def acknowledged(server: RedisServer, camera: str) -> bytes:
    groups: Any = server.client().xinfo_groups(stream_key(DETECTIONS, camera))
    assert groups[0]["pending"] == 0
    return bytes(groups[0]["last-delivered-id"])


class Process:
    """The shard's process."""

    def __init__(self, config: TrackingConfig) -> None:
        self._parse_command = [sys.executable, "-m", "tests.support.shard_main", msgspec.json.encode(config).decode()]
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen(self._parse_command, cwd=ROOT)

    def kill(self) -> None:
        """kill -9."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self._child is not None
        self._child.terminate()
        return self._child.wait(60)


@pytest.fixture
def process(redis_server: RedisServer) -> Iterator[Process]:
    made = Process(make_config(redis_server))
    yield made
    made.kill()


def play_with_kills(server: RedisServer, process: Process, frames: list[FrameDetections], forget: bool = False) -> None:
    """Publish in uneven parts; once a part's last frame was tracked (and perhaps not committed), kill the process."""
    sizes, position = [23, 9, 41, 17, 70, 5, 33, 12], 0
    while position < len(frames):
        part = frames[position : position + sizes[0]]
        sizes.append(sizes.pop(0))
        position += len(part)
        publish(server, part)
        process.start()
        newest = (part[-1].epoch, part[-1].sequence)
        wait_until(lambda newest=newest: shown(server, "lobby") >= newest, what=f"frame {newest}")  # type: ignore[misc]
        process.kill()
        if forget:
            server.client().delete(state_key("lobby"))
            server.client().xgroup_setid(stream_key(DETECTIONS, "lobby"), GROUP, 0)
        housekeeping.trim_stream(server.client(), stream_key(DETECTIONS, "lobby"), ("tracking",), keep_after=None)


def test_killed_again_and_again_every_event_is_stored_once(redis_server: RedisServer, process: Process) -> None:
    frames = frames_of("lobby", 400)
    play_with_kills(redis_server, process, frames)
    process.start()
    wait_until(lambda: acknowledged(redis_server, "lobby") == b"2-400", what="the last commit")
    whole = expected("lobby", frames)
    assert {type(event) for event in whole} == {LineCrossed, ZoneChanged, ZoneMinute, CameraGap}
    assert len(whole) > 60
    # Exactly once without any help by a reader, so by id as well.
    assert stored(redis_server, "lobby") == whole
    assert gathered(redis_server, "lobby") == seconds("lobby", frames) > 50


def test_without_the_checkpoint_events_are_stored_again(redis_server: RedisServer, process: Process) -> None:
    """The control of the test above: the same kills, with the stored state and the group's position taken away."""
    frames = frames_of("lobby", 120)
    play_with_kills(redis_server, process, frames, forget=True)
    ids = [event.id for event in stored(redis_server, "lobby")]
    assert len(ids) > len(set(ids))


def test_a_redis_outage_loses_and_doubles_nothing(redis_server: RedisServer, process: Process) -> None:
    frames = frames_of("lobby", 300)
    process.start()
    for part in (frames[:90], frames[90:95], frames[95:230], frames[230:]):
        publish(redis_server, part)
        newest = (part[-1].epoch, part[-1].sequence)
        wait_until(lambda newest=newest: shown(redis_server, "lobby") >= newest, what=f"frame {newest}")  # type: ignore[misc]
        redis_server.kill()
        redis_server.start()
    wait_until(lambda: acknowledged(redis_server, "lobby") == b"2-300", what="the last commit")
    assert stored(redis_server, "lobby") == expected("lobby", frames)


def test_a_clean_stop_stores_the_last_frames(redis_server: RedisServer, process: Process) -> None:
    quiet = [detections(number, []) for number in range(1, 8)]
    publish(redis_server, quiet)
    process.start()
    wait_until(lambda: shown(redis_server, "lobby") == (1, 7), what="frame 7")
    assert process.stop() == 0
    assert acknowledged(redis_server, "lobby") == b"1-7"


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shard(server: RedisServer, clock: Clock, metrics: Metrics, lines: tuple[Line, ...] = (LINE,)) -> TrackingShard:
    made = TrackingShard(make_config(server, lines), server.client(), metrics, clock, lambda: 1_700_000_100.0)
    made.start()
    return made


def test_frames_without_an_event_are_committed_once_a_second(redis_server: RedisServer) -> None:
    clock = Clock()
    made = shard(redis_server, clock, Metrics())
    publish(redis_server, [detections(1, [])])
    made.step(10)
    assert redis_server.client().get(state_key("lobby")) is None
    clock.now = 1.1
    made.step(10)
    assert redis_server.client().get(state_key("lobby")) is not None
    assert acknowledged(redis_server, "lobby") == b"1-1"


def test_several_cameras_do_not_mix(redis_server: RedisServer) -> None:
    metrics = Metrics()
    made = shard(redis_server, Clock(), metrics)
    both = {camera: frames_of(camera, 150) for camera in CAMERAS}
    for camera in CAMERAS:
        publish(redis_server, both[camera])
    while metrics.get_counter("frames_tracked", "lobby") + metrics.get_counter("frames_tracked", "gate") < 300:
        made.step(10)
    for camera in CAMERAS:
        assert stored(redis_server, camera) == expected(camera, both[camera])
        crossings = sum(isinstance(event, LineCrossed) for event in stored(redis_server, camera))
        assert metrics.get_counter("crossings_total", camera) == crossings > 0


def test_a_message_that_cannot_be_used_goes_to_the_dead_letters(redis_server: RedisServer) -> None:
    metrics = Metrics()
    made = shard(redis_server, Clock(), metrics)
    client = redis_server.client()
    client.xadd(stream_key(DETECTIONS, "lobby"), {"d": b"\xff"}, id="1-1")
    bad = msgspec.structs.replace(detections(2, [standing(0.5, 0.5)]), scores=b"")
    client.xadd(stream_key(DETECTIONS, "lobby"), codec.encode(DETECTIONS, bad), id="1-2")
    publish(redis_server, [detections(3, [])])
    made.step(10)
    dead: Any = client.xrange("crowdperf:dead:detections:tracking")
    assert [fields[b"_id"] for _, fields in dead] == [b"1-1", b"1-2"]
    assert b"16 bytes of boxes" in dead[1][1][b"_why"]
    assert metrics.get_counter("dead_letters", "lobby") == 2
    assert acknowledged(redis_server, "lobby") == b"1-3"


@pytest.mark.parametrize("damage", [b"\xc1", msgspec.msgpack.encode([b"1-1", msgspec.msgpack.encode([99])])])
def test_unusable_state_without_a_frame_starts_again(
    redis_server: RedisServer, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.client().set(state_key("lobby"), damage)
    made = shard(redis_server, Clock(), Metrics())
    assert "lobby" in caplog.text
    frames = frames_of("lobby", 60)
    publish(redis_server, frames)
    made.step(10)
    assert any(isinstance(event, LineCrossed) for event in stored(redis_server, "lobby"))


def other_version(state: bytes) -> bytes:
    """A state as another version would leave it behind."""
    checkpoint: Any = msgspec.msgpack.decode(state)
    pipeline: Any = msgspec.msgpack.decode(checkpoint[1])
    return msgspec.msgpack.encode([checkpoint[0], msgspec.msgpack.encode([99, *pipeline[1:]])])


def half_damaged(state: bytes) -> bytes:
    """A state whose tracker can be restored in part only."""
    checkpoint: Any = msgspec.msgpack.decode(state)
    pipeline: Any = msgspec.msgpack.decode(checkpoint[1])
    tracker: Any = msgspec.msgpack.decode(pipeline[6])
    tracker[5] = b"short"
    pipeline[6] = msgspec.msgpack.encode(tracker)
    return msgspec.msgpack.encode([checkpoint[0], msgspec.msgpack.encode(pipeline)])


@pytest.mark.parametrize(
    "damage",
    [
        other_version,
        half_damaged,
        lambda state: b"\xc1",
        lambda state: msgspec.msgpack.encode([b"no id", msgspec.msgpack.decode(state)[1]]),
        lambda state: None,
    ],
    ids=["other version", "half damaged", "no checkpoint", "no position", "missing"],
)
def test_an_unusable_state_counts_nothing_twice(
    redis_server: RedisServer, damage: Callable[[bytes], bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    """What was acknowledged is still in the stream (trimming is approximate), and must not be counted again."""
    frames = frames_of("lobby", 100)
    publish(redis_server, frames[:64])
    made = shard(redis_server, Clock(), Metrics())
    made.step(10)
    made.flush()
    before = stored(redis_server, "lobby")
    client = redis_server.client()
    broken = damage(bytes(client.get(state_key("lobby"))))  # type: ignore[arg-type]
    if broken is None:
        client.delete(state_key("lobby"))
    else:
        client.set(state_key("lobby"), broken)
    after = shard(redis_server, Clock(), Metrics())
    assert "camera lobby begins anew after frame 2-64: " in caplog.text
    publish(redis_server, frames[64:])
    after.step(10)
    after.step(10)
    after.flush()
    events = stored(redis_server, "lobby")
    assert events[: len(before)] == before
    assert sum(isinstance(event, LineCrossed) for event in before) > 3
    new = [event for event in events[len(before) :] if isinstance(event, LineCrossed)]
    assert new
    assert all((event.epoch, event.sequence) > (2, 64) for event in new)
    lost = [event for event in events if isinstance(event, CameraGap) and event.cause == "state lost"]
    (gap,) = lost
    assert gap.start < frames[63].captured_at_ns / 1e9 < frames[64].captured_at_ns / 1e9 < gap.end
    # Every other crossing lies in that gap.
    true = {event.id: event for event in expected("lobby", frames) if isinstance(event, LineCrossed)}
    missed = [event for name, event in true.items() if name not in {row.id for row in events}]
    assert all(gap.start <= event.ts <= gap.end for event in missed)


def test_a_changed_line_begins_anew_and_the_rest_goes_on(redis_server: RedisServer) -> None:
    frames = frames_of("lobby", 130)
    publish(redis_server, frames[:64])
    made = shard(redis_server, Clock(), Metrics())
    made.step(10)
    made.flush()
    moved = Line(id="door", p1=[0.55, 0.1], p2=[0.55, 0.9])
    after = shard(redis_server, Clock(), Metrics(), (moved,))
    publish(redis_server, frames[64:])
    after.step(10)
    after.step(10)
    events = stored(redis_server, "lobby")
    zones = [event for event in events if isinstance(event, ZoneChanged)]
    assert zones == [event for event in expected("lobby", frames) if isinstance(event, ZoneChanged)]
    assert len({event.id for event in events}) == len(events)


def test_a_stream_that_begins_anew_at_lower_ids_is_followed(redis_server: RedisServer) -> None:
    """The machine's clock went back, so that the new ring's epoch is lower: the outbox empties the stream."""
    clock = Clock()
    metrics = Metrics()
    made = shard(redis_server, clock, metrics)
    publish(redis_server, [detections(number, [], epoch=9) for number in range(1, 5)])
    made.step(10)
    publish(redis_server, [detections(number, [], epoch=3) for number in range(1, 4)])
    made.step(10)
    clock.now = QUIET_AFTER_S + 1
    made.step(10)
    made.step(10)
    made.flush()
    assert metrics.get_counter("frames_tracked", "lobby") == 7
    assert acknowledged(redis_server, "lobby") == b"3-3"


def test_an_emptied_redis_gets_its_groups_again(redis_server: RedisServer) -> None:
    clock = Clock()
    made = shard(redis_server, clock, Metrics())
    publish(redis_server, [detections(1, [])])
    made.step(10)
    redis_server.client().flushall()
    clock.now = 2.0
    made.step(10)
    publish(redis_server, [detections(2, [])])
    made.step(10)
    made.flush()
    assert acknowledged(redis_server, "lobby") == b"1-2"


def test_an_idle_shard_creates_a_lost_group_at_once(redis_server: RedisServer) -> None:
    client = redis_server.client()
    made = shard(redis_server, Clock(), Metrics())
    keys = [stream_key(DETECTIONS, camera) for camera in CAMERAS]
    client.xgroup_destroy(keys[0], GROUP)
    client.delete(keys[1])
    made.step(10)
    assert [[row["name"] for row in client.xinfo_groups(key)] for key in keys] == [[GROUP.encode()]] * 2


def test_a_line_that_cannot_count_is_reported(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    edge = Line(id="edge", p1=[0.0, 0.01], p2=[1.0, 0.01])
    metrics = Metrics()
    shard(redis_server, Clock(), metrics, (edge,))
    assert "'edge' can never count" in caplog.text
    assert "lobby/edge" in metrics.snapshot("tracking-0", 0.0).texts["line_problem"]
