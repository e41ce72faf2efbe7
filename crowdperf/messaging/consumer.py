"""Read Redis streams: every reader of a stream is one of these two consumers, or uses the functions here.

`Consumer` is a member of a consumer group. An entry is acknowledged after its effect, so delivery is at least once.
Staging effect and acknowledgement in one MULTI makes it exactly once, and so does a deduplication by event id.

`PositionConsumer` reads by position (XREAD) and moves its group (XGROUP SETID) together with the effects. Other parts
then see what is handled, and trimming stays behind it. There are no pending entries and no delivery counts, so an entry
that waits for a store never looks like poison. After an outage it begins again behind the committed position.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import redis

from crowdperf.messaging import codec
from crowdperf.messaging.codec import dead_key, is_addressed_to, stage_dead_letter
from crowdperf.messaging.redis.client import BLOCK_MS, AnyClient
from crowdperf.messaging.streams import Stream, stream_key

T = TypeVar("T", bound=msgspec.Struct)
EntryFields = dict[bytes, bytes]
StreamRow = tuple[bytes, EntryFields]
"""Id and fields of an entry."""
STREAM_START = b"0-0"
MAX_DELIVERIES = 5
"""An entry that was delivered this often without an acknowledgement is poison. The last times it was alone."""
ALONE_AFTER = 2
"""Entries that were delivered more often are delivered one by one: only one of them ends the process."""
GROUPS_INTERVAL_S = 1.0
"""Time after which a reader by position looks for its groups, although some streams keep it busy."""
LOST_STREAM_TEXTS = ("NOGROUP", "requires the key", "no such key")
"""Texts of the errors of Redis for a stream or group that is gone."""

log = logging.getLogger(__name__)


def parse_entry_id(entry_id: bytes) -> tuple[int, int]:
    """Parse a stream id `<ms>-<n>` into numbers, which have the order of the stream."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number or 0)


def unpack_reply(reply: Any) -> list[tuple[bytes, list[StreamRow]]]:
    """Return (key, entries) pairs of a reply of XREAD or XREADGROUP, RESP2 list or RESP3 map."""
    pairs = reply.items() if isinstance(reply, dict) else reply or ()
    # RESP3 wraps each stream's entries in one more list.
    return [(name, rows[0] if rows and isinstance(rows[0], list) else rows) for name, rows in pairs]


async def read_newest_entries(client: Any, keys: Iterable[str]) -> list[StreamRow | None]:
    """Read the newest entry of each stream in one round trip; None for an empty stream."""
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.xrevrange(key, count=1)
    return [rows[0] if rows else None for rows in await pipe.execute()]


