"""A reader whose effects go to another store than Redis: it moves its group only behind what is stored there.

A consumer group's list of pending entries counts deliveries, and an entry that merely waits for a store that is away
would soon look like poison. So the stream is read by position, and the group is moved (XGROUP SETID) by `commit`, which
is also what keeps trimming behind it. What is read again after a kill must be the same when stored again.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
import redis

from crowdperf.messaging import codec
from crowdperf.messaging.bus import StreamEntry
from crowdperf.messaging.codec import dead_key, is_addressed_to, stage_dead_letter
from crowdperf.messaging.redis.client import BLOCK_MS
from crowdperf.messaging.streams import Stream, stream_key

T = TypeVar("T", bound=msgspec.Struct)
STREAM_START = b"0-0"


class StreamReader(Generic[T]):
    """The only reader of its group."""

    def __init__(self, client: redis.Redis, stream: Stream, group: str, prefix: str = "") -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._stream = stream
        self._key = stream_key(stream, prefix=prefix)
        self._group = group
        self._dead_key = dead_key(stream.name, group, prefix)
        self._position = STREAM_START
        self.dead_letters = 0

    def start(self) -> bool:
        """Find the position; True where the group had to be made. Call it at start-up and after every outage.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is away.
        """
        made = False
        try:
            self._client.xgroup_create(self._key, self._group, id="0", mkstream=True)
            made = True
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        for group in self._client.xinfo_groups(self._key):
            if group["name"] == self._group.encode():
                self._position = group["last-delivered-id"]
        return made

    def read(self, count: int, block_ms: int = BLOCK_MS) -> list[StreamEntry[T]]:
        """What follows the position, at most `count`; call `commit` when all of it is stored.

        Entries that cannot be decoded are dead letters at once; those that were driven again for another consumer are
        passed over.
        """
        reply = self._client.xread({self._key: self._position}, count=count, block=block_ms)
        rows = reply.values() if isinstance(reply, dict) else [rows for _, rows in reply or []]
        entries: list[StreamEntry[T]] = []
        for found in rows:
            for entry_id, fields in found[0] if found and isinstance(found[0], list) else found:
                self._position = entry_id
                if not is_addressed_to(fields, self._group):
                    continue
                try:
                    entries.append(StreamEntry(self._key, entry_id, codec.decode(self._stream, fields)))
                except codec.PoisonError as error:
                    self._dead_letter(fields, entry_id, str(error))
        return entries

    def dead_letter(self, entry: StreamEntry[T], reason: str) -> None:
        """Move an entry that cannot be stored to the dead letters."""
        fields = codec.encode(self._stream, entry.message)
        self._dead_letter({str(name).encode(): str(value).encode() for name, value in fields.items()}, entry.id, reason)

    def _dead_letter(self, fields: dict[bytes, bytes], entry_id: bytes, reason: str) -> None:
        self.dead_letters += 1
        stage_dead_letter(self._client, self._dead_key, fields, entry_id, self._key, reason)

    @property
    def read_until(self) -> float:
        """When the newest entry that was read was appended, Unix seconds; 0 before the first."""
        return int(self._position.split(b"-")[0]) / 1000

    def commit(self) -> None:
        """Move the group behind what was read.

        Raises:
            redis.ResponseError: NOGROUP, Redis was emptied; call `start`.
        """
        self._client.xgroup_setid(self._key, self._group, self._position)

    def check_position(self) -> None:
        """Begin anew where the stream begins anew at smaller ids (the clock went back, Redis was emptied)."""
        newest = self._client.xinfo_stream(self._key)["last-generated-id"]
        if _parse_entry_id(newest) < _parse_entry_id(self._position):
            self._position = STREAM_START


def _parse_entry_id(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number or 0)
