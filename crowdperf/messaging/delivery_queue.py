"""Queue deliveries to an outside endpoint in Redis, so that a restart loses nothing.

An endpoint has four keys: the items by id, a sorted set of ids by the time of their next attempt, the number of
attempts, and the statistics. Adding an id again changes nothing. Delivery is at least once; the id marks a repetition.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.messaging.codec import dead_key, stage_dead_letter

DEAD_LETTER_STREAM = "notify"
"""Stream name of the dead letters `crowdperf:dead:notify:<endpoint>`."""
MAX_DUE_AHEAD_S = 7200.0
"""Longer than any pause before an attempt."""


class DeliveryItem(Struct, frozen=True):
    """One message to deliver."""

    id: str
    body: bytes
    attempts: int
    """Failed attempts so far."""


class DeliveryStats(Struct, frozen=True, kw_only=True):
    """Deliveries of an endpoint since it exists."""

    sent: int = 0
    failed: int = 0
    """Failed attempts, not items."""
    sent_at: float | None = None
    """Unix seconds, None for never, like `failed_at`."""
    failed_at: float | None = None


def due_key(endpoint: str, prefix: str = "") -> str:
    """Build the key of the waiting ids, scored by the Unix time of their next attempt."""
    return _build_key("due", endpoint, prefix)


def stats_key(endpoint: str, prefix: str = "") -> str:
    """Build the key of the hash of an endpoint's `DeliveryStats`."""
    return _build_key("books", endpoint, prefix)


def parse_stats(fields: dict[bytes, bytes]) -> DeliveryStats:
    """Convert the hash of `stats_key`."""
    return msgspec.convert({name.decode(): text.decode() for name, text in fields.items()}, DeliveryStats, strict=False)


def _build_key(kind: str, endpoint: str, prefix: str) -> str:
    return f"{prefix}crowdperf:{DEAD_LETTER_STREAM}:{kind}:{endpoint}"


def _build_keys(endpoint: str, prefix: str) -> tuple[str, str, str]:
    return _build_key("items", endpoint, prefix), due_key(endpoint, prefix), _build_key("attempts", endpoint, prefix)


def stage_item(pipe: Any, endpoint: str, item: str, body: bytes, due: float, prefix: str = "") -> None:
    """Add an item inside a transaction.

    Args:
        pipe: the transaction.
        endpoint: name of the endpoint.
        item: id of the item.
        body: what is delivered.
        due: time of the first attempt, Unix seconds.
        prefix: the configured prefix of every key.
    """
    items, times, _ = _build_keys(endpoint, prefix)
    pipe.hsetnx(items, item, body)
    pipe.zadd(times, {item: due}, nx=True)


class DeliveryQueue:
    """Queue of one endpoint, for the one thread that delivers to it.

    Args:
        client: a redis-py client.
        endpoint: name of the endpoint.
        prefix: the configured prefix of every key.

    Raises:
        redis.ConnectionError, redis.TimeoutError: by every method, while Redis is unavailable; nothing is lost.
    """

    def __init__(self, client: Any, endpoint: str, prefix: str = "") -> None:
        self._client = client
        self._items_key, self._due_key, self._attempts_key = _build_keys(endpoint, prefix)
        self._stats_key = stats_key(endpoint, prefix)
        self._dead_key = dead_key(DEAD_LETTER_STREAM, endpoint, prefix)

    def peek(self, now: float) -> DeliveryItem | None:
        """Return the item that is due first, None where none is due at `now` (Unix seconds).

        A time farther ahead than any pause was set while the clock was wrong: such an item is due too.
        """
        ids = self._client.zrangebyscore(self._due_key, "-inf", now, start=0, num=1) or self._client.zrangebyscore(
            self._due_key, now + MAX_DUE_AHEAD_S, "+inf", start=0, num=1
        )
        if not ids:
            return None
        body = self._client.hget(self._items_key, ids[0])
        if body is None:
            self._client.zrem(self._due_key, ids[0])
            return None
        return DeliveryItem(ids[0].decode(), body, int(self._client.hget(self._attempts_key, ids[0]) or 0))

    def __len__(self) -> int:
        return int(self._client.zcard(self._due_key))

    def mark_delivered(self, item: DeliveryItem, now: float) -> None:
        """Remove an item that was delivered at `now` (Unix seconds)."""
        with self._client.pipeline(transaction=True) as pipe:
            self._stage_removal(pipe, item)
            self._stage_stats(pipe, "sent", now)
            pipe.execute()

    def schedule_retry(self, item: DeliveryItem, due: float, now: float) -> None:
        """Count a failed attempt and set the time of the next one.

        Args:
            item: what could not be delivered.
            due: time of the next attempt, Unix seconds.
            now: time of the failure, Unix seconds.
        """
        with self._client.pipeline(transaction=True) as pipe:
            self._stage_stats(pipe, "failed", now)
            pipe.hincrby(self._attempts_key, item.id, 1)
            pipe.zadd(self._due_key, {item.id: due}, xx=True)
            pipe.execute()

    def dead_letter(self, item: DeliveryItem, reason: str, now: float) -> None:
        """Move an item that cannot be delivered to the dead letters.

        Args:
            item: what could not be delivered.
            reason: why.
            now: time of the failure, Unix seconds.
        """
        fields = {b"id": item.id.encode(), b"body": item.body}
        with self._client.pipeline(transaction=True) as pipe:
            stage_dead_letter(pipe, self._dead_key, fields, item.id.encode(), self._items_key, reason)
            self._stage_removal(pipe, item)
            self._stage_stats(pipe, "failed", now)
            pipe.execute()

    def _stage_stats(self, pipe: Any, outcome: str, now: float) -> None:
        pipe.hincrby(self._stats_key, outcome, 1)
        pipe.hset(self._stats_key, f"{outcome}_at", now)

    def _stage_removal(self, pipe: Any, item: DeliveryItem) -> None:
        pipe.zrem(self._due_key, item.id)
        pipe.hdel(self._items_key, item.id)
        pipe.hdel(self._attempts_key, item.id)
