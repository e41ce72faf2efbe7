"""The one reader of Redis streams in a web process: events and live boxes in, encoded messages out to every client.

It is supervised by itself: an outage of Redis ends a session, and the next one goes on behind the last id that was
read. Clients hear of the outage by `status` messages and keep their connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import redis.asyncio

from crowdperf.events.clients import Forbidden
from crowdperf.events.connection import BLOCK_MS, OUTAGE, Backoff
from crowdperf.events.schema import LineCrossed, TrackedFrame
from crowdperf.events.streams import EVENTS, TRACKS, key
from crowdperf.slices import WebSlice
from crowdperf.storage.queries import Wanted, crossings
from crowdperf.web.entries import Row, decoded_event, decoded_frame, newest_tracks, reply_of, stream_rows
from crowdperf.web.fanout import Hub, Message, encode
from crowdperf.web.occupancy import occupancy
from crowdperf.web.parameters import Span, rfc3339, today
from crowdperf.web.replies import CountRow, ZoneOccupancy
from crowdperf.web.tally import Key, Tally

CATCH_UP_MS = 600_000
"""How far behind the recorder may be when a web process starts, without its counts of today being wrong."""
STATUS_S = 10.0
PAUSE_S = 0.02
"""Between two reads: many cameras are then read together instead of one by one."""
READ_COUNT = 256

log = logging.getLogger(__name__)


class Feed:
    """Reads `events`, and `tracks` of the cameras that somebody watches, and publishes to `hub`."""

    def __init__(
        self, slice_: WebSlice, client: redis.asyncio.Redis, hub: Hub, watched: Callable[[], set[str]]
    ) -> None:
        self._slice = slice_
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._hub = hub
        self._watched = watched
        self._zone = zoneinfo.ZoneInfo(slice_.site.timezone)
        self._events = key(EVENTS, prefix=slice_.key_prefix)
        self._last_event: bytes | None = None
        self._last_tracks: dict[str, bytes] = {}
        self._tally = Tally(Span(0, 0))
        self._zones: dict[tuple[str, str], ZoneOccupancy] = {}
        self._status_at = float("-inf")
        self.redis_up = self._forbidden = False
        self.frames: dict[str, TrackedFrame] = {}
        """Camera -> its newest tracked frame, of the cameras that are watched."""
        self.arrivals: dict[str, asyncio.Event] = {}
        """Camera -> set whenever a newer tracked frame has come."""

    @property
    def position(self) -> str:
        """Stream id of the newest event that was read; empty while none could be."""
        return self._last_event.decode() if self._last_event else ""

    def follow(self, slice_: WebSlice) -> None:
        """Go on with other cameras."""
        self._slice = slice_

    async def run(self) -> None:
        """Read for ever; an outage is waited out."""
        backoff = Backoff()
        while True:
            error = await self._session(backoff)
            if self.redis_up or self._status_at == float("-inf"):
                log.warning("Redis gives nothing (%s): live updates pause", error)
            self.redis_up, self._forbidden = False, isinstance(error, Forbidden)
            self._last_tracks.clear()
            self._publish_status(time.time())
            await asyncio.sleep(backoff.next())

    async def _session(self, backoff: Backoff) -> BaseException:
        """Read until an outage, and return it."""
        try:
            await self._begin()
            while True:
                await self._turn()
                # Behind a turn, and not behind the beginning: what is read there may be allowed, and this not.
                backoff.reset()
                self._go_on()
                await asyncio.sleep(PAUSE_S)
        except OUTAGE as error:
            return error

    async def _begin(self) -> None:
        """Load today's counts and find where the streams are to be read from."""
        tail = await self._client.xrevrange(self._events, count=1)
        newest: bytes = tail[0][0] if tail else b"0-0"
        if self._last_event is None:
            oldest = max(0, int(newest.split(b"-")[0]) - CATCH_UP_MS)
            self._last_event = f"{oldest}-0".encode()
        await self._load_today(time.time())
        if not self._forbidden:
            self._go_on()

    def _go_on(self) -> None:
        if self.redis_up:
            return
        log.info("reading live updates from Redis")
        self.redis_up, self._forbidden = True, False
        self._publish_status(time.time())

    async def _load_today(self, now: float) -> None:
        """Today's counts from the history; what the recorder has not stored yet comes from the stream."""
        day = today(now, self._zone)
        fresh = Tally(day)
        if day == self._tally.day:
            # After an outage: the events between are read from the stream, and must not be taken for new twice.
            return
        async for row in crossings(self._client, Wanted(day.start, day.end), self._slice.key_prefix):
            fresh.add(row.id, row.ts, Key(row.camera, row.line, row.klass, row.direction))
        self._tally = fresh
        self._hub.publish(self.counts_message())

    async def _turn(self) -> None:
        """One read of everything, and what follows from it."""
        now = time.time()
        if now >= self._tally.day.end:
            await self._load_today(now)
        await self._follow_watched()
        streams: dict[Any, Any] = {self._events: self._last_event}
        streams.update(
            {key(TRACKS, camera, self._slice.key_prefix): last for camera, last in self._last_tracks.items()}
        )
        cameras = {key(TRACKS, camera, self._slice.key_prefix).encode(): camera for camera in self._last_tracks}
        for name, rows in stream_rows(await self._client.xread(streams, count=READ_COUNT, block=BLOCK_MS)):
            if name in cameras:
                self._on_tracks(cameras[name], rows)
            else:
                self._on_events(rows)
        self._publish_changes(time.time())

    async def _follow_watched(self) -> None:
        """Begin with cameras that somebody watches now, and let go of the others."""
        watched = self._watched()
        for camera in self._last_tracks.keys() - watched:
            del self._last_tracks[camera]
            self.frames.pop(camera, None)
        added = sorted(watched - self._last_tracks.keys())
        if not added:
            return
        rows = await newest_tracks(self._client, [key(TRACKS, camera, self._slice.key_prefix) for camera in added])
        for camera, row in zip(added, rows):
            self._last_tracks[camera] = row[0] if row else b"0-0"
            if row:
                self._on_tracks(camera, [row])

    def _on_tracks(self, camera: str, rows: list[Row]) -> None:
        self._last_tracks[camera] = rows[-1][0]
        frame = decoded_frame(rows[-1][1])
        if isinstance(frame, TrackedFrame):
            self.frames[camera] = frame
            self.arrival(camera).set()

    def arrival(self, camera: str) -> asyncio.Event:
        """The event that is set when a newer tracked frame of this camera has come."""
        return self.arrivals.setdefault(camera, asyncio.Event())

    def _on_events(self, rows: list[Row]) -> None:
        for stream_id, fields in rows:
            self._last_event = stream_id
            event = decoded_event(fields)
            if event is None:
                continue
            if isinstance(event, LineCrossed):
                self._tally.add(event.id, event.ts, Key(event.camera, event.line, event.klass, event.direction))
            self._hub.publish(event_message(stream_id, fields))

    def _publish_changes(self, now: float) -> None:
        changes = self._tally.changes()
        if changes:
            self._hub.publish(_counts_message(self._tally.day, changes.items(), whole=False))
        if len(self._hub):
            rows = {(row.camera, row.zone): row for row in occupancy(self._slice.cameras, self.frames, now)}
            changed = [row for name, row in rows.items() if _differs(row, self._zones.get(name))]
            self._zones = rows
            if changed:
                self._hub.publish(_occupancy_message(changed))
        if now - self._status_at >= STATUS_S:
            self._publish_status(now)

    def _publish_status(self, now: float) -> None:
        self._status_at = now
        self._hub.publish(self.status_message(now))

    def status_message(self, now: float) -> Message:
        """Whether the data behind the stream is live, and the server's clock."""
        return encode("status", msgspec.json.encode({"time": rfc3339(now), "redis": "up" if self.redis_up else "down"}))

    def counts_message(self) -> Message:
        """All of today's counts."""
        return _counts_message(self._tally.day, self._tally.counts.items(), whole=True)

    def occupancy_message(self) -> Message:
        """Every zone as far as it is known."""
        return _occupancy_message(occupancy(self._slice.cameras, self.frames, time.time()))


