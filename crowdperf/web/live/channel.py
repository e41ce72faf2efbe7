"""Broadcast of one message to many subscribers: encoded once, queued for each; a slow one loses its oldest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

MAX_QUEUED_MESSAGES = 256
"""Backlog of one subscriber, in messages."""


class BroadcastMessage(NamedTuple):
    """Encoded bytes and their stream id; None for a message that is not part of the stream."""

    id: bytes | None
    data: bytes
    cameras: frozenset[str] = frozenset()
    """Who receives it may see all of these; `""` among them is a camera that only those who may see all can see."""
    encode_for: Callable[[frozenset[str]], bytes] | None = None
    """Encodes a message about several cameras for a client who may see only some of them."""

    def get_data_for(self, cameras: frozenset[str] | None) -> bytes:
        """Return the bytes for a client who may see these cameras (None: all, encoded once for them)."""
        if cameras is None:
            return self.data
        if self.encode_for is not None:
            return self.encode_for(cameras)
        return self.data if self.cameras <= cameras else b""


class Subscriber:
    """Bounded queue of one client. All calls happen on the loop's thread."""

    def __init__(self) -> None:
        self._queue: deque[BroadcastMessage] = deque()
        # A bare future for each wait: an Event with a timeout costs a task and a timer each time. With hundreds of
        # clients that was half of a message's cost.
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._lost_count = 0
        self.lost_total = 0

    def put(self, message: BroadcastMessage) -> None:
        """Queue a message; a full backlog drops its oldest."""
        if len(self._queue) >= MAX_QUEUED_MESSAGES:
            self._queue.popleft()
            self._lost_count += 1
            self.lost_total += 1
        self._queue.append(message)
        self.wake()

    def wake(self) -> None:
        """Let `take_batch` return with the queued messages."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End the subscription."""
        self._closed = True
        self.wake()

    def take_lost_count(self) -> int:
        """Return how many messages this subscriber has lost since the last call."""
        lost, self._lost_count = self._lost_count, 0
        return lost

    async def take_batch(self) -> list[BroadcastMessage] | None:
        """Wait for messages; return them, an empty list after `wake`, or None once closed."""
        if not self._queue and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._closed:
            return None
        batch = list(self._queue)
        self._queue.clear()
        return batch


class Broadcast:
    """The subscribers of one web process."""

    def __init__(self) -> None:
        self._subscribers: set[Subscriber] = set()
        self._closed = False
        self._lost_by_departed = 0

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def lost(self) -> int:
        """Messages that slow subscribers have lost since the start."""
        return self._lost_by_departed + sum(subscriber.lost_total for subscriber in self._subscribers)

    def subscribe(self) -> Subscriber:
        """Add a subscriber; it receives the messages published from now on."""
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        if self._closed:
            subscriber.close()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Remove a subscriber."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self._lost_by_departed += subscriber.lost_total

    def publish(self, message: BroadcastMessage) -> None:
        """Queue a message for every subscriber."""
        for subscriber in self._subscribers:
            subscriber.put(message)

    def wake(self) -> None:
        """Wake every subscriber: one timer keeps all their connections alive."""
        for subscriber in self._subscribers:
            subscriber.wake()

    def close(self) -> None:
        """Close every subscriber: open streams would delay the server's stop."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.close()


def encode_sse(
    event: str,
    data: bytes,
    stream_id: bytes | None = None,
    cameras: frozenset[str] = frozenset(),
    encode_for: Callable[[frozenset[str]], bytes] | None = None,
) -> BroadcastMessage:
    """Encode a server-sent event.

    Args:
        event: Name of the event.
        data: JSON, hence one line.
        stream_id: Id to resume from.
        cameras: The cameras that it reveals.
        encode_for: Encodes it for a client who may see some cameras only.

    Returns:
        The message to publish.
    """
    head = b"id: " + stream_id + b"\n" if stream_id else b""
    return BroadcastMessage(
        stream_id, head + b"event: " + event.encode() + b"\ndata: " + data + b"\n\n", cameras, encode_for
    )
