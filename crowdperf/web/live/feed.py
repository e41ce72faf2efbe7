"""The one reader of Redis streams in a web process: it turns events and live boxes into encoded messages.

An outage of Redis ends a read session; the next session resumes after the last id. Clients see the outage in `status`
messages and stay connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import redis.asyncio

from crowdperf.messaging.consumer import STREAM_START, StreamRow, read_newest_entries, unpack_reply
from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.redis.client import BLOCK_MS, AnyClient, RedisPermissionError
from crowdperf.messaging.schema import LineCrossed, TrackedFrame
from crowdperf.messaging.streams import EVENTS, TRACKS, stream_key
from crowdperf.settings.areas import Area
from crowdperf.settings.process_config import WebConfig
from crowdperf.storage.queries import CrossingFilter, iter_crossings
from crowdperf.web.live.channel import Broadcast, BroadcastMessage, encode_sse
from crowdperf.web.live.counts import (
    CountKey,
    TodayCounts,
    compute_occupancy,
    decode_event,
    decode_frame,
    find_cameras,
    to_event_reply,
)
from crowdperf.web.parameters import Span, format_rfc3339, get_today
from crowdperf.web.schemas import CountRow, ZoneOccupancy

MAX_RECORDER_LAG_MS = 600_000
"""Maximum lag of the recorder with which the counts of today are right after a start."""
STATUS_INTERVAL_S = 10.0
READ_PAUSE_S = 0.02
"""Pause between two reads, so that one read serves many cameras."""
MAX_ENTRIES_PER_READ = 256

Row = TypeVar("Row", CountRow, ZoneOccupancy)

log = logging.getLogger(__name__)


class Feed:
    """Read `events`, and `tracks` of the watched cameras, and publish them.

    Args:
        config: Configuration of the site.
        client: Redis client.
        broadcast: Receives the messages.
        get_watched: Returns the cameras whose boxes are needed.
    """

    def __init__(
        self, config: WebConfig, client: redis.asyncio.Redis, broadcast: Broadcast, get_watched: Callable[[], set[str]]
    ) -> None:
        self._config = config
        self._client: AnyClient = client
        self._broadcast = broadcast
        self._get_watched = get_watched
        self._zone = zoneinfo.ZoneInfo(config.site.timezone)
        self._events_key = stream_key(EVENTS, prefix=config.key_prefix)
        self._last_event: bytes | None = None
        self._last_tracks: dict[str, bytes] = {}
        self._today = TodayCounts(Span(0, 0))
        self._zones: dict[tuple[str, str], ZoneOccupancy] = {}
        self._status_at = float("-inf")
        self.redis_up = self._forbidden = False
        self.frames: dict[str, TrackedFrame] = {}
        """Camera -> its newest tracked frame, of the watched cameras."""
        self.arrivals: dict[str, asyncio.Event] = {}
        """Camera -> event that is set when a newer tracked frame has arrived."""

    @property
    def position(self) -> str:
        """Stream id of the newest event read; empty before the first."""
        return self._last_event.decode() if self._last_event else ""

    def set_config(self, config: WebConfig) -> None:
        """Replace the configuration."""
        self._config = config

    async def run(self) -> None:
        """Read for ever, and retry after outages."""
        outage = OutageHandler("live updates pause")
        while True:
            with outage:
                await self._prepare_session()
                while True:
                    await self._read_once()
                    # After a read, not before: the ACL may allow the preparation's commands but not this one.
                    outage.reset()
                    self._mark_redis_up()
                    await asyncio.sleep(READ_PAUSE_S)
            self.redis_up, self._forbidden = False, isinstance(outage.error, RedisPermissionError)
            self._last_tracks.clear()
            self._publish_status(time.time())
            await asyncio.sleep(outage.wait_s)

    async def _prepare_session(self) -> None:
        """Load today's counts, and find the stream position to read from."""
        [tail] = await read_newest_entries(self._client, [self._events_key])
        newest = tail[0] if tail else STREAM_START
        if self._last_event is None:
            oldest = max(0, int(newest.split(b"-")[0]) - MAX_RECORDER_LAG_MS)
            self._last_event = f"{oldest}-0".encode()
        await self._load_today(time.time())
        if not self._forbidden:
            self._mark_redis_up()

    def _mark_redis_up(self) -> None:
        if self.redis_up:
            return
        log.info("reading live updates from Redis")
        self.redis_up, self._forbidden = True, False
        self._publish_status(time.time())

    async def _load_today(self, now: float) -> None:
        """Load today's counts from the history; the stream adds what the recorder has not stored yet."""
        day = get_today(now, self._zone)
        fresh = TodayCounts(day)
        if day == self._today.day:
            # After an outage the stream delivers the missed events: loading them as well would count them twice.
            return
        async for row in iter_crossings(self._client, CrossingFilter(day.start, day.end), self._config.key_prefix):
            fresh.add(row.id, row.ts, CountKey(row.camera, row.line, row.class_name, row.direction))
        self._today = fresh
        self._broadcast.publish(self.build_counts_message())

    async def _read_once(self) -> None:
        """Read all streams once, and publish what has changed."""
        now = time.time()
        if not self._today.day.start <= now < self._today.day.end:
            await self._load_today(now)
        await self._update_watched()
        streams: dict[Any, Any] = {self._events_key: self._last_event}
        streams.update(
            {stream_key(TRACKS, camera, self._config.key_prefix): last for camera, last in self._last_tracks.items()}
        )
        cameras = {stream_key(TRACKS, camera, self._config.key_prefix).encode(): camera for camera in self._last_tracks}
        for name, rows in unpack_reply(await self._client.xread(streams, count=MAX_ENTRIES_PER_READ, block=BLOCK_MS)):
            if name in cameras:
                self._on_tracks(cameras[name], rows)
            else:
                self._on_events(rows)
        self._publish_changes(time.time())

    async def _update_watched(self) -> None:
        """Start reading newly watched cameras, and drop the others."""
        watched = self._get_watched()
        for camera in self._last_tracks.keys() - watched:
            del self._last_tracks[camera]
            self.frames.pop(camera, None)
        added = sorted(watched - self._last_tracks.keys())
        if not added:
            return
        keys = [stream_key(TRACKS, camera, self._config.key_prefix) for camera in added]
        rows = await read_newest_entries(self._client, keys)
        for camera, row in zip(added, rows):
            self._last_tracks[camera] = row[0] if row else STREAM_START
            if row:
                self._on_tracks(camera, [row])

    def _on_tracks(self, camera: str, rows: list[StreamRow]) -> None:
        self._last_tracks[camera] = rows[-1][0]
        frame = decode_frame(rows[-1][1])
        if isinstance(frame, TrackedFrame):
            self.frames[camera] = frame
            self.get_arrival(camera).set()

    def get_arrival(self, camera: str) -> asyncio.Event:
        """Return the event that is set when a newer tracked frame of this camera has arrived."""
        return self.arrivals.setdefault(camera, asyncio.Event())

    def _on_events(self, rows: list[StreamRow]) -> None:
        for stream_id, fields in rows:
            self._last_event = stream_id
            event = decode_event(fields)
            if event is None:
                continue
            if isinstance(event, LineCrossed):
                self._today.add(
                    event.id, event.ts, CountKey(event.camera, event.line, event.class_name, event.direction)
                )
            self._broadcast.publish(build_event_message(stream_id, fields, self._config.areas))

    def _publish_changes(self, now: float) -> None:
        changes = self._today.take_changes()
        if changes:
            self._broadcast.publish(_build_counts_message(self._today.day, changes.items(), whole=False))
        if len(self._broadcast):
            rows = {(row.camera, row.zone): row for row in compute_occupancy(self._config.cameras, self.frames, now)}
            changed = [
                row
                for name, row in rows.items()
                if name not in self._zones or row.occupancy != self._zones[name].occupancy
            ]
            self._zones = rows
            if changed:
                self._broadcast.publish(_build_occupancy_message(changed))
        if abs(now - self._status_at) >= STATUS_INTERVAL_S:
            self._publish_status(now)

    def _publish_status(self, now: float) -> None:
        self._status_at = now
        self._broadcast.publish(self.build_status_message(now))

    def build_status_message(self, now: float) -> BroadcastMessage:
        """Build the message with the server's clock and the state of Redis."""
        return encode_sse(
            "status", msgspec.json.encode({"time": format_rfc3339(now), "redis": "up" if self.redis_up else "down"})
        )

    def build_counts_message(self) -> BroadcastMessage:
        """Build the message with all counts of today."""
        return _build_counts_message(self._today.day, self._today.counts.items(), whole=True)

    def build_occupancy_message(self) -> BroadcastMessage:
        """Build the message with every zone's occupancy."""
        return _build_occupancy_message(compute_occupancy(self._config.cameras, self.frames, time.time()))


