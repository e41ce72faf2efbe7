"""What the routes share: one object per application, made at its start-up and closed at its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
import zoneinfo

import redis.asyncio
from litestar.di import NamedDependency

from crowdperf.events.connection import connect_async
from crowdperf.runtime import Metrics
from crowdperf.settings.camera import Camera
from crowdperf.slices import WebSlice
from crowdperf.storage.buckets import Calendar
from crowdperf.web.fanout import Hub
from crowdperf.web.feed import Feed, supervise
from crowdperf.web.pictures import RingView
from crowdperf.web.problems import unknown_camera
from crowdperf.web.rates import Rates
from crowdperf.web.tiles import Tiles


class Context:
    """The slice, the Redis client, and the live parts."""

    def __init__(self, slice_: WebSlice, metrics: Metrics) -> None:
        self.slice = slice_
        self.metrics = metrics
        self.prefix = slice_.key_prefix
        self.zone = zoneinfo.ZoneInfo(slice_.site.timezone)
        self.calendar = Calendar(slice_.site.timezone)
        self.redis: redis.asyncio.Redis = connect_async(slice_.redis_url)
        self.hub = Hub()
        self.tiles = Tiles(slice_.ring_prefix, tuple(camera.id for camera in slice_.cameras if camera.enabled))
        self._with_zones = {camera.id for camera in slice_.cameras if camera.enabled and camera.zones}
        self.feed = Feed(slice_, self.redis, self.hub, self._watched)
        self.tiles.feed = self.feed
        self.rates = Rates()
        self.stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read live updates."""
        self._task = asyncio.create_task(supervise(self.feed), name="feed")
        self._task.add_done_callback(self._on_feed_end)

    def feed_error(self) -> BaseException | None:
        """What ended the feed, if anything did."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    def check(self) -> None:
        """Raise what ended the feed: a web process without live updates must not look alive."""
        error = self.feed_error()
        if error is not None:
            raise error

    def _on_feed_end(self, _task: asyncio.Task[None]) -> None:
        self.hub.close()

    def end_streams(self) -> None:
        """End every open stream, so that the server can stop at once."""
        self.stopped.set()
        self.hub.close()

    async def close(self) -> None:
        """Stop the live parts and let go of rings and connections."""
        self.end_streams()
        self.tiles.close()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(redis.ConnectionError):
            await self.redis.aclose()

    def _watched(self) -> set[str]:
        """Cameras whose boxes are read: those on somebody's screen, and for occupancy those with zones."""
        return self.tiles.watched() | (self._with_zones if len(self.hub) else set())

    def camera(self, camera_id: str) -> Camera:
        """The configured camera.

        Raises:
            Problem: 404, there is none of that id.
        """
        for camera in self.slice.cameras:
            if camera.id == camera_id:
                return camera
        raise unknown_camera(camera_id)

    def view(self, camera_id: str) -> RingView | None:
        """The camera's ring; None for a disabled camera, which has none."""
        return self.tiles.views.get(self.camera(camera_id).id)

    def measure(self) -> None:
        """Publish this process's own numbers."""
        self.metrics.gauge("stream_clients", len(self.hub))
        self.metrics.gauge("live_cameras_watched", len(self.tiles.watched()))
        self.metrics.gauge("stream_messages_lost", self.hub.lost)
        self.metrics.gauge("live_pictures_sent", self.tiles.frames_sent)
        self.metrics.gauge("redis_up", float(self.feed.redis_up))

    @staticmethod
    def now() -> float:
        """Unix seconds."""
        return time.time()


SiteContext = NamedDependency[Context]
"""How a route asks for it."""
