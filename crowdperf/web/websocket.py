"""The WebSocket of a browser: it carries the live tiles of every camera it subscribes to (docs/web-server.md)."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import msgspec
from litestar import Router, WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect
from msgspec import Meta, Struct

from crowdperf.accounts.principal import Principal
from crowdperf.web.auth import SESSION_CHECK_S, PrincipalDependency, SessionMonitor, is_same_origin
from crowdperf.web.live.tiles import Viewer
from crowdperf.web.state import AppDependency, AppState

MAX_REQUEST_LENGTH = 64 * 1024
CLOSE_POLICY_VIOLATION = 1008
CLOSE_GOING_AWAY = 1001

log = logging.getLogger(__name__)


class LiveRequest(Struct, forbid_unknown_fields=True):
    """A client's message: the cameras that it shows from now on, or the number of pictures received."""

    subscribe: list[str] | None = None
    widths: dict[str, Annotated[int, Meta(ge=1, le=16384)]] = {}
    """Camera -> width of its tile in pixels."""
    seen: Annotated[int, Meta(ge=0)] | None = None
    """Pictures received since the connection began."""

    def __post_init__(self) -> None:
        """Refuse a message that holds neither."""
        if self.subscribe is None and self.seen is None:
            raise ValueError("neither subscribe nor seen")


@websocket("/live", need="read")
async def live(socket: WebSocket, app: AppDependency, principal: PrincipalDependency) -> None:  # type: ignore[type-arg]
    """Serve one client until it disconnects, or the server stops."""
    if not is_same_origin(socket.headers.get("origin"), socket.headers.get("host")):
        # Browsers let any page open a WebSocket: without this check, a foreign page could watch the cameras.
        await socket.close(code=CLOSE_POLICY_VIOLATION, reason="the page has another origin")
        return
    await socket.accept()
    viewer = Viewer()
    tasks = [
        asyncio.create_task(_receive(socket, app, principal, viewer)),
        asyncio.create_task(_send(socket, viewer)),
        asyncio.create_task(_wait_for_stop(app)),
        asyncio.create_task(_wait_for_session_end(app, principal)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            reason = task.result()
            if reason is not None:
                await socket.close(code=reason[0], reason=reason[1])
    except (WebSocketDisconnect, ConnectionError):
        log.debug("live client disconnected")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for camera in app.tiles.get_watched_by(viewer):
            app.tiles.leave(camera, viewer)
        app.metrics.count("live_pictures_skipped", viewer.rate_controller.skipped_total)


async def _receive(
    socket: WebSocket,  # type: ignore[type-arg]
    app: AppState,
    principal: Principal,
    viewer: Viewer,
) -> tuple[int, str] | None:
    """Apply the client's messages; return code and reason when the connection must end."""
    while True:
        text = await socket.receive_data(mode="text")
        try:
            if len(text) > MAX_REQUEST_LENGTH:
                raise msgspec.DecodeError("the message is too long")
            request = msgspec.json.decode(text, type=LiveRequest)
            if request.seen is not None:
                viewer.record_confirmed(request.seen)
        except ValueError as error:
            return CLOSE_POLICY_VIOLATION, f'send {{"subscribe": [camera, …]}}: {error}'[:100]
        if request.subscribe is None:
            continue
        viewer.widths = request.widths
        requested = set(request.subscribe)
        visible = {camera for camera in requested & app.tiles.views.keys() if principal.can_see(camera)}
        present = app.tiles.get_watched_by(viewer)
        for camera in present - visible:
            app.tiles.leave(camera, viewer)
        for camera in sorted(visible - present):
            app.tiles.join(camera, viewer)
        await socket.send_data(
            msgspec.json.encode({"subscribed": sorted(visible), "unknown": sorted(requested - visible)[:100]}),
            mode="text",
        )


async def _send(socket: WebSocket, viewer: Viewer) -> None:  # type: ignore[type-arg]
    """Send the newest picture of each camera; while a send waits, newer pictures replace older ones."""
    while True:
        await socket.send_data(await viewer.take_message(), mode="binary")


async def _wait_for_stop(app: AppState) -> tuple[int, str]:
    await app.stop_event.wait()
    return CLOSE_GOING_AWAY, "the server is stopping"


async def _wait_for_session_end(app: AppState, principal: Principal) -> tuple[int, str]:
    monitor = SessionMonitor(app, principal)
    while await monitor.is_still_valid():
        await asyncio.sleep(SESSION_CHECK_S)
    return CLOSE_POLICY_VIOLATION, "the session has ended"


router = Router("/", route_handlers=[live])