def event_message(stream_id: bytes, fields: dict[bytes, bytes]) -> Message:
    """A stream entry as a server-sent event; an unreadable one becomes a comment, so that its id still moves on."""
    event = decoded_event(fields)
    if event is None:
        return Message(stream_id, b": unreadable\n\n")
    # What is about no camera may be about all of them: it is for who may see all.
    hidden = None if event.camera else lambda _: b""
    return encode("event", msgspec.json.encode(reply_of(event)), stream_id, event.camera, hidden)


def _counts_message(day: Span, counts: Iterable[tuple[Key, int]], whole: bool) -> Message:
    rows = [CountRow(camera=k.camera, line=k.line, klass=k.klass, direction=k.direction, count=n) for k, n in counts]

    def encoded(rows: list[CountRow]) -> bytes:
        body = {"from": rfc3339(day.start), "to": rfc3339(day.end), "whole": whole, "counts": rows}
        return msgspec.json.encode(body)

    def narrow(cameras: frozenset[str]) -> bytes:
        return encode("counts", encoded([row for row in rows if row.camera in cameras])).data

    return encode("counts", encoded(rows), narrow=narrow)


def _occupancy_message(rows: list[ZoneOccupancy]) -> Message:
    def narrow(cameras: frozenset[str]) -> bytes:
        seen = [row for row in rows if row.camera in cameras]
        return encode("occupancy", msgspec.json.encode({"zones": seen})).data

    return encode("occupancy", msgspec.json.encode({"zones": rows}), narrow=narrow)


def _differs(row: ZoneOccupancy, before: ZoneOccupancy | None) -> bool:
    return before is None or row.occupancy != before.occupancy


async def supervise(feed: Feed) -> None:
    """Run the feed; a cancelled one ends quietly. Anything else is a defect, and ends the process by its log."""
    with contextlib.suppress(asyncio.CancelledError):
        await feed.run()
