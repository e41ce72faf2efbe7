"""Typed streams over Redis: `Publisher[T]`, `Consumer[T]`, and `StubBus`, a real in-memory twin for tests.

At-least-once delivery: an entry is acknowledged after its effect. What must be exactly-once stages its effect and its
acknowledgement in one MULTI (`Publisher.stage`, `Consumer.stage_ack`), or dedupes by event id.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
import redis

from crowdperf.messaging import codec
from crowdperf.messaging.codec import dead_key, is_addressed_to, stage_dead_letter
from crowdperf.messaging.redis.client import BLOCK_MS
from crowdperf.messaging.streams import Stream, stream_key

T = TypeVar("T", bound=msgspec.Struct)
MAX_DELIVERIES = 5
"""An entry delivered more often than this without an acknowledgement is poison."""


class StreamEntry(msgspec.Struct, Generic[T], frozen=True):
    """One delivered message."""

    stream: str
    """The Redis key."""
    id: bytes
    """The stream id, `<ms>-<n>`."""
    message: T


class Publisher(Generic[T]):
    """Appends messages of one stream with ids of Redis's own (`*`)."""

    def __init__(self, client: redis.Redis, stream: Stream, prefix: str = "") -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._stream = stream
        self._prefix = prefix

    def publish(self, message: T, camera: str = "") -> None:
        """Append one message now.

        Raises:
            redis.ConnectionError, redis.TimeoutError: it may or may not be stored.
        """
        self.stage(self._client, message, camera)

    def stage(self, pipe: Any, message: T, camera: str = "") -> None:
        """Append one message to a pipeline or transaction."""
        pipe.xadd(
            stream_key(self._stream, camera, self._prefix),
            codec.encode(self._stream, message),
            maxlen=self._stream.max_entries,
            approximate=True,
        )


