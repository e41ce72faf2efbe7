"""One tracking shard between Redis and its cameras' pipelines: read, step, commit.

Exactly once: what a camera's frames changed (its state), what they caused (events) and how far they were read go to
Redis in ONE MULTI. After a kill, or a connection lost while the outcome of a commit was unknown, the shard forgets what
it holds in memory and begins at the stored state; the frames after it come again and give the same events.

A frame without an event need not be stored at once: a camera is committed with every event, else once a second, which
keeps the append-only file small. For the same reason the shard reads by position (XREAD) and moves its group by XGROUP
SETID inside the commit, so that other parts see what is acknowledged: XREADGROUP would write a line per entry and keep
a list of pending ones, and would count frames that merely wait for the next commit as poison after a few kills.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import redis
from msgspec import Struct

from crowdperf.counting.validation import find_problems
from crowdperf.messaging import codec
from crowdperf.messaging.bus import Publisher
from crowdperf.messaging.redis.client import BLOCK_MS
from crowdperf.messaging.schema import Event, FrameDetections, LineCrossed, PpeObserved, TrackedFrame
from crowdperf.messaging.streams import DETECTIONS, EVENTS, OBSERVATIONS, TRACKS, stream_key
from crowdperf.runtime.metrics import Metrics, RecentValues
from crowdperf.settings.engine import Tracking
from crowdperf.settings.process_config import TrackedCamera, TrackingConfig
from crowdperf.storage import density
from crowdperf.tracking.pipeline import CameraPipeline, MalformedFrameError

GROUP = "tracking"
COMMIT_INTERVAL_S = 1.0
"""Longest time that a camera's progress stays in memory only."""
QUIET_AFTER_S = 5.0
"""A camera without a frame for this long is asked whether its stream was made anew with smaller ids."""
BATCH_SIZE = 64
LAG_REPORT_INTERVAL_S = 2.0
MAX_LIVE_FRAMES = 4
"""Live boxes published per camera and turn: a shard that catches up does not flood the browsers."""
STREAM_START = b"0-0"

log = logging.getLogger(__name__)


class TrackingCheckpoint(Struct, frozen=True, array_like=True):
    """What is stored per camera."""

    position: bytes
    """Stream id of the newest frame that `pipeline` has seen."""
    pipeline: bytes


class _ShardCamera:
    """A camera's pipeline and what is not committed yet."""

    def __init__(self, pipeline: CameraPipeline, name: str, now: float) -> None:
        self.pipeline = pipeline
        self.stream = name
        self.position = STREAM_START
        self.events: list[Event] = []
        self.dead_letters: list[dict[Any, Any]] = []
        self.live_frames: list[TrackedFrame] = []
        self.dirty = False
        self.committed_at = self.last_entry_at = now

    def needs_commit(self, now: float) -> bool:
        """Whether it has to be committed now."""
        return self.dirty and (bool(self.events or self.dead_letters) or now - self.committed_at >= COMMIT_INTERVAL_S)


def state_key(camera: str, prefix: str = "") -> str:
    """Where a camera's checkpoint is kept."""
    return f"{prefix}crowdperf:state:{GROUP}:{camera}"


def create_pipeline(camera: TrackedCamera, settings: Tracking) -> CameraPipeline:
    """A camera's pipeline at its beginning."""
    return CameraPipeline(camera.camera_id, settings, camera.lines, camera.zones, camera.target_fps)


