"""One message to many listeners: encoded once, queued per listener, and a slow listener loses its oldest."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

MAX_QUEUED_MESSAGES = 256
"""Messages one listener may lag behind."""


class BroadcastMessage(NamedTuple):
    """Encoded bytes and the stream id they belong to; None for what is not part of the stream."""

    id: bytes | None
    data: bytes
    camera: str = ""
    """The camera it is about; empty for what is about none, or about several."""
    encode_for: Callable[[frozenset[str]], bytes] | None = None
    """The same for somebody who may see only these cameras, where it is about several."""

    def parse_id(self) -> tuple[int, int]:
        """The stream id as numbers."""
        ms, _, n = (self.id or b"").partition(b"-")
        return int(ms or 0), int(n or 0)

    def get_data_for(self, cameras: frozenset[str] | None) -> bytes:
        """The bytes for who may see these cameras (None: all), which are what was encoded once for nearly everybody."""
        if cameras is None:
            return self.data
        if self.encode_for is not None:
            return self.encode_for(cameras)
        return self.data if not self.camera or self.camera in cameras else b""


class Subscriber:
    """One client's bounded queue. Everything happens on the loop's thread."""

    def __init__(self, max_messages: int = MAX_QUEUED_MESSAGES) -> None:
        self._queue: deque[BroadcastMessage] = deque()
        self._max_messages = max_messages
        # A bare future, made for each wait: an Event with a time-out of its own costs a task and a timer each time,
        # which with hundreds of clients was half of what a message costs.
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._lost_count = 0
        self.lost_total = 0

    def put(self, message: BroadcastMessage) -> None:
        """Queue a message; the oldest goes when the bound is reached."""
        if len(self._queue) >= self._max_messages:
            self._queue.popleft()
            self._lost_count += 1
            self.lost_total += 1
        self._queue.append(message)
        self.wake()

    def wake(self) -> None:
        """Let `take` return with what there is."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End the listener's iteration."""
        self._closed = True
        self.wake()

    def take_lost_count(self) -> int:
        """How many messages this listener lost since the last call."""
        lost, self._lost_count = self._lost_count, 0
        return lost

    async def take_batch(self) -> list[BroadcastMessage] | None:
        """All that waits, or an empty list where it was woken for nothing; None once it is closed."""
        if not self._queue and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._closed:
            return None
        batch = list(self._queue)
        self._queue.clear()
        return batch


class Broadcast:
    """The listeners of one web process."""

    def __init__(self) -> None:
        self._subscribers: set[Subscriber] = set()
        self._closed = False
        self._lost_by_departed = 0

    def __len__(self) -> int:
        return len(self._subscribers)

    @property
    def lost(self) -> int:
        """Messages that slow listeners have lost since the start."""
        return self._lost_by_departed + sum(listener.lost_total for listener in self._subscribers)

    def subscribe(self, max_messages: int = MAX_QUEUED_MESSAGES) -> Subscriber:
        """A new listener; it hears what is published from now on."""
        listener = Subscriber(max_messages)
        self._subscribers.add(listener)
        if self._closed:
            listener.close()
        return listener

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a listener."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self._lost_by_departed += subscriber.lost_total

    def publish(self, message: BroadcastMessage) -> None:
        """Queue a message for everyone."""
        for listener in self._subscribers:
            listener.put(message)

    def wake(self) -> None:
        """Let every listener look around: one timer for all of them keeps their connections alive."""
        for listener in self._subscribers:
            listener.wake()

    def close(self) -> None:
        """End every listener: the server is about to stop, and an open stream would hold it up."""
        self._closed = True
        for listener in self._subscribers:
            listener.close()


def encode_sse(
    event: str,
    data: bytes,
    stream_id: bytes | None = None,
    camera: str = "",
    encode_for: Callable[[frozenset[str]], bytes] | None = None,
) -> BroadcastMessage:
    """A server-sent event; `data` is JSON, hence one line."""
    head = b"id: " + stream_id + b"\n" if stream_id else b""
    return BroadcastMessage(
        stream_id, head + b"event: " + event.encode() + b"\ndata: " + data + b"\n\n", camera, encode_for
    )
