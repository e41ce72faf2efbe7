"""What waits to be delivered to one outside endpoint: a queue per endpoint, in Redis, so that a restart loses nothing.

Three keys per endpoint: the items by id, a sorted set of ids by the time of their next attempt, and the number of
attempts so far. Adding an id again changes nothing. Delivery is at least once: the id lets the receiver tell.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from crowdperf.events.burial import dead_key, stage_burial

STREAM = "notify"
"""Its dead letters are `crowdperf:dead:notify:<endpoint>`."""


class Item(Struct, frozen=True):
    """One thing to deliver."""

    id: str
    body: bytes
    attempts: int
    """Failed ones so far."""


def _keys(endpoint: str, prefix: str) -> tuple[str, str, str]:
    return tuple(f"{prefix}crowdperf:{STREAM}:{kind}:{endpoint}" for kind in ("items", "due", "attempts"))  # type: ignore[return-value]


def stage_item(pipe: Any, endpoint: str, item: str, body: bytes, due: float, prefix: str = "") -> None:
    """Add an item inside a transaction; `due` in Unix seconds."""
    items, times, _ = _keys(endpoint, prefix)
    pipe.hsetnx(items, item, body)
    pipe.zadd(times, {item: due}, nx=True)


class DeliveryQueue:
    """The queue of one endpoint, for the one thread that delivers to it.

    Raises:
        redis.ConnectionError, redis.TimeoutError: from every call, while Redis is away; nothing is lost.
    """

    def __init__(self, client: Any, endpoint: str, prefix: str = "") -> None:
        self._client = client
        self._items, self._times, self._attempts = _keys(endpoint, prefix)
        self._dead = dead_key(STREAM, endpoint, prefix)

    def head(self, now: float) -> Item | None:
        """The item that is due first, None where none is due at `now` (Unix seconds)."""
        ids = self._client.zrangebyscore(self._times, "-inf", now, start=0, num=1)
        if not ids:
            return None
        body = self._client.hget(self._items, ids[0])
        if body is None:
            self._client.zrem(self._times, ids[0])
            return None
        return Item(ids[0].decode(), body, int(self._client.hget(self._attempts, ids[0]) or 0))

    def __len__(self) -> int:
        return int(self._client.zcard(self._times))

    def done(self, item: Item) -> None:
        """It was delivered."""
        with self._client.pipeline(transaction=True) as pipe:
            self._stage_removal(pipe, item)
            pipe.execute()

    def retry(self, item: Item, due: float) -> None:
        """It failed, and is to be tried again at `due`."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hincrby(self._attempts, item.id, 1)
            pipe.zadd(self._times, {item.id: due}, xx=True)
            pipe.execute()

    def bury(self, item: Item, why: str) -> None:
        """It cannot be delivered: to the dead letters."""
        fields = {b"id": item.id.encode(), b"body": item.body}
        with self._client.pipeline(transaction=True) as pipe:
            stage_burial(pipe, self._dead, fields, item.id.encode(), self._items, why)
            self._stage_removal(pipe, item)
            pipe.execute()

    def _stage_removal(self, pipe: Any, item: Item) -> None:
        pipe.zrem(self._times, item.id)
        pipe.hdel(self._items, item.id)
        pipe.hdel(self._attempts, item.id)