class TrackingShard:
    """All cameras of one tracking process. `clock` is monotonic, `wall` is Unix time, both in seconds."""

    def __init__(
        self,
        config: TrackingConfig,
        client: redis.Redis,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._config = config
        self._prefix = config.key_prefix
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._events: Publisher[Event] = Publisher(client, EVENTS, self._prefix)
        self._observations: Publisher[Event] = Publisher(client, OBSERVATIONS, self._prefix)
        self._tracks: Publisher[TrackedFrame] = Publisher(client, TRACKS, self._prefix)
        self._cameras: dict[str, _ShardCamera] = {}
        self._lags = {"tracking_lag": RecentValues(), "crossing_lag": RecentValues()}
        """Milliseconds from a picture to its tracks, and to its crossings in the stream of events."""
        self._lags_at = clock()
        for camera in config.cameras:
            for shape, problem in find_problems(camera.lines, camera.zones, camera.target_fps):
                log.warning("camera %s: %s", camera.camera_id, problem)
                metrics.set_text("line_problem", problem, f"{camera.camera_id}/{shape}")

    def start(self) -> None:
        """Begin at the stored states. Call it at start-up and after every outage."""
        now = self._clock()
        self._cameras = {}
        for camera in self._config.cameras:
            name = stream_key(DETECTIONS, camera.camera_id, self._prefix)
            self._create_group(name)
            self._cameras[name] = self._restore_camera(camera, name, now)

    def _create_group(self, name: str) -> None:
        try:
            self._client.xgroup_create(name, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _restore_camera(self, camera: TrackedCamera, name: str, now: float) -> _ShardCamera:
        """The camera at its stored state; without a usable one, behind what was acknowledged, which was counted."""
        own = _ShardCamera(create_pipeline(camera, self._config.settings), name, now)
        stored, position = (
            self._client.get(state_key(camera.camera_id, self._prefix)),
            self._get_committed_position(name),
        )
        if stored is None and position == STREAM_START:
            return own
        why = "is missing"
        if stored is not None:
            try:
                checkpoint = msgspec.msgpack.decode(stored, type=TrackingCheckpoint)
                _parse_entry_id(checkpoint.position)
                position = checkpoint.position
                own.pipeline.restore(checkpoint.pipeline)
                own.position = position
                return own
            except (msgspec.MsgspecError, ValueError) as error:
                why = f"is not usable: {error}"
        log.warning(
            "camera %s begins anew after frame %s: the stored state %s", camera.camera_id, position.decode(), why
        )
        # A new one: what could be restored of the state may be in the first.
        own = _ShardCamera(create_pipeline(camera, self._config.settings), name, now)
        own.position = position
        if position != STREAM_START:
            own.pipeline.resume(*_parse_entry_id(position), self._find_captured_at_ns(name, position))
        return own

    def _get_committed_position(self, name: str) -> bytes:
        """The newest frame whose effects are stored."""
        groups = self._client.xinfo_groups(name)
        return bytes(next(row["last-delivered-id"] for row in groups if row["name"] == GROUP.encode()))

    def _find_captured_at_ns(self, name: str, position: bytes) -> int:
        """When this frame was captured; 0 where its message is gone, or is none."""
        entries = self._client.xrange(name, position, position)
        try:
            return int(codec.decode(DETECTIONS, entries[0][1]).captured_at_ns) if entries else 0
        except codec.PoisonError:
            return 0

    def step(self, block_ms: int = BLOCK_MS) -> None:
        """Take what has come, commit what is due, show the live boxes.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next turn.
        """
        if not self._cameras:
            return
        positions = {name: camera.position for name, camera in self._cameras.items()}
        reply = self._client.xread(positions, count=BATCH_SIZE, block=block_ms)
        rows = reply.items() if isinstance(reply, dict) else reply or []
        for name, entries in rows:
            own = self._cameras[name.decode()]
            # RESP3 wraps each stream's entries in one more list.
            self._process_entries(own, entries[0] if entries and isinstance(entries[0], list) else entries)
        now = self._clock()
        self._commit([camera for camera in self._cameras.values() if camera.needs_commit(now)], now)
        self._publish_live()
        if now - self._lags_at >= LAG_REPORT_INTERVAL_S:
            self._lags_at = now
            for what, lags in self._lags.items():
                lags.report(self._metrics, what, "ms")
        for camera in self._cameras.values():
            if now - camera.last_entry_at > QUIET_AFTER_S:
                self._check_position(camera, now)

    def flush(self) -> None:
        """Commit everything: the orderly end."""
        self._commit([camera for camera in self._cameras.values() if camera.dirty], self._clock())

    def _process_entries(self, shard_camera: _ShardCamera, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        camera = shard_camera.pipeline.camera
        frame: FrameDetections | None = None
        for entry_id, fields in entries:
            shard_camera.position, shard_camera.dirty = entry_id, True
            try:
                frame = codec.decode(DETECTIONS, fields)
                live, events = shard_camera.pipeline.step(frame)
            except (codec.PoisonError, MalformedFrameError) as error:
                log.error("camera %s: a message cannot be used: %s", camera, error)
                shard_camera.dead_letters.append(
                    {**fields, b"_why": str(error), b"_id": entry_id, b"_from": shard_camera.stream}
                )
                continue
            shard_camera.events += events
            if live is not None:
                shard_camera.live_frames.append(live)
            self._lags["tracking_lag"].add((self._wall() - frame.captured_at_ns / 1e9) * 1000)
        self._metrics.count("frames_tracked", len(entries), camera)
        self._metrics.set_gauge("tracks_active", len(shard_camera.pipeline), camera)
        for zone, inside in shard_camera.pipeline.get_occupancy().items():
            self._metrics.set_gauge("zone_occupancy", inside, f"{camera}/{zone}")
        for zone, queue in shard_camera.pipeline.get_queues().items():
            self._metrics.set_gauge("queue_length", queue.length, f"{camera}/{zone}")
            self._metrics.set_gauge("queue_longest_wait_s", queue.longest_s, f"{camera}/{zone}")
        if frame is not None:
            self._metrics.set_gauge("tracking_lag_s", self._wall() - frame.captured_at_ns / 1e9, camera)
        shard_camera.last_entry_at = self._clock()

    def _commit(self, cameras: list[_ShardCamera], now: float) -> None:
        """State, events, dead letters and position of these cameras, all or nothing."""
        if not cameras:
            return
        with self._client.pipeline(transaction=True) as pipe:
            for own in cameras:
                for event in own.events:
                    to = self._observations if isinstance(event, PpeObserved) else self._events
                    to.stage(pipe, event)
                for fields in own.dead_letters:
                    dead = f"{self._prefix}crowdperf:dead:{DETECTIONS.name}:{GROUP}"
                    pipe.xadd(dead, fields, maxlen=10_000, approximate=True)
                for minute in own.pipeline.take_density():
                    density.stage(
                        pipe, own.pipeline.camera, minute.hour, minute.cells, self._config.density_days, self._prefix
                    )
                checkpoint = TrackingCheckpoint(own.position, own.pipeline.dump_state())
                pipe.set(state_key(own.pipeline.camera, self._prefix), msgspec.msgpack.encode(checkpoint))
            for own in cameras:
                pipe.xgroup_setid(own.stream, GROUP, own.position)
            replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                # A stream that was deleted took its group along; everything else in the transaction is stored.
                if "NOGROUP" not in str(reply) and "requires the key" not in str(reply):
                    raise reply
                for own in cameras:
                    self._create_group(own.stream)
        for own in cameras:
            crossings = [event for event in own.events if isinstance(event, LineCrossed)]
            if crossings:
                self._metrics.count("crossings_total", len(crossings), own.pipeline.camera)
            for event in crossings:
                self._lags["crossing_lag"].add((self._wall() - event.ts) * 1000)
            if own.dead_letters:
                self._metrics.count("dead_letters", len(own.dead_letters), own.pipeline.camera)
            own.events, own.dead_letters, own.dirty, own.committed_at = [], [], False, now

    def _publish_live(self) -> None:
        shown = [own for own in self._cameras.values() if own.live_frames]
        if not shown:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for own in shown:
                for frame in own.live_frames[-MAX_LIVE_FRAMES:]:
                    self._tracks.stage(pipe, frame, own.pipeline.camera)
                own.live_frames.clear()
            pipe.execute()

    def _check_position(self, shard_camera: _ShardCamera, now: float) -> None:
        """Go back to the stream's beginning when it was made anew with smaller ids (the machine's clock went back)."""
        shard_camera.last_entry_at = now
        try:
            newest = self._client.xinfo_stream(shard_camera.stream)["last-generated-id"]
        except redis.ResponseError as error:
            if "no such key" not in str(error):
                raise
            newest = STREAM_START
            self._create_group(shard_camera.stream)
        if _parse_entry_id(newest) < _parse_entry_id(shard_camera.position):
            log.warning("camera %s: its stream begins anew at a lower id", shard_camera.pipeline.camera)
            shard_camera.position = STREAM_START
            shard_camera.pipeline.rewind()
            shard_camera.dirty = True


def _parse_entry_id(entry_id: bytes) -> tuple[int, int]:
    epoch, _, sequence = entry_id.partition(b"-")
    return int(epoch), int(sequence or 0)
