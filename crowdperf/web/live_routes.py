"""The live routes: server-sent events, resumable by Last-Event-ID, and the WebSocket of live tiles.

docs/web-server.md describes both protocols.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import Router, WebSocket, get, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream
from msgspec import Meta, Struct

from crowdperf.accounts.principal import Principal
from crowdperf.messaging.consumer import parse_entry_id, read_newest_entries
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.web.auth import SESSION_CHECK_S, PrincipalDependency, SessionMonitor, is_same_origin
from crowdperf.web.live.channel import BroadcastMessage, encode_sse
from crowdperf.web.live.feed import build_event_message
from crowdperf.web.live.tiles import MAX_SILENCE_S, Viewer
from crowdperf.web.parameters import errors, parse_stream_id
from crowdperf.web.state import AppDependency, AppState, ContextDependency, RequestContext

log = logging.getLogger(__name__)

MAX_REPLAYED_EVENTS = 1000
"""Maximum of missed events that a resuming client receives. A client that missed more is asked to reload its data."""
RETRY_FIELD = b"retry: 2000\n\n"

_SPEC = ResponseSpec(str, description="An endless stream of events.", media_type="text/event-stream")


@get(
    "/stream",
    need="read",
    summary="Live events and counts",
    media_type="text/event-stream",
    responses={200: _SPEC, **errors(400)},
)
async def stream(
    context: ContextDependency,
    last_event_id: Annotated[
        str | None,
        HeaderParameter(name="Last-Event-ID", description="Resume after this id; browsers send it.", max_length=64),
    ] = None,
    last_id: Annotated[
        str | None, QueryParameter(description="The same, for a client that cannot set the header.", max_length=64)
    ] = None,
) -> Stream:
    """Stream events and counts.

    `event`: one event; resume from its `id`. `counts`: today's counts, all of them (`whole`) or the changed ones.
    `occupancy`: zones that changed. `status`: the server's clock, and whether Redis answers. `configuration`: cameras,
    areas or rules have changed. `lost`: messages are missing, the client must reload its data.
    """
    sent_id = last_event_id or last_id
    resume = parse_stream_id("Last-Event-ID", sent_id) if sent_id else None
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(_generate_messages(context, resume), media_type="text/event-stream", headers=headers)


async def _build_replay(app: AppState, resume: str | None) -> tuple[list[BroadcastMessage], tuple[int, int]]:
    """Build the messages that a resuming client has missed.

    A new client missed nothing up to the stream's end: a feed that has just started still publishes older events.

    Returns:
        The messages, and the id of the last event that the client needs no more.
    """
    try:
        if resume is not None:
            return await _read_missed(app, resume)
        [tail] = await read_newest_entries(app.redis, [stream_key(EVENTS, prefix=app.prefix)])
        return [], parse_entry_id(tail[0]) if tail else (0, 0)
    except OUTAGE:
        return ([] if resume is None else [_build_lost_message("unknown")]), (0, 0)


async def _read_missed(app: AppState, resume: str) -> tuple[list[BroadcastMessage], tuple[int, int]]:
    """Read the messages after the id `resume`, and the last id among them."""
    name = stream_key(EVENTS, prefix=app.prefix)
    rows = await app.redis.xrange(name, f"({resume}", "+", count=MAX_REPLAYED_EVENTS + 1)
    oldest = await app.redis.xrange(name, count=1)
    messages = [
        build_event_message(entry_id, fields, app.config.areas) for entry_id, fields in rows[-MAX_REPLAYED_EVENTS:]
    ]
    if len(rows) > MAX_REPLAYED_EVENTS:
        rows = await app.redis.xrevrange(name, count=MAX_REPLAYED_EVENTS)
        messages = [build_event_message(entry_id, fields, app.config.areas) for entry_id, fields in reversed(rows)]
    trimmed = bool(oldest) and parse_entry_id(resume.encode()) < parse_entry_id(oldest[0][0])
    if trimmed or len(messages) == MAX_REPLAYED_EVENTS:
        messages.insert(0, _build_lost_message("unknown"))
    last = next((message.id for message in reversed(messages) if message.id), None)
    return messages, parse_entry_id(last or resume.encode())


async def _generate_messages(context: RequestContext, resume: str | None) -> AsyncIterator[bytes]:
    """Yield the messages of one client in batches; a slow client delays this generator only."""
    # Subscribe first, so that no message falls between replay and live messages. The id reveals duplicates.
    subscriber = context.app.broadcast.subscribe()
    seen: tuple[int, int] | None
    try:
        missed, seen = await _build_replay(context.app, resume)
        first = [
            context.app.feed.build_status_message(context.app.now()),
            context.app.feed.build_counts_message(),
            context.app.feed.build_occupancy_message(),
        ]
        yield RETRY_FIELD + b"".join(message.get_data_for(context.principal.cameras) for message in [*first, *missed])
        monitor = SessionMonitor(context.app, context.principal)
        while (batch := await subscriber.take_batch()) is not None and await monitor.is_still_valid():
            lost = subscriber.take_lost_count()
            data = _build_lost_message(lost).data if lost else b""
            if seen is not None:
                batch = [message for message in batch if message.id is None or parse_entry_id(message.id) > seen]
                if any(message.id for message in batch):
                    # Ids only grow: every later message is new.
                    seen = None
            data += b"".join([message.get_data_for(context.principal.cameras) for message in batch])
            yield data or b": keep-alive\n\n"
    finally:
        context.app.broadcast.unsubscribe(subscriber)


def _build_lost_message(count: int | str) -> BroadcastMessage:
    return encode_sse("lost", msgspec.json.encode({"messages": count}))


MAX_REQUEST_LENGTH = 64 * 1024
CLOSE_POLICY_VIOLATION = 1008
CLOSE_GOING_AWAY = 1001
SILENCE_CHECK_S = 5.0


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
        asyncio.create_task(_wait_for_silence(viewer)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for camera in app.tiles.get_watched_by(viewer):
            app.tiles.leave(camera, viewer)
        app.metrics.count("live_pictures_skipped", viewer.rate_controller.skipped_total)
        await asyncio.gather(*tasks, return_exceptions=True)
    # What the client held is free by now: to close a connection that takes nothing lasts until its deadline.
    try:
        for task in done:
            reason = task.result()
            if reason is not None:
                await socket.close(code=reason[0], reason=reason[1])
    except (WebSocketDisconnect, ConnectionError):
        log.debug("live client disconnected")


async def _receive(
    socket: WebSocket,  # type: ignore[type-arg]
    app: AppState,
    principal: Principal,
    viewer: Viewer,
) -> tuple[int, str] | None:
    """Apply the client's messages; return code and reason when the connection must end."""
    while True:
        text = await socket.receive_data(mode="text")
        viewer.record_message()
        try:
            if len(text) > MAX_REQUEST_LENGTH:
                raise msgspec.DecodeError("the message is too long")
            request = msgspec.json.decode(text, type=LiveRequest)
            if request.seen is not None:
                viewer.record_confirmed(request.seen)
        except (ValueError, RecursionError) as error:
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


async def _wait_for_silence(viewer: Viewer) -> tuple[int, str]:
    while not viewer.is_silent(time.monotonic()):
        await asyncio.sleep(SILENCE_CHECK_S)
    return CLOSE_POLICY_VIOLATION, f'no message for {MAX_SILENCE_S:g} s. Remedy: send {{"seen": n}}'


router = Router("/", tags=["live"], route_handlers=[stream, live])