class Consumer(Generic[T]):
    """Reads a stream (of one or many cameras) as one named member of a group.

    After a restart under the same name, `read` first returns what was delivered before and never acknowledged, in
    order. An entry that cannot be decoded, or was delivered too often, goes to `crowdperf:dead:<stream>:<group>`.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: Stream,
        group: str,
        name: str,
        cameras: tuple[str, ...] = ("",),
        prefix: str = "",
    ) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._stream = stream
        self.group = group
        self._name = name
        self._dead_key = dead_key(stream.name, group, prefix)
        self._keys = [stream_key(stream, camera, prefix) for camera in cameras]
        self._resume = dict.fromkeys(self._keys, b"0")
        """Keys whose own pending entries are still to be read, and from which id on."""
        self.dead_letters = 0

    def start(self) -> None:
        """Create the group where it is missing, and begin with this member's own pending entries.

        Call it at start-up and after every reconnection: a Redis that lost its data has lost its groups too.
        """
        for name in self._keys:
            self._create_group(name)
        self._resume = dict.fromkeys(self._keys, b"0")

    def _create_group(self, name: str) -> None:
        try:
            self._client.xgroup_create(name, self.group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def read(self, count: int = 64, block_ms: int = BLOCK_MS) -> list[StreamEntry[T]]:
        """The next entries, at most `count` per stream; an empty list when nothing came within `block_ms`."""
        while self._resume:
            reply = self._client.xreadgroup(self.group, self._name, dict(self._resume), count=count)
            entries = self._collect_pending(_parse_reply(reply), count)
            if entries:
                return entries
        reply = self._client.xreadgroup(
            self.group, self._name, dict.fromkeys(self._keys, ">"), count=count, block=block_ms
        )
        return [entry for stream, rows in _parse_reply(reply) for entry in self._decode_rows(stream, rows)]

    def ack(self, entries: list[StreamEntry[T]]) -> None:
        """Acknowledge entries whose effect needs no transaction."""
        with self._client.pipeline(transaction=False) as pipe:
            self.stage_ack(pipe, entries)
            pipe.execute()

    def stage_ack(self, pipe: Any, entries: list[StreamEntry[T]]) -> None:
        """Acknowledge entries inside the transaction that holds their effect."""
        by_stream: dict[str, list[bytes]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry.id)
        for stream, ids in by_stream.items():
            pipe.xack(stream, self.group, *ids)

    def claim_from_others(self, min_idle_ms: int = 60_000) -> list[StreamEntry[T]]:
        """Take over entries that a member of the group has held for so long; it is gone, and may not come back."""
        entries: list[StreamEntry[T]] = []
        for name in self._keys:
            reply = self._client.xautoclaim(name, self.group, self._name, min_idle_ms, start_id="0-0", count=256)
            entries += self._decode_rows(
                name, self._remove_poison(name, [row for row in reply[1] if row[1] is not None])
            )
        return entries

    def dead_letter(self, entry: StreamEntry[T], reason: str) -> None:
        """Move an entry that was decoded, but cannot be handled, to the dead-letter stream."""
        self._dead_letter(entry.stream, entry.id, dict(codec.encode(self._stream, entry.message)), reason)

    def _collect_pending(self, reply: list[tuple[str, Any]], count: int) -> list[StreamEntry[T]]:
        """Own pending entries of one round; keys that have no more leave the resume table."""
        entries: list[StreamEntry[T]] = []
        for stream, rows in reply:
            if rows:
                self._resume[stream] = rows[-1][0]
            if len(rows) < count:
                self._resume.pop(stream, None)
            entries += self._decode_rows(stream, self._remove_poison(stream, rows))
        if not reply:
            self._resume.clear()
        return entries

    def _remove_poison(self, stream: str, rows: list[Any]) -> list[Any]:
        """Pending entries without those that were delivered too often, which are buried."""
        delivered = self._count_deliveries(stream, rows) if rows else {}
        spent = [row for row in rows if delivered.get(row[0], 1) > MAX_DELIVERIES]
        for row in spent:
            self._dead_letter(stream, row[0], row[1] or {}, f"delivered {delivered[row[0]]} times")
        return [row for row in rows if row not in spent]

    def _count_deliveries(self, stream: str, rows: list[Any]) -> dict[bytes, int]:
        """How often each of these pending entries was delivered."""
        pending = self._client.xpending_range(stream, self.group, rows[0][0], rows[-1][0], len(rows), self._name)
        return {row["message_id"]: row["times_delivered"] for row in pending}

    def _decode_rows(self, stream: str, rows: list[Any]) -> list[StreamEntry[T]]:
        entries: list[StreamEntry[T]] = []
        for entry_id, fields in rows:
            if not fields or not is_addressed_to(fields, self.group):
                # Trimmed while it was pending, or driven again for another group: it must not come again.
                self._client.xack(stream, self.group, entry_id)
                continue
            try:
                entries.append(StreamEntry(stream, entry_id, codec.decode(self._stream, fields)))
            except codec.PoisonError as error:
                self._dead_letter(stream, entry_id, fields, str(error))
        return entries

    def _dead_letter(self, stream: str, entry_id: bytes, fields: dict[bytes, bytes], reason: str) -> None:
        """Move an entry to the dead-letter stream; one transaction, so that it is in exactly one place."""
        self.dead_letters += 1
        with self._client.pipeline() as pipe:
            stage_dead_letter(pipe, self._dead_key, fields, entry_id, stream, reason)
            pipe.xack(stream, self.group, entry_id)
            pipe.execute()


def _parse_reply(reply: Any) -> list[tuple[str, Any]]:
    """XREADGROUP's reply, RESP2 list or RESP3 map, as (key, entries)."""
    if isinstance(reply, dict):
        return [
            (name.decode(), rows[0] if rows and isinstance(rows[0], list) else rows) for name, rows in reply.items()
        ]
    return [(name.decode(), rows) for name, rows in reply or []]


class StubBus(Generic[T]):
    """A publisher and a consumer over one in-memory list, encoding and decoding as Redis would."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._entries: list[tuple[bytes, dict[bytes, bytes]]] = []
        self._acknowledged: set[bytes] = set()
        self._next = 0

    def publish(self, message: T, camera: str = "") -> None:
        """Append one message."""
        fields = {
            name.encode(): value if isinstance(value, bytes) else str(value).encode()
            for name, value in codec.encode(self._stream, message).items()
        }
        self._entries.append((f"{len(self._entries) + 1}-0".encode(), fields))

    def read(self, count: int = 64, block_ms: int = 0) -> list[StreamEntry[T]]:
        """The next entries that were not read yet."""
        rows = self._entries[self._next : self._next + count]
        self._next += len(rows)
        return [
            StreamEntry(self._stream.name, entry_id, codec.decode(self._stream, fields)) for entry_id, fields in rows
        ]

    def ack(self, entries: list[StreamEntry[T]]) -> None:
        """Acknowledge entries."""
        self._acknowledged |= {entry.id for entry in entries}

    def restart(self) -> None:
        """Deliver again whatever was not acknowledged, as a restarted consumer would see it."""
        self._entries = [row for row in self._entries if row[0] not in self._acknowledged]
        self._next = 0
