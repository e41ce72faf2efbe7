"""Run one tracking shard between Redis and its cameras' pipelines: read, step, commit.

Exactly once: a camera's state, its events and the position of its newest frame go to Redis in ONE MULTI. After a kill,
or a lost connection with an unknown outcome of a commit, the shard drops its memory and begins at the stored state. The
frames after it come again and give the same events.

A frame without an event need not be stored at once. A camera is committed with every event, else once a second, which
keeps the append-only file small. For the same reason the shard reads by position: XREADGROUP would write a line per
entry, and would count frames that wait for the next commit as poison after a few kills.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import groupby

import msgspec
import redis
from msgspec import Struct

from crowdperf.counting.validation import find_problems
from crowdperf.messaging import codec
from crowdperf.messaging.consumer import STREAM_START, PositionConsumer, RawEntry, is_stream_lost, parse_entry_id
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import BLOCK_MS, AnyClient
from crowdperf.messaging.schema import Event, FrameDetections, LineCrossed, PpeObserved, TrackedFrame
from crowdperf.messaging.streams import DETECTIONS, EVENTS, OBSERVATIONS, TRACKS, stream_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.engine import Tracking
from crowdperf.settings.process_config import TrackedCamera, TrackingConfig
from crowdperf.storage import density
from crowdperf.tracking.pipeline import CameraPipeline
from crowdperf.tracking.ppe_observations import MalformedFrameError

GROUP = "tracking"
COMMIT_INTERVAL_S = 1.0
"""Longest time that a camera's progress stays in memory only."""
QUIET_AFTER_S = 5.0
"""Time without a frame after which a stream is checked for smaller ids."""
BATCH_SIZE = 64
MAX_LIVE_FRAMES = 4
"""Live boxes published per camera and step: a shard that catches up does not flood the browsers."""

log = logging.getLogger(__name__)


class TrackingCheckpoint(Struct, frozen=True, array_like=True):
    """Stored state of a camera."""

    position: bytes
    """Stream id of the newest frame that `pipeline` has seen."""
    pipeline: bytes


class _ShardCamera:
    """A camera's pipeline with its uncommitted results."""

    def __init__(self, pipeline: CameraPipeline, key: str, now: float) -> None:
        self.pipeline = pipeline
        self.key = key
        self.events: list[Event] = []
        self.live_frames: list[TrackedFrame] = []
        self.dirty = False
        self.committed_at = self.last_entry_at = now


def state_key(camera: str, prefix: str = "") -> str:
    """Build the key of a camera's checkpoint."""
    return f"{prefix}crowdperf:state:{GROUP}:{camera}"


def create_pipeline(camera: TrackedCamera, settings: Tracking) -> CameraPipeline:
    """Create a camera's pipeline in its first state."""
    return CameraPipeline(camera.camera_id, settings, camera.lines, camera.zones, camera.target_fps)


