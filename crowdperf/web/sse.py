"""Server-sent events: what the feed publishes, to any number of clients, resumable by Last-Event-ID."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Router, get
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from crowdperf.accounts.principal import Principal
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.web.auth import PrincipalDependency, SessionMonitor
from crowdperf.web.live.channel import BroadcastMessage, encode_sse
from crowdperf.web.live.feed import build_event_message
from crowdperf.web.parameters import BAD_REQUEST, REFUSED, parse_stream_id
from crowdperf.web.state import AppDependency, AppState

MAX_REPLAYED_EVENTS = 1000
"""Events a resuming client may have missed; beyond that it is told to load the page's data anew."""
RETRY_FIELD = b"retry: 2000\n\n"

_SPEC = ResponseSpec(str, description="A stream of events, without an end.", media_type="text/event-stream")


@get(
    "/stream",
    need="read",
    summary="Live events and counts",
    tags=["live"],
    media_type="text/event-stream",
    responses={200: _SPEC, **BAD_REQUEST, **REFUSED},
)
async def stream(
    app: AppDependency,
    principal: PrincipalDependency,
    last_event_id: Annotated[
        str | None,
        HeaderParameter(name="Last-Event-ID", description="Go on behind this id; browsers send it.", max_length=64),
    ] = None,
    last_id: Annotated[
        str | None, QueryParameter(description="The same, for a client that cannot set the header.", max_length=64)
    ] = None,
) -> Stream:
    """`event`: one event, its `id` is what to resume from. `counts`: today's counts, all (`whole`) or those that
    changed, as they are now. `occupancy`: zones that changed. `status`: the server's clock, and whether Redis answers.
    `configuration`: cameras, areas or rules have changed. `lost`: this client was too slow, or away for too long, and
    should load everything anew.
    """
    asked = last_event_id or last_id
    resume = parse_stream_id("Last-Event-ID", asked) if asked else None
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(_generate_messages(app, principal, resume), media_type="text/event-stream", headers=headers)


async def _build_replay(app: AppState, resume: str | None) -> tuple[list[BroadcastMessage], tuple[int, int]]:
    """What a resuming client has missed, and the id up to which it needs nothing more.

    A new client needs nothing up to the stream's present end: a feed that has just begun still publishes older events.
    """
    # Any: redis-py types its replies differently from release to release.
    client: Any = app.redis
    try:
        if resume is not None:
            return await _read_missed(app, resume)
        tail = await client.xrevrange(stream_key(EVENTS, prefix=app.prefix), count=1)
        return [], _parse_id(tail[0][0].decode()) if tail else (0, 0)
    except OUTAGE:
        return ([] if resume is None else [_build_lost_message("unknown")]), (0, 0)


async def _read_missed(app: AppState, resume: str) -> tuple[list[BroadcastMessage], tuple[int, int]]:
    """The messages behind that id, and the last id among them."""
    # Any: redis-py types its replies differently from release to release.
    client: Any = app.redis
    name = stream_key(EVENTS, prefix=app.prefix)
    rows = await client.xrange(name, f"({resume}", "+", count=MAX_REPLAYED_EVENTS + 1)
    oldest = await client.xrange(name, count=1)
    messages = [build_event_message(entry_id, fields) for entry_id, fields in rows[-MAX_REPLAYED_EVENTS:]]
    if len(rows) > MAX_REPLAYED_EVENTS:
        rows = await client.xrevrange(name, count=MAX_REPLAYED_EVENTS)
        messages = [build_event_message(entry_id, fields) for entry_id, fields in reversed(rows)]
    if len(messages) == MAX_REPLAYED_EVENTS or (oldest and _parse_id(resume) < _parse_id(oldest[0][0].decode())):
        messages.insert(0, _build_lost_message("unknown"))
    last = next((message.id for message in reversed(messages) if message.id), None)
    return messages, _parse_id(last.decode()) if last else _parse_id(resume)


async def _generate_messages(app: AppState, principal: Principal, resume: str | None) -> AsyncIterator[bytes]:
    """What one client gets, batched: a slow client's socket holds up this generator and nothing else."""
    # Joined first, so that nothing falls between the replay and the live messages; what comes twice is told by its id.
    listener = app.broadcast.subscribe()
    seen: tuple[int, int] | None
    try:
        missed, seen = await _build_replay(app, resume)
        first = [
            app.feed.build_status_message(app.now()),
            app.feed.build_counts_message(),
            app.feed.build_occupancy_message(),
        ]
        yield RETRY_FIELD + b"".join(message.get_data_for(principal.cameras) for message in [*first, *missed])
        watch = SessionMonitor(app, principal)
        while (batch := await listener.take_batch()) is not None and await watch.is_still_valid():
            lost = listener.take_lost_count()
            data = _build_lost_message(lost).data if lost else b""
            if seen is not None:
                batch = [message for message in batch if message.id is None or message.parse_id() > seen]
                if any(message.id for message in batch):
                    # Ids only grow: what comes from here on is new without being looked at.
                    seen = None
            data += b"".join([message.get_data_for(principal.cameras) for message in batch])
            yield data or b": keep-alive\n\n"
    finally:
        app.broadcast.unsubscribe(listener)


def _build_lost_message(count: int | str) -> BroadcastMessage:
    return encode_sse("lost", msgspec.json.encode({"messages": count}))


def _parse_id(entry_id: str) -> tuple[int, int]:
    ms, _, n = entry_id.partition("-")
    return int(ms), int(n or 0)


router = Router("/", route_handlers=[stream])