def create_group(client: Any, key: str, group: str) -> None:
    """Create a consumer group at the start of a stream, and the stream, where they are missing.

    Args:
        client: a redis-py client.
        key: Redis key of the stream.
        group: name of the group.
    """
    try:
        client.xgroup_create(key, group, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def is_stream_lost(error: BaseException) -> bool:
    """Check whether a stream or its group is gone: Redis lost its data, or it was deleted."""
    return isinstance(error, redis.ResponseError) and any(text in str(error) for text in LOST_STREAM_TEXTS)


class StreamEntry(msgspec.Struct, Generic[T], frozen=True):
    """One delivered message."""

    id: bytes
    """Stream id, `<ms>-<n>`."""
    message: T


class Consumer(Generic[T]):
    """Read a stream as one named member of a group.

    After a restart under the same name, `read` first returns the entries that were delivered and never acknowledged. An
    entry that cannot be decoded, or was delivered too often, goes to `crowdperf:dead:<stream>:<group>`.

    Args:
        client: a redis-py client.
        stream: row of the stream table.
        group: name of the consumer group.
        name: name of this member.
        camera: id of the camera, for a stream per camera.
        prefix: the configured prefix of every key.
    """

    def __init__(
        self, client: redis.Redis, stream: Stream, group: str, name: str, camera: str = "", prefix: str = ""
    ) -> None:
        self._client: AnyClient = client
        self._stream = stream
        self.group = group
        self._name = name
        self._dead_key = dead_key(stream.name, group, prefix)
        self.key = stream_key(stream, camera, prefix)
        self._resume_at: bytes | None = b"0"
        """Id behind which own pending entries are still to be read; None for none."""
        self._has_started = False
        self._is_after_outage = False
        """Whether this process has had the pending entries before: to read them again is no delivery."""
        self.dead_letters = 0

    def start(self) -> None:
        """Create the group where it is missing, and begin with this member's own pending entries.

        Call it at start-up and after every outage, since a Redis that lost its data has lost its groups too.
        """
        create_group(self._client, self.key, self.group)
        self._resume_at, self._is_after_outage, self._has_started = b"0", self._has_started, True

    def read(self, count: int = 64, block_ms: int = BLOCK_MS) -> list[StreamEntry[T]]:
        """Return the next entries, at most `count`; none where `block_ms` passes without one."""
        return self._read_pending(count) or self._decode_rows(self._read_rows(b">", count, block_ms))

    def _read_pending(self, count: int) -> list[StreamEntry[T]]:
        """Return own unacknowledged entries, one at a time where they have ended the process before."""
        while self._resume_at is not None:
            pending = self._client.xpending_range(self.key, self.group, b"(" + self._resume_at, "+", count, self._name)
            if not pending:
                self._resume_at = None
                break
            alone = any(row["times_delivered"] > ALONE_AFTER for row in pending)
            pending = pending[:1] if alone else pending
            rows = (
                self._fetch_rows([row["message_id"] for row in pending])
                if self._is_after_outage
                else self._read_rows(self._resume_at, len(pending))
            )
            self._resume_at = pending[-1]["message_id"]
            times = pending[0]["times_delivered"]
            if times >= MAX_DELIVERIES and not self._is_after_outage:
                for entry_id, fields in rows:
                    self._dead_letter(entry_id, fields or {}, f"delivered {times} times")
            elif entries := self._decode_rows(rows):
                return entries
        return []

    def _fetch_rows(self, ids: list[bytes]) -> list[Any]:
        """Read entries without a delivery, so that an outage never makes healthy entries look like poison."""
        with self._client.pipeline(transaction=False) as pipe:
            for entry_id in ids:
                pipe.xrange(self.key, entry_id, entry_id)
            replies = pipe.execute()
        return [(entry_id, rows[0][1] if rows else None) for entry_id, rows in zip(ids, replies, strict=True)]

    def _read_rows(self, start: bytes, count: int, block_ms: int | None = None) -> list[Any]:
        reply = self._client.xreadgroup(self.group, self._name, {self.key: start}, count=count, block=block_ms)
        return [row for _, rows in unpack_reply(reply) for row in rows]

    def ack(self, entries: list[StreamEntry[T]]) -> None:
        """Acknowledge entries whose effect needs no transaction."""
        if entries:
            self._client.xack(self.key, self.group, *(entry.id for entry in entries))

    def claim_from_others(self, min_idle_ms: int = 60_000) -> list[StreamEntry[T]]:
        """Take over the entries of members that have held them for `min_idle_ms` and may never return."""
        if self._client.xautoclaim(self.key, self.group, self._name, min_idle_ms, "0-0", count=256, justid=True):
            # Claimed without a delivery; read like the own ones of a process that has ended.
            self._resume_at, self._is_after_outage = b"0", False
        return self._read_pending(256)

    def _decode_rows(self, rows: list[Any]) -> list[StreamEntry[T]]:
        entries: list[StreamEntry[T]] = []
        for entry_id, fields in rows:
            if not fields or not is_addressed_to(fields, self.group):
                # Trimmed while it was pending, or redriven for another group: it must not come again.
                self._client.xack(self.key, self.group, entry_id)
                continue
            try:
                entries.append(StreamEntry(entry_id, codec.decode(self._stream, fields)))
            except codec.PoisonError as error:
                self._dead_letter(entry_id, fields, str(error))
        return entries

    def _dead_letter(self, entry_id: bytes, fields: EntryFields, reason: str) -> None:
        """Move an entry in one transaction, so that it is in exactly one place."""
        self.dead_letters += 1
        with self._client.pipeline() as pipe:
            stage_dead_letter(pipe, self._dead_key, fields, entry_id, self.key, reason)
            pipe.xack(self.key, self.group, entry_id)
            pipe.execute()


class RawEntry(NamedTuple):
    """One entry of a stream before it is decoded."""

    stream: str
    """Redis key of the stream."""
    id: bytes
    fields: EntryFields


class PositionConsumer(Generic[T]):
    """Read streams by position as the only reader of a group, and commit together with the effects.

    `positions` maps each stream's key to the id of the newest handled entry. `decode` moves it, `stage_commit` stores
    it. Rejected entries wait in memory for the commit, which moves them to the dead letters.

    Args:
        client: a redis-py client.
        stream: row of the stream table.
        group: name of the consumer group.
        cameras: ids of the cameras, for a stream per camera.
        prefix: the configured prefix of every key.
    """

    def __init__(
        self, client: redis.Redis, stream: Stream, group: str, cameras: Iterable[str] = ("",), prefix: str = ""
    ) -> None:
        self._client: AnyClient = client
        self._stream = stream
        self.group = group
        self._dead_key = dead_key(stream.name, group, prefix)
        self.positions = dict.fromkeys((stream_key(stream, camera, prefix) for camera in cameras), STREAM_START)
        self._rejected: list[tuple[RawEntry, str]] = []
        self._groups_checked_at = float("-inf")
        self.dead_letters = 0
        """Entries that were committed to the dead letters."""

    def start(self) -> None:
        """Create the missing groups, and begin behind what is committed; call it after every outage too."""
        self._rejected = []
        self.create_groups()
        for key in self.positions:
            groups = {row["name"]: row["last-delivered-id"] for row in self._client.xinfo_groups(key)}
            self.positions[key] = bytes(groups[self.group.encode()])

    def create_groups(self) -> None:
        """Create the group of every stream where it is missing."""
        for key in self.positions:
            create_group(self._client, key, self.group)

    def read(self, count: int, block_ms: int = BLOCK_MS) -> list[RawEntry]:
        """Return the entries behind the positions, at most `count` per stream; none after `block_ms`.

        A group that was lost meanwhile is created again, also while nothing is read.
        """
        reply = self._client.xread(self.positions, count=count, block=block_ms)
        if not reply or time.monotonic() - self._groups_checked_at >= GROUPS_INTERVAL_S:
            self._restore_groups()
        return [RawEntry(key.decode(), *row) for key, rows in unpack_reply(reply) for row in rows]

    def _restore_groups(self) -> None:
        """Create lost groups again. XREAD needs none, and a commit may come after entries were trimmed."""
        self._groups_checked_at = time.monotonic()
        with self._client.pipeline(transaction=False) as pipe:
            for key in self.positions:
                pipe.xinfo_groups(key)
            # Not created at once where it exists: a full server refuses even that.
            replies = pipe.execute(raise_on_error=False)
        for key, reply in zip(self.positions, replies, strict=True):
            if isinstance(reply, Exception) and not is_stream_lost(reply):
                raise reply
            if isinstance(reply, Exception) or self.group.encode() not in (row["name"] for row in reply):
                log.warning("%s has lost the group %r: it is created again", key, self.group)
                create_group(self._client, key, self.group)

    def decode(self, entry: RawEntry) -> T | None:
        """Move the position to an entry and decode it; None where it is malformed or for another group."""
        self.positions[entry.stream] = entry.id
        if not is_addressed_to(entry.fields, self.group):
            return None
        try:
            message: T = codec.decode(self._stream, entry.fields)
        except codec.PoisonError as error:
            self.reject(entry, str(error))
            return None
        return message

    def reject(self, entry: RawEntry, reason: str) -> None:
        """Make an entry that cannot be handled a dead letter at the next commit."""
        if entry.id not in self.get_rejected_ids(entry.stream):
            log.error("%s, entry %s becomes a dead letter: %s", entry.stream, entry.id.decode(), reason)
            self._rejected.append((entry, reason))

    def get_rejected_ids(self, key: str) -> list[bytes]:
        """Return the ids of a stream's rejected entries that are not committed yet."""
        return [entry.id for entry, _ in self._rejected if entry.stream == key]

    def drop_rejected(self) -> None:
        """Forget the rejected entries without a commit; they are read again."""
        self._rejected = []

    def stage_commit(self, pipe: Any, positions: Mapping[str, bytes]) -> None:
        """Add dead letters and positions of these streams (key -> id) to the transaction of their effects."""
        for entry, reason in self._rejected:
            if entry.stream in positions:
                stage_dead_letter(pipe, self._dead_key, entry.fields, entry.id, entry.stream, reason)
        for key, position in positions.items():
            pipe.xgroup_setid(key, self.group, position)

    def finish_commit(self, keys: Iterable[str]) -> None:
        """Forget the rejected entries of these streams, whose transaction is stored."""
        waiting = [row for row in self._rejected if row[0].stream not in keys]
        self.dead_letters += len(self._rejected) - len(waiting)
        self._rejected = waiting

    def commit(self) -> None:
        """Commit all positions after the effects were stored elsewhere.

        Raises:
            redis.ResponseError: the group is gone (`is_stream_lost`); call `start`.
        """
        with self._client.pipeline(transaction=True) as pipe:
            self.stage_commit(pipe, self.positions)
            pipe.execute()
        self.finish_commit(self.positions)

    def rewind_if_recreated(self, key: str) -> bool:
        """Go back to the start of a stream that was recreated with smaller ids, and return whether it was.

        The machine's clock went back, or Redis was emptied. Call it for a stream that has been quiet for a while.
        """
        try:
            newest = self._client.xinfo_stream(key)["last-generated-id"]
        except redis.ResponseError as error:
            if not is_stream_lost(error):
                raise
            newest = STREAM_START
            create_group(self._client, key, self.group)
        if parse_entry_id(newest) >= parse_entry_id(self.positions[key]):
            return False
        self.positions[key] = STREAM_START
        return True
