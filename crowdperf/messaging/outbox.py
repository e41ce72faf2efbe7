"""Send detections to Redis: pipelined, with explicit ids, kept in bounded memory during an outage.

`Outbox` holds the waiting messages, `BackgroundSender` sends them from its own thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from concurrent import futures

import redis

from crowdperf.messaging import codec
from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.redis.client import AnyClient, add_command_to_error
from crowdperf.messaging.schema import FrameDetections
from crowdperf.messaging.streams import DETECTIONS, stream_key

BATCH_SIZE = 256
"""Messages per round trip."""

log = logging.getLogger(__name__)


class Outbox:
    """The only writer of `detections:<camera>`; one thread may put while another one flushes.

    Ids are `<epoch>-<sequence>`, so an XADD without a reply can be repeated. Redis refuses an id that it has ("equal or
    smaller"), and refused means stored. An epoch below the stream's last one (the clock went back) would be lost in the
    same way. Such a stream is emptied and its last id is lowered (XSETID), once per epoch, with a line in the log.

    Args:
        client: a redis-py client.
        prefix: the configured prefix of every key.
        max_messages: bound of the memory; the oldest messages are dropped.
    """

    def __init__(self, client: redis.Redis, prefix: str = "", max_messages: int = 20_000) -> None:
        self._client: AnyClient = client
        self._prefix = prefix
        self._queue: deque[FrameDetections] = deque()
        self._in_flight: list[FrameDetections] = []
        self._lock = threading.Lock()
        self._max_messages = max_messages
        self._outage = OutageHandler("detections wait in memory")
        self._retry_at = 0.0
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._send_time_s = 0.0
        self.lost = 0
        """Messages dropped because an outage lasted longer than the bound allows."""
        self.connected = False

    def put(self, message: FrameDetections) -> None:
        """Add one message; at the bound the oldest one is dropped and counted."""
        with self._lock:
            self._queue.append(message)
            self._drop_oldest()

    def __len__(self) -> int:
        return len(self._queue) + len(self._in_flight)

    def flush(self, now: float) -> int:
        """Send waiting messages and return how many were stored; `now` is monotonic, in seconds.

        An outage is not raised: the messages stay, and the next attempt waits for the back-off.
        """
        if not self._queue or now < self._retry_at:
            return 0
        began = time.perf_counter()
        with self._lock:
            self._in_flight = [self._queue.popleft() for _ in range(min(BATCH_SIZE, len(self._queue)))]
        stored = 0
        try:
            with self._outage:
                self._send(self._in_flight)
                stored = len(self._in_flight)
            self.connected = bool(stored)
            if not stored:
                self._epochs.clear()
                self._retry_at = now + self._outage.wait_s
        finally:
            with self._lock:
                if not stored:
                    self._queue.extendleft(reversed(self._in_flight))
                self._in_flight = []
                self._drop_oldest()
                self._send_time_s += time.perf_counter() - began
        return stored

    def take_send_time_s(self) -> float:
        """Return the seconds spent on encoding and sending since the last call."""
        with self._lock:
            spent, self._send_time_s = self._send_time_s, 0.0
        return spent

    def _drop_oldest(self) -> None:
        while self._queue and len(self) > self._max_messages:
            self._queue.popleft()
            self.lost += 1

    def _send(self, batch: list[FrameDetections]) -> None:
        """Send a batch in one round trip; after an error all of it is sent again."""
        for message in batch:
            if self._epochs.get(message.camera) != message.epoch:
                self._accept_epoch(message)
        with self._client.pipeline(transaction=False) as pipe:
            for message in batch:
                pipe.xadd(
                    stream_key(DETECTIONS, message.camera, self._prefix),
                    codec.encode(DETECTIONS, message),
                    id=f"{message.epoch}-{message.sequence}",
                    maxlen=DETECTIONS.max_entries,
                    approximate=True,
                )
            replies = pipe.execute(raise_on_error=False)
        for message, reply in zip(batch, replies, strict=True):
            if isinstance(reply, redis.RedisError) and "equal or smaller" not in str(reply):
                raise add_command_to_error(reply, ("XADD", stream_key(DETECTIONS, message.camera, self._prefix)))

    def _accept_epoch(self, message: FrameDetections) -> None:
        """Make the stream accept this epoch."""
        name = stream_key(DETECTIONS, message.camera, self._prefix)
        last = self._client.xrevrange(name, count=1)
        if last and int(last[0][0].split(b"-")[0]) > message.epoch:
            log.error(
                "camera %s: ring epoch %d is older than the stream's (the clock went back?): the stream is emptied",
                message.camera,
                message.epoch,
            )
            self._client.xtrim(name, maxlen=0)
            self._client.execute_command("XSETID", name, f"{message.epoch}-0")
        self._epochs[message.camera] = message.epoch
        self._epochs.move_to_end(message.camera)
        while len(self._epochs) > 10_000:
            self._epochs.popitem(last=False)


RETRY_INTERVAL_S = 0.05
"""Time between two attempts while messages wait for Redis."""
MAX_CLOSE_WAIT_S = 2.0
"""Time that `close` waits for the last messages."""


class BackgroundSender(Outbox):
    """An outbox that a thread flushes, so that a slow Redis never delays the producer."""

    def __init__(self, client: redis.Redis, prefix: str = "") -> None:
        super().__init__(client, prefix)
        self._condition = threading.Condition()
        self._flush_requested = self._close_requested = False
        self._threads = futures.ThreadPoolExecutor(1, "outbox")
        self._future = self._threads.submit(self._run)

    def request_flush(self) -> None:
        """Have the thread send the waiting messages; `len` counts those not stored yet.

        Raises:
            redis.ResponseError: Redis refused a message for good, a defect that ends the process.
        """
        if self._future.done():
            self._future.result()
        with self._condition:
            self._flush_requested = True
            self._condition.notify()

    def close(self) -> None:
        """Send the last messages, for at most `MAX_CLOSE_WAIT_S`."""
        with self._condition:
            self._close_requested = True
            self._condition.notify()
        futures.wait([self._future], MAX_CLOSE_WAIT_S)
        self._threads.shutdown(wait=False)

    def _run(self) -> None:
        while self._wait_for_work():
            while self.flush(time.monotonic()):
                pass
        self.flush(time.monotonic())

    def _wait_for_work(self) -> bool:
        """Wait for a request or for the next attempt; False when closed."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._flush_requested or self._close_requested, RETRY_INTERVAL_S if len(self) else None
            )
            self._flush_requested = False
            return not self._close_requested
