"""What the routes share: one object per application, made at its start-up and closed at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zoneinfo
from pathlib import Path
from typing import Any

import psutil
import redis.asyncio
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency

from crowdperf.accounts import audit
from crowdperf.accounts.permissions import Principal
from crowdperf.accounts.setup import SetupSecret, link
from crowdperf.accounts.store import Store
from crowdperf.accounts.throttle import Throttle
from crowdperf.events.clients import Forbidden
from crowdperf.events.connection import OUTAGE, Backoff, connect_async
from crowdperf.events.schema import AuditEntry
from crowdperf.runtime import Metrics
from crowdperf.settings.camera import Camera
from crowdperf.settings.handover import Handover
from crowdperf.settings.site import base
from crowdperf.slices import Shown, WebSlice, showing, shown_of
from crowdperf.storage.buckets import Calendar
from crowdperf.web.fanout import Hub, encode
from crowdperf.web.feed import Feed, supervise
from crowdperf.web.office import Office
from crowdperf.web.pictures import RingView
from crowdperf.web.problems import unknown_camera
from crowdperf.web.rates import Rates
from crowdperf.web.tiles import Tiles

KEEP_ALIVE_S = 15.0
FOLLOW_S = 0.5
CLOCK_S = 2.0
"""A process' time of birth is known to about a second."""

log = logging.getLogger(__name__)


class Context:
    """The slice, the Redis client, and the live parts. The slice is frozen; `follow` puts another in its place."""

    def __init__(self, slice_: WebSlice, metrics: Metrics) -> None:
        self.slice = slice_
        self.metrics = metrics
        self.prefix = slice_.key_prefix
        self.zone = zoneinfo.ZoneInfo(slice_.site.timezone)
        self.calendar = Calendar(slice_.site.timezone)
        self.redis: redis.asyncio.Redis = connect_async(slice_.redis_url)
        self.hub = Hub()
        # What was written between the start of this process, which read the configuration then, and now is news.
        self._handover = Handover(Path(slice_.handover), Shown, psutil.Process().create_time() - CLOCK_S)
        self.tiles = Tiles(slice_.ring_prefix, _enabled(slice_))
        self.feed = Feed(slice_, self.redis, self.hub, self._watched)
        self.tiles.feed = self.feed
        self.rates = Rates()
        self.accounts = Store(self.redis, self.prefix)
        self.throttle = Throttle(self.redis, self.prefix)
        self.setup = SetupSecret(Path(slice_.sockets))
        self.office = Office(self.follow)
        self.hashing = asyncio.Semaphore(2)
        """Each hash takes 64 MiB and a core for 0.1 s: sign-ins at once wait for each other, and for nobody else."""
        self.stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._offer: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read live updates."""
        self._task = asyncio.create_task(supervise(self.feed), name="feed")
        self._task.add_done_callback(self._on_feed_end)
        self._keeper = asyncio.create_task(self._keep_alive(), name="keep-alive")
        self._offer = asyncio.create_task(self._offer_setup(), name="setup")
        self._follower = asyncio.create_task(self._follow(), name="configuration")

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
        for task in (self._task, self._offer, self._keeper, self._follower):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
        with contextlib.suppress(redis.ConnectionError):
            await self.redis.aclose()

    def _watched(self) -> set[str]:
        """Cameras whose boxes are read: those on somebody's screen, and for occupancy those with zones."""
        if not len(self.hub):
            return self.tiles.watched()
        return self.tiles.watched() | {camera.id for camera in self.slice.cameras if camera.enabled and camera.zones}

    def follow(self) -> None:
        """Take over cameras, areas and rules where the configuration in force has others, and tell every page."""
        shown = self._handover.changed()
        if shown is None or shown == shown_of(self.slice):
            return
        self.slice = showing(self.slice, shown)
        self.feed.follow(self.slice)
        self.tiles.follow(_enabled(self.slice))
        self.hub.publish(encode("configuration", b"{}"))
        log.info("another configuration: %d cameras", len(shown.cameras))

    async def _follow(self) -> None:
        """Look now and then: the configuration changes by other hands as well."""
        while True:
            self.follow()
            await asyncio.sleep(FOLLOW_S)

    async def _keep_alive(self) -> None:
        """Wake every stream now and then: proxies end what is silent, and sessions end."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            self.hub.wake()

    async def _offer_setup(self) -> None:
        """While there is no account: make the one-time link, and say it in the log."""
        backoff = Backoff()
        while True:
            try:
                accounts = await self.accounts.accounts()
            except OUTAGE as error:
                if isinstance(error, Forbidden) and backoff.worth_saying(error):
                    log.warning("whether anybody can sign in is not known: %s", error)
                await asyncio.sleep(backoff.next())
                continue
            if accounts:
                self.setup.remove()
            else:
                log.warning("nobody can sign in yet. Make the administrator: %s", self.setup_link(self.setup.create()))
            return

    def setup_link(self, secret: str) -> str:
        """The one-time link, as this machine would open it."""
        return link(base(self.slice.web), secret)

    def entry(
        self,
        who: Principal,
        connection: ASGIConnection[Any, Any, Any, Any],
        action: str,
        target: str,
        detail: str = "",
    ) -> AuditEntry:
        """What the audit log is to say of a change that this request makes."""
        return AuditEntry(
            ts=self.now(),
            who=who.name,
            via=who.kind,
            action=action,
            target=target,
            address=connection.client.host[:64] if connection.client else "",
            detail=detail[:4000],
            token=who.token,
        )

    async def note(
        self,
        who: Principal,
        connection: ASGIConnection[Any, Any, Any, Any],
        action: str,
        target: str,
        detail: str = "",
    ) -> None:
        """Write an entry of the audit log by itself, for what is not a change in Redis."""
        pipe = self.redis.pipeline()
        audit.stage(pipe, self.entry(who, connection, action, target, detail), self.prefix)
        await pipe.execute()

    def camera(self, camera_id: str, who: Principal) -> Camera:
        """The configured camera.

        Raises:
            Problem: 404, there is none of that id, or `who` may not know of it: the two look alike.
        """
        for camera in self.slice.cameras:
            if camera.id == camera_id and who.sees(camera_id):
                return camera
        raise unknown_camera(camera_id)

    def cameras(self, who: Principal) -> tuple[Camera, ...]:
        """The cameras that `who` may see, in the order of the configuration."""
        return tuple(camera for camera in self.slice.cameras if who.sees(camera.id))

    def view(self, camera_id: str) -> RingView | None:
        """The camera's ring; None for a disabled camera, which has none."""
        return self.tiles.views.get(camera_id)

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


def _enabled(slice_: WebSlice) -> frozenset[str]:
    return frozenset(camera.id for camera in slice_.cameras if camera.enabled)


SiteContext = NamedDependency[Context]
"""How a route asks for it."""
