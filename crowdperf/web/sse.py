"""Server-sent events: the feed's messages for any number of clients, resumable by Last-Event-ID."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from crowdperf.accounts.principal import Principal
from crowdperf.messaging.consumer import parse_entry_id, read_newest_entries
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.web.auth import PrincipalDependency, SessionMonitor
from crowdperf.web.live.channel import BroadcastMessage, encode_sse
from crowdperf.web.live.feed import build_event_message
from crowdperf.web.parameters import errors, parse_stream_id
from crowdperf.web.state import AppDependency, AppState

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
    app: AppDependency,
    principal: PrincipalDependency,
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
    return Stream(_generate_messages(app, principal, resume), media_type="text/event-stream", headers=headers)


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
    messages = [build_event_message(entry_id, fields) for entry_id, fields in rows[-MAX_REPLAYED_EVENTS:]]
    if len(rows) > MAX_REPLAYED_EVENTS:
        rows = await app.redis.xrevrange(name, count=MAX_REPLAYED_EVENTS)
        messages = [build_event_message(entry_id, fields) for entry_id, fields in reversed(rows)]
    trimmed = bool(oldest) and parse_entry_id(resume.encode()) < parse_entry_id(oldest[0][0])
    if trimmed or len(messages) == MAX_REPLAYED_EVENTS:
        messages.insert(0, _build_lost_message("unknown"))
    last = next((message.id for message in reversed(messages) if message.id), None)
    return messages, parse_entry_id(last or resume.encode())


async def _generate_messages(app: AppState, principal: Principal, resume: str | None) -> AsyncIterator[bytes]:
    """Yield the messages of one client in batches; a slow client delays this generator only."""
    # Subscribe first, so that no message falls between replay and live messages. The id reveals duplicates.
    subscriber = app.broadcast.subscribe()
    seen: tuple[int, int] | None
    try:
        missed, seen = await _build_replay(app, resume)
        first = [
            app.feed.build_status_message(app.now()),
            app.feed.build_counts_message(),
            app.feed.build_occupancy_message(),
        ]
        yield RETRY_FIELD + b"".join(message.get_data_for(principal.cameras) for message in [*first, *missed])
        monitor = SessionMonitor(app, principal)
        while (batch := await subscriber.take_batch()) is not None and await monitor.is_still_valid():
            lost = subscriber.take_lost_count()
            data = _build_lost_message(lost).data if lost else b""
            if seen is not None:
                batch = [message for message in batch if message.id is None or parse_entry_id(message.id) > seen]
                if any(message.id for message in batch):
                    # Ids only grow: every later message is new.
                    seen = None
            data += b"".join([message.get_data_for(principal.cameras) for message in batch])
            yield data or b": keep-alive\n\n"
    finally:
        app.broadcast.unsubscribe(subscriber)


def _build_lost_message(count: int | str) -> BroadcastMessage:
    return encode_sse("lost", msgspec.json.encode({"messages": count}))


router = Router("/", tags=["live"], route_handlers=[stream])
