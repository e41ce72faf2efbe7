"""Stream entries on their way to people: decoded, and put into the API's form."""

from __future__ import annotations

from typing import Any, get_args

import redis.asyncio

from crowdperf.events import wire
from crowdperf.events.schema import AnyEvent
from crowdperf.events.streams import CONNECTIONS, EVENTS, TRACKS
from crowdperf.storage.crossings import CrossingRecord
from crowdperf.web.parameters import format_rfc3339
from crowdperf.web.replies import EventReply

StreamRow = tuple[bytes, dict[bytes, bytes]]
EVENT_TYPES = tuple(kind.__name__ for kind in get_args(AnyEvent))


def unpack_stream_reply(reply: Any) -> list[tuple[bytes, list[StreamRow]]]:
    """XREAD's reply, RESP2 list or RESP3 map, as (key, rows)."""
    if not reply:
        return []
    if isinstance(reply, dict):
        return [(name, rows[0] if rows and isinstance(rows[0], list) else rows) for name, rows in reply.items()]
    return [(name, rows) for name, rows in reply]


async def read_newest_tracks(client: redis.asyncio.Redis, keys: list[str]) -> list[StreamRow | None]:
    """The newest entry of each stream, in one round trip."""
    pipe: Any = client.pipeline(transaction=False)
    for key in keys:
        pipe.xrevrange(key, count=1)
    replies = await pipe.execute()
    return [rows[0] if rows else None for rows in replies]


def decode_event(fields: dict[bytes, bytes]) -> AnyEvent | None:
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


def decode_connections(rows: list[StreamRow]) -> list[EventReply]:
    """The changes of a camera's connection in rows of its stream, each once, in their order."""
    found = {}
    for _, fields in rows:
        try:
            event = wire.decode(CONNECTIONS, fields)
        except wire.PoisonError:
            continue
        found[event.id] = to_event_reply(event)
    return list(found.values())


def decode_frame(fields: dict[bytes, bytes]) -> Any:
    """The TrackedFrame of an entry, None for one that cannot be read."""
    try:
        return wire.decode(TRACKS, fields)
    except wire.PoisonError:
        return None


def to_event_reply(event: AnyEvent) -> EventReply:
    """The event as the API shows it: what the two have in common by name."""
    shown = {name: getattr(event, name) for name in event.__struct_fields__ if name in EventReply.__struct_fields__}
    return EventReply(type=type(event).__name__, time=format_rfc3339(event.ts), **shown)


def crossing_to_event_reply(crossing: CrossingRecord) -> EventReply:
    """A crossing of the history in the form of the event that it was."""
    return EventReply(
        type="LineCrossed",
        id=crossing.id,
        camera=crossing.camera,
        ts=crossing.ts,
        time=format_rfc3339(crossing.ts),
        line=crossing.line,
        direction=crossing.direction,
        klass=crossing.class_name,
        track=crossing.track,
    )
