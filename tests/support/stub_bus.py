"""A publisher and a consumer in memory."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from crowdperf.messaging import codec
from crowdperf.messaging.consumer import StreamEntry
from crowdperf.messaging.streams import Stream

T = TypeVar("T", bound=msgspec.Struct)


class StubBus(Generic[T]):
    """Publish to and consume from one list, encoding and decoding as with Redis."""

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
        """Return the next unread entries."""
        rows = self._entries[self._next : self._next + count]
        self._next += len(rows)
        return [StreamEntry(entry_id, codec.decode(self._stream, fields)) for entry_id, fields in rows]

    def ack(self, entries: list[StreamEntry[T]]) -> None:
        """Acknowledge entries."""
        self._acknowledged |= {entry.id for entry in entries}

    def restart(self) -> None:
        """Deliver the entries without an acknowledgement again, as to a restarted consumer."""
        self._entries = [row for row in self._entries if row[0] not in self._acknowledged]
        self._next = 0
