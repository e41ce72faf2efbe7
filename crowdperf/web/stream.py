"""Server-sent events: what the feed publishes, to any number of clients, resumable by Last-Event-ID."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Router, get
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from crowdperf.accounts.permissions import Principal
from crowdperf.events.connection import OUTAGE
from crowdperf.events.streams import EVENTS, key
from crowdperf.web.access import Watch, Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.fanout import Message, encode
from crowdperf.web.feed import event_message
from crowdperf.web.openapi import BAD_REQUEST, REFUSED
from crowdperf.web.parameters import stream_id

REPLAY = 1000
"""Events a resuming client may have missed; beyond that it is told to load the page's data anew."""
RETRY = b"retry: 2000\n\n"

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
    site: SiteContext,
    who: Who,
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
    resume = stream_id("Last-Event-ID", asked) if asked else None
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(_messages(site, who, resume), media_type="text/event-stream", headers=headers)


async def _replay(site: Context, resume: str | None) -> tuple[list[Message], tuple[int, int]]:
    """What a resuming client has missed, and the id up to which it needs nothing more.

    A new client needs nothing up to the stream's present end: a feed that has just begun still publishes older events.
    """
    # Any: redis-py types its replies differently from release to release.
    client: Any = site.redis
    try:
        if resume is not None:
            return await _missed(site, resume)
        tail = await client.xrevrange(key(EVENTS, prefix=site.prefix), count=1)
        return [], _numbers(tail[0][0].decode()) if tail else (0, 0)
    except OUTAGE:
        return ([] if resume is None else [_lost("unknown")]), (0, 0)


async def _missed(site: Context, resume: str) -> tuple[list[Message], tuple[int, int]]:
    """The messages behind that id, and the last id among them."""
    # Any: redis-py types its replies differently from release to release.
    client: Any = site.redis
    name = key(EVENTS, prefix=site.prefix)
    rows = await client.xrange(name, f"({resume}", "+", count=REPLAY + 1)
    oldest = await client.xrange(name, count=1)
    messages = [event_message(entry_id, fields) for entry_id, fields in rows[-REPLAY:]]
    if len(rows) > REPLAY:
        rows = await client.xrevrange(name, count=REPLAY)
        messages = [event_message(entry_id, fields) for entry_id, fields in reversed(rows)]
    if len(messages) == REPLAY or (oldest and _numbers(resume) < _numbers(oldest[0][0].decode())):
        messages.insert(0, _lost("unknown"))
    last = next((message.id for message in reversed(messages) if message.id), None)
    return messages, _numbers(last.decode()) if last else _numbers(resume)


async def _messages(site: Context, who: Principal, resume: str | None) -> AsyncIterator[bytes]:
    """What one client gets, batched: a slow client's socket holds up this generator and nothing else."""
    # Joined first, so that nothing falls between the replay and the live messages; what comes twice is told by its id.
    listener = site.hub.join()
    seen: tuple[int, int] | None
    try:
        missed, seen = await _replay(site, resume)
        first = [site.feed.status_message(site.now()), site.feed.counts_message(), site.feed.occupancy_message()]
        yield RETRY + b"".join(message.seen_by(who.cameras) for message in [*first, *missed])
        watch = Watch(site, who)
        while (batch := await listener.take()) is not None and await watch.may_stay():
            lost = listener.take_lost()
            data = _lost(lost).data if lost else b""
            if seen is not None:
                batch = [message for message in batch if message.id is None or message.order() > seen]
                if any(message.id for message in batch):
                    # Ids only grow: what comes from here on is new without being looked at.
                    seen = None
            data += b"".join([message.seen_by(who.cameras) for message in batch])
            yield data or b": keep-alive\n\n"
    finally:
        site.hub.leave(listener)


def _lost(count: int | str) -> Message:
    return encode("lost", msgspec.json.encode({"messages": count}))


def _numbers(entry_id: str) -> tuple[int, int]:
    ms, _, n = entry_id.partition("-")
    return int(ms), int(n or 0)


router = Router("/", route_handlers=[stream])