def build_event_message(stream_id: bytes, fields: dict[bytes, bytes], areas: Sequence[Area]) -> BroadcastMessage:
    """Build the server-sent event of a stream entry; an unreadable entry becomes a comment with its id.

    Args:
        stream_id: Id of the entry.
        fields: The entry.
        areas: Configured areas; they decide who receives an event of an area.

    Returns:
        The message.
    """
    event = decode_event(fields)
    if event is None:
        return BroadcastMessage(stream_id, b": unreadable\n\n")
    return encode_sse("event", msgspec.json.encode(to_event_reply(event)), stream_id, find_cameras(event, areas))


def _build_counts_message(day: Span, counts: Iterable[tuple[CountKey, int]], whole: bool) -> BroadcastMessage:
    span = {"from": format_rfc3339(day.start), "to": format_rfc3339(day.end), "whole": whole}
    rows = [CountRow(**key._asdict(), count=number) for key, number in counts]
    return _build_rows_message("counts", rows, lambda rows: {**span, "counts": rows})


def _build_occupancy_message(rows: list[ZoneOccupancy]) -> BroadcastMessage:
    return _build_rows_message("occupancy", rows, lambda rows: {"zones": rows})


def _build_rows_message(event: str, rows: list[Row], build_body: Callable[[list[Row]], Any]) -> BroadcastMessage:
    """Build a message of which each client receives the rows of the cameras that it may see."""

    def encode(rows: list[Row]) -> bytes:
        return msgspec.json.encode(build_body(rows))

    def narrow(cameras: frozenset[str]) -> bytes:
        return encode_sse(event, encode([row for row in rows if row.camera in cameras])).data

    return encode_sse(event, encode(rows), encode_for=narrow)


async def run_until_cancelled(feed: Feed) -> None:
    """Run the feed until it is cancelled. Any other exception is a defect and ends the process."""
    with contextlib.suppress(asyncio.CancelledError):
        await feed.run()