class TrackingShard:
    """All cameras of one tracking process.

    Args:
        config: the process's configuration.
        client: a redis-py client.
        metrics: receives the figures.
        clock: monotonic clock, seconds.
        wall: wall clock, Unix seconds.
    """

    def __init__(
        self,
        config: TrackingConfig,
        client: redis.Redis,
        metrics: Metrics,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._client: AnyClient = client
        self._config = config
        self._prefix = config.key_prefix
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        camera_ids = [camera.camera_id for camera in config.cameras]
        self._consumer: PositionConsumer[FrameDetections] = PositionConsumer(
            client, DETECTIONS, GROUP, camera_ids, self._prefix
        )
        self._events: Publisher[Event] = Publisher(client, EVENTS, self._prefix)
        self._observations: Publisher[Event] = Publisher(client, OBSERVATIONS, self._prefix)
        self._tracks: Publisher[TrackedFrame] = Publisher(client, TRACKS, self._prefix)
        self._cameras: dict[str, _ShardCamera] = {}
        for camera in config.cameras:
            for shape, problem in find_problems(camera.lines, camera.zones, camera.target_fps):
                log.warning("camera %s: %s", camera.camera_id, problem)
                metrics.set_text("line_problem", problem, camera.camera_id, shape)

    def start(self) -> None:
        """Begin at the stored states; call it at start-up and after every outage."""
        self._consumer.start()
        self._cameras = {}
        for camera in self._config.cameras:
            key = stream_key(DETECTIONS, camera.camera_id, self._prefix)
            self._cameras[key] = _ShardCamera(self._restore_pipeline(camera, key), key, self._clock())

    def _restore_pipeline(self, camera: TrackedCamera, key: str) -> CameraPipeline:
        """Restore a camera's state and position; without a usable state, go on after the committed position."""
        pipeline = create_pipeline(camera, self._config.settings)
        stored = self._client.get(state_key(camera.camera_id, self._prefix))
        position = self._consumer.positions[key]
        if stored is None and position == STREAM_START:
            return pipeline
        reason = "is missing"
        if stored is not None:
            try:
                checkpoint = msgspec.msgpack.decode(stored, type=TrackingCheckpoint)
                parse_entry_id(checkpoint.position)
                position = checkpoint.position
                self._consumer.positions[key] = position
                pipeline.restore(checkpoint.pipeline)
                return pipeline
            except (msgspec.MsgspecError, ValueError) as error:
                reason = f"is not usable: {error}"
        log.warning(
            "camera %s begins anew after frame %s: the stored state %s", camera.camera_id, position.decode(), reason
        )
        # A second pipeline, since the first one may hold a part of the state.
        pipeline = create_pipeline(camera, self._config.settings)
        if position != STREAM_START:
            pipeline.resume(*parse_entry_id(position), self._find_captured_at_ns(key, position))
        return pipeline

    def _find_captured_at_ns(self, key: str, position: bytes) -> int:
        """Return when this frame was captured; 0 where its message is gone or malformed."""
        entries = self._client.xrange(key, position, position)
        frame = codec.decode_or_none(DETECTIONS, entries[0][1]) if entries else None
        return frame.captured_at_ns if frame else 0

    def step(self, block_ms: int = BLOCK_MS) -> None:
        """Process the new frames, commit the cameras that need it, publish the live boxes.

        Raises:
            redis.ConnectionError, redis.TimeoutError: call `start` again before the next step.
        """
        if not self._cameras:
            return
        for key, entries in groupby(self._consumer.read(BATCH_SIZE, block_ms), lambda entry: entry.stream):
            self._process_entries(self._cameras[key], list(entries))
        now = self._clock()
        self._commit([camera for camera in self._cameras.values() if self._needs_commit(camera, now)], now)
        self._publish_live()
        for camera in self._cameras.values():
            if now - camera.last_entry_at > QUIET_AFTER_S:
                self._follow_recreated_stream(camera, now)

    def flush(self) -> None:
        """Commit everything at an orderly end."""
        self._commit([camera for camera in self._cameras.values() if camera.dirty], self._clock())

    def _needs_commit(self, camera: _ShardCamera, now: float) -> bool:
        urgent = camera.events or self._consumer.get_rejected_ids(camera.key)
        return camera.dirty and (bool(urgent) or now - camera.committed_at >= COMMIT_INTERVAL_S)

    def _process_entries(self, camera: _ShardCamera, entries: list[RawEntry]) -> None:
        frame: FrameDetections | None = None
        camera.dirty = True
        for entry in entries:
            decoded = self._consumer.decode(entry)
            if decoded is None:
                continue
            frame = decoded
            try:
                live, events = camera.pipeline.step(frame)
            except MalformedFrameError as error:
                self._consumer.reject(entry, str(error))
                continue
            camera.events += events
            if live is not None:
                camera.live_frames.append(live)
            self._metrics.observe("tracking_lag_seconds", self._wall() - frame.captured_at_ns / 1e9)
        camera.last_entry_at = self._clock()
        self._report(camera, len(entries), frame)

    def _report(self, camera: _ShardCamera, frames: int, newest: FrameDetections | None) -> None:
        camera_id = camera.pipeline.camera
        self._metrics.count("frames_tracked", frames, camera_id)
        self._metrics.set_gauge("tracks_active", len(camera.pipeline), camera_id)
        for zone, inside in camera.pipeline.get_occupancy().items():
            self._metrics.set_gauge("zone_occupancy", inside, camera_id, zone)
        for zone, queue in camera.pipeline.get_queues().items():
            self._metrics.set_gauge("queue_length", queue.length, camera_id, zone)
            self._metrics.set_gauge("queue_longest_wait_s", queue.longest_s, camera_id, zone)
        if newest is not None:
            self._metrics.set_gauge("tracking_lag_s", self._wall() - newest.captured_at_ns / 1e9, camera_id)

    def _commit(self, cameras: list[_ShardCamera], now: float) -> None:
        """Store state, events, dead letters and position of these cameras, all or nothing."""
        if not cameras:
            return
        with self._client.pipeline(transaction=True) as pipe:
            for camera in cameras:
                for event in camera.events:
                    publisher = self._observations if isinstance(event, PpeObserved) else self._events
                    publisher.stage(pipe, event)
                camera_id, days = camera.pipeline.camera, self._config.density_days
                for minute in camera.pipeline.take_density():
                    density.stage(pipe, camera_id, minute.hour, minute.cells, days, self._prefix)
                checkpoint = TrackingCheckpoint(self._consumer.positions[camera.key], camera.pipeline.dump_state())
                pipe.set(state_key(camera_id, self._prefix), msgspec.msgpack.encode(checkpoint))
            self._consumer.stage_commit(pipe, {camera.key: self._consumer.positions[camera.key] for camera in cameras})
            replies = pipe.execute(raise_on_error=False)
        for error in (reply for reply in replies if isinstance(reply, redis.ResponseError)):
            # A deleted stream took its group along; everything else in the transaction is stored.
            if not is_stream_lost(error):
                raise error
            self._consumer.create_groups()
        for camera in cameras:
            self._count_committed(camera)
            camera.events, camera.dirty, camera.committed_at = [], False, now
        self._consumer.finish_commit({camera.key for camera in cameras})

    def _count_committed(self, camera: _ShardCamera) -> None:
        crossings = [event for event in camera.events if isinstance(event, LineCrossed)]
        if crossings:
            self._metrics.count("crossings_total", len(crossings), camera.pipeline.camera)
        for event in crossings:
            self._metrics.observe("crossing_lag_seconds", self._wall() - event.ts)
        if rejected := self._consumer.get_rejected_ids(camera.key):
            self._metrics.count("dead_letters", len(rejected), camera.pipeline.camera)

    def _publish_live(self) -> None:
        cameras = [camera for camera in self._cameras.values() if camera.live_frames]
        if not cameras:
            return
        with self._client.pipeline(transaction=False) as pipe:
            for camera in cameras:
                for frame in camera.live_frames[-MAX_LIVE_FRAMES:]:
                    self._tracks.stage(pipe, frame, camera.pipeline.camera)
                camera.live_frames.clear()
            pipe.execute()

    def _follow_recreated_stream(self, camera: _ShardCamera, now: float) -> None:
        camera.last_entry_at = now
        if self._consumer.rewind_if_recreated(camera.key):
            log.warning("camera %s: its stream begins again at a lower id", camera.pipeline.camera)
            camera.pipeline.rewind()
            camera.dirty = True
