"""State that the routes share: one object per application, created at start-up and closed at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import psutil
import redis.asyncio
from litestar.di import NamedDependency

from crowdperf.accounts import audit_log, credentials
from crowdperf.accounts.account_store import AccountStore
from crowdperf.accounts.audit_log import RefusalCounter
from crowdperf.accounts.credentials import REFUSAL_INTERVAL_S, SetupSecret, SignInLimiter
from crowdperf.accounts.principal import Principal
from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.redis.client import OUTAGE, AnyClient, connect_async
from crowdperf.messaging.schema import AuditEntry
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import start_task
from crowdperf.settings.camera import Camera
from crowdperf.settings.process_config import WebConfig, WebReloadable, get_reloadable, replace_reloadable
from crowdperf.settings.reload import ReloadFile
from crowdperf.storage.buckets import Calendar
from crowdperf.visitors.roll_call import RollCallStore
from crowdperf.visitors.visit_store import VisitStore
from crowdperf.web.auth import AnyRequest, PrincipalDependency, get_client_address
from crowdperf.web.config_client import ConfigClient
from crowdperf.web.live.channel import Broadcast, encode_sse
from crowdperf.web.live.feed import Feed, run_until_cancelled
from crowdperf.web.live.tiles import Tiles
from crowdperf.web.parameters import Span, parse_instant
from crowdperf.web.problems import ApiProblem, unaudited, unknown_camera
from crowdperf.web.rates import Rates, StreamRateMonitor
from crowdperf.web.serving.query_thread import QueryThread

KEEP_ALIVE_INTERVAL_S = 15.0
CONFIG_POLL_S = 0.5
START_TIME_TOLERANCE_S = 2.0
"""Start times of processes are accurate to about a second."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class AppState:
    """Hold the configuration, the Redis client and the live parts of one application.

    The configuration is frozen; `reload_config` replaces it.
    """

    def __init__(self, config: WebConfig, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        self.prefix = config.key_prefix
        self.calendar = Calendar(config.site.timezone)
        self.redis: AnyClient = connect_async(config.redis_url)
        self.queries = QueryThread(config.redis_url)
        self.broadcast = Broadcast()
        # The process read its configuration at its start: a later file counts as a change.
        self._reload_file = ReloadFile(
            Path(config.reload_file), WebReloadable, psutil.Process().create_time() - START_TIME_TOLERANCE_S
        )
        self.tiles = Tiles(config.ring_prefix, _get_enabled_cameras(config), metrics)
        self.feed = Feed(config, self.redis, self.broadcast, self._get_watched_cameras)
        self.tiles.feed = self.feed
        self.rates = Rates()
        self.stream_rates = StreamRateMonitor()
        self.accounts = AccountStore(self.redis, self.prefix)
        self.visits = VisitStore(self.redis, self.prefix)
        self.roll_calls = RollCallStore(self.redis, self.prefix)
        self.sign_in_limiter = SignInLimiter(self.redis, self.prefix)
        self.refusals = RefusalCounter()
        self.setup_secret = SetupSecret(Path(config.sockets))
        self.config_client = ConfigClient(self.reload_config)
        self._hashing_limit = asyncio.Semaphore(2)
        """Each hash takes 64 MiB and a core for 0.1 s, so parallel sign-ins wait for each other only."""
        self.stop_event = asyncio.Event()
        self._feed_task: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the background tasks: feed, keep-alive, setup link and configuration."""
        self.queries.start()
        self._feed_task = asyncio.create_task(run_until_cancelled(self.feed), name="feed")
        self._feed_task.add_done_callback(self._on_feed_end)
        self._tasks = [
            self._feed_task,
            start_task("keep-alive", self._keep_alive, self.metrics),
            start_task("setup", self._announce_setup_link, self.metrics),
            start_task("configuration", self._poll_config, self.metrics),
            start_task("refusals", self._count_refusals, self.metrics),
        ]

    def get_feed_error(self) -> BaseException | None:
        """Return the exception that ended the feed, or None."""
        if self._feed_task is None or not self._feed_task.done() or self._feed_task.cancelled():
            return None
        return self._feed_task.exception()

    def raise_feed_error(self) -> None:
        """Raise the exception that ended the feed: without live updates the process must not look alive."""
        error = self.get_feed_error()
        if error is not None:
            raise error

    def _on_feed_end(self, _task: asyncio.Task[None]) -> None:
        self.broadcast.close()

    def end_streams(self) -> None:
        """End every open stream, so that the server can stop at once."""
        self.stop_event.set()
        self.broadcast.close()

    async def close(self) -> None:
        """Stop the live parts; close rings and connections."""
        self.end_streams()
        self.tiles.close()
        for task in self._tasks:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        await self.queries.close()
        with contextlib.suppress(redis.ConnectionError):
            await self.redis.aclose()

    def _get_watched_cameras(self) -> set[str]:
        """Return the cameras whose boxes are read: those on a screen, and those with zones for occupancy."""
        if not len(self.broadcast):
            return self.tiles.get_watched()
        return self.tiles.get_watched() | {
            camera.id for camera in self.config.cameras if camera.enabled and camera.zones
        }

    def reload_config(self) -> None:
        """Apply a changed configuration to the live parts, and notify every page."""
        reloaded = self._reload_file.read_if_changed()
        if reloaded is None or reloaded == get_reloadable(self.config):
            return
        self.config = replace_reloadable(self.config, reloaded)
        self.feed.set_config(self.config)
        self.tiles.set_cameras(_get_enabled_cameras(self.config))
        self.broadcast.publish(encode_sse("configuration", b"{}"))
        log.info("configuration reloaded: %d cameras", len(reloaded.cameras))

    async def _poll_config(self) -> None:
        """Reload the configuration when another process has changed it."""
        while True:
            self.reload_config()
            await asyncio.sleep(CONFIG_POLL_S)

    async def _keep_alive(self) -> None:
        """Wake every stream regularly: proxies cut silent connections, and sessions expire."""
        while True:
            await asyncio.sleep(KEEP_ALIVE_INTERVAL_S)
            self.broadcast.wake()

    async def _announce_setup_link(self) -> None:
        """Create the secret of the setup link while no account exists, and log how to get the link."""
        outage = OutageHandler("whether an account exists is not known", logs_outages=False)
        while outage.must_start:
            with outage:
                accounts = await self.accounts.read_accounts()
            await asyncio.sleep(outage.wait_s)
        if accounts:
            self.setup_secret.remove()
            return
        self.setup_secret.create()
        log.warning("no account exists yet. `crowdperf users setup-link` prints the link for the administrator")

    async def hash_password(self, password: str, name: str) -> str:
        """Check that a password is strong enough for an account, and hash it by Argon2id.

        Raises:
            WeakPasswordError: The password is too weak; the client gets 400.
        """
        credentials.check_password(password, name)
        async with self._hashing_limit:
            return await asyncio.to_thread(credentials.hash_password, password)

    async def verify_password(self, password: str, stored: str | None) -> bool:
        """Verify a password in a time that does not depend on the existence of the account (None: none)."""
        async with self._hashing_limit:
            return await asyncio.to_thread(credentials.verify_password, password, stored)

    async def write_audit_entry(self, entry: AuditEntry) -> None:
        """Write an audit entry by itself."""
        pipe = self.redis.pipeline()
        audit_log.stage_entry(pipe, entry, self.prefix)
        await pipe.execute()

    async def write_refusal(self, entry: AuditEntry) -> None:
        """Write a refused request: one a minute and address, within a limit for all addresses."""
        try:
            if not self.refusals.is_full and not await self.sign_in_limiter.is_due_refusal(entry.address):
                return
            if self.refusals.admit():
                await self.write_audit_entry(entry)
        except OUTAGE:
            self.refusals.left_out_count += 1

    async def write_refusal_count(self) -> None:
        """Write how many refused requests were left out, and begin the next minute."""
        count = self.refusals.start_minute()
        if not count:
            return
        detail = f"{count} more requests were refused, without entries of their own"
        try:
            await self.write_audit_entry(
                AuditEntry(ts=self.now(), who="", via="anonymous", action="request.refuse", target="", detail=detail)
            )
        except OUTAGE:
            self.refusals.left_out_count += count

    async def _count_refusals(self) -> None:
        while True:
            await asyncio.sleep(REFUSAL_INTERVAL_S)
            await self.write_refusal_count()

    def publish_metrics(self) -> None:
        """Publish the metrics of this process."""
        self.metrics.set_gauge("stream_clients", len(self.broadcast))
        self.metrics.set_gauge("live_cameras_watched", len(self.tiles.get_watched()))
        self.metrics.set_gauge("stream_messages_lost", self.broadcast.lost)
        self.metrics.set_gauge("live_pictures_sent", self.tiles.frames_sent)
        self.metrics.set_gauge("redis_up", float(self.feed.redis_up))

    @staticmethod
    def now() -> float:
        """Return the time in Unix seconds."""
        return time.time()


def _get_enabled_cameras(config: WebConfig) -> frozenset[str]:
    return frozenset(camera.id for camera in config.cameras if camera.enabled)


AppDependency = NamedDependency[AppState]
"""Annotation by which a route receives the application's state."""


class RequestContext:
    """One request: the application, the principal who makes it, and the client's address.

    Args:
        app: State of the application.
        request: The request.
        principal: Its author, as the guard has identified.
    """

    def __init__(self, app: AppDependency, request: AnyRequest, principal: PrincipalDependency) -> None:
        self.app = app
        self.request = request
        self.principal = principal
        self.address = get_client_address(request)

    def get_camera(self, camera_id: str) -> Camera:
        """Return a configured camera.

        Raises:
            ApiProblem: 404, the camera does not exist, or the principal may not see it: both look alike.
        """
        for camera in self.get_cameras():
            if camera.id == camera_id:
                return camera
        raise unknown_camera(camera_id)

    def get_cameras(self) -> tuple[Camera, ...]:
        """Return the cameras that the principal may see, in the order of the configuration."""
        return tuple(camera for camera in self.app.config.cameras if self.principal.can_see(camera.id))

    def parse_before(self, text: str | None) -> float:
        """Parse the end of a page of newest entries; by default an hour ahead, as clocks differ."""
        return parse_instant("before", text) if text else self.app.now() + 3600

    def build_audit_entry(
        self, action: str, target: str, detail: str = "", author: Principal | None = None
    ) -> AuditEntry:
        """Build the audit entry of a change that this request makes.

        Args:
            action: Kind of the change, such as `camera.change`.
            target: Id of what is changed.
            detail: Further text; 4,000 characters are kept.
            author: Author of the change, where the principal is not known by the request.

        Returns:
            The entry, dated now.
        """
        author = author or self.principal
        return AuditEntry(
            ts=self.app.now(),
            who=author.name,
            via=author.kind,
            action=action,
            target=target,
            address=self.address,
            detail=detail[:4000],
            token=author.token,
        )

    async def write_audit_entry(self, action: str, target: str, detail: str = "") -> None:
        """Write an audit entry by itself, for a change that is not a Redis transaction.

        Args:
            action: Kind of the change.
            target: Id of what is changed.
            detail: Further text.
        """
        await self.app.write_audit_entry(self.build_audit_entry(action, target, detail))

    async def run_audited(
        self, action: str, target: str, change: Callable[[], Awaitable[T]], describe: Callable[[T], str]
    ) -> T:
        """Make a change that is not in Redis between the audit entries of its intent and its outcome.

        Args:
            action: Kind of the change.
            target: Id of what is changed.
            change: Makes the change.
            describe: Describes its result for the audit log.

        Returns:
            The result of the change.

        Raises:
            ApiProblem: 503, Redis takes no entry; the text says whether the change was made.
        """
        try:
            await self.write_audit_entry(f"{action}.intent", target)
        except OUTAGE as error:
            log.warning("no audit entry of an intent: %s", error)
            raise unaudited("so nothing was changed") from None
        try:
            result = await change()
        except ApiProblem as problem:
            if problem.status != HTTPStatus.SERVICE_UNAVAILABLE:
                with contextlib.suppress(*OUTAGE):
                    await self.write_audit_entry(f"{action}.refuse", target, f"status {problem.status:d}")
            raise
        try:
            await self.write_audit_entry(action, target, describe(result))
        except OUTAGE as error:
            log.warning("no audit entry of an outcome: %s", error)
            raise unaudited("but the change was made, and is in force") from None
        return result


ContextDependency = NamedDependency[RequestContext]
"""Annotation by which a route receives its request."""
SpanDependency = NamedDependency[Span]
"""Annotation by which a route receives the range of its parameters `from` and `to`."""
