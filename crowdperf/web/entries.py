"""Stream entries on their way to people: decoded, and put into the API's form."""

from __future__ import annotations

from typing import Any, get_args

import redis.asyncio

from crowdperf.events import wire
from crowdperf.events.schema import AnyEvent
from crowdperf.events.streams import CONNECTIONS, EVENTS, TRACKS
from crowdperf.storage.crossings import Crossing
from crowdperf.web.parameters import rfc3339
from crowdperf.web.replies import EventReply

Row = tuple[bytes, dict[bytes, bytes]]
EVENT_TYPES = tuple(kind.__name__ for kind in get_args(AnyEvent))


def stream_rows(reply: Any) -> list[tuple[bytes, list[Row]]]:
    """XREAD's reply, RESP2 list or RESP3 map, as (key, rows)."""
    if not reply:
        return []
    if isinstance(reply, dict):
        return [(name, rows[0] if rows and isinstance(rows[0], list) else rows) for name, rows in reply.items()]
    return [(name, rows) for name, rows in reply]


async def newest_tracks(client: redis.asyncio.Redis, keys: list[str]) -> list[Row | None]:
    """The newest entry of each stream, in one round trip."""
    pipe: Any = client.pipeline(transaction=False)
    for key in keys:
        pipe.xrevrange(key, count=1)
    replies = await pipe.execute()
    return [rows[0] if rows else None for rows in replies]


def decoded_event(fields: dict[bytes, bytes]) -> AnyEvent | None:
    """The event of an entry; None for one that cannot be read, which is its consumers' business to report.

    A dead letter that was driven again (`_for`) is None as well: it is in the stream already.
    """
    if b"_for" in fields:
        return None
    try:
        event: AnyEvent = wire.decode(EVENTS, fields)
    except wire.PoisonError:
        return None
    return event


def decoded_connections(rows: list[Row]) -> list[EventReply]:
    """The changes of a camera's connection in rows of its stream, each once, in their order."""
    found = {}
    for _, fields in rows:
        try:
            event = wire.decode(CONNECTIONS, fields)
        except wire.PoisonError:
            continue
        found[event.id] = reply_of(event)
    return list(found.values())


def decoded_frame(fields: dict[bytes, bytes]) -> Any:
    """The TrackedFrame of an entry, None for one that cannot be read."""
    try:
        return wire.decode(TRACKS, fields)
    except wire.PoisonError:
        return None


def reply_of(event: AnyEvent) -> EventReply:
    """The event as the API shows it: what the two have in common by name."""
    shown = {name: getattr(event, name) for name in event.__struct_fields__ if name in EventReply.__struct_fields__}
    return EventReply(type=type(event).__name__, time=rfc3339(event.ts), **shown)


def reply_of_crossing(crossing: Crossing) -> EventReply:
    """A crossing of the history in the form of the event that it was."""
    return EventReply(
        type="LineCrossed",
        id=crossing.id,
        camera=crossing.camera,
        ts=crossing.ts,
        time=rfc3339(crossing.ts),
        line=crossing.line,
        direction=crossing.direction,
        klass=crossing.klass,
        track=crossing.track,
    )
