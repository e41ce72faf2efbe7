"""An outbox with a postman: what waits is sent by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures

from crowdperf.events.outbox import Outbox
from crowdperf.events.schema import FrameDetections

RETRY_INTERVAL_S = 0.05
"""How often it is tried again while messages wait for Redis."""
MAX_CLOSE_WAIT_S = 2.0
"""What `close` waits at most for the last messages."""


class BackgroundSender:
    """Sends an outbox's messages, so that a Redis that is slow, far away or frozen never holds up who fills it.

    `put` and `flush` return at once; the outbox keeps what waits, within its bound. `clock` is monotonic, in seconds.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], float]) -> None:
        self._outbox, self._clock = outbox, clock
        self._condition = threading.Condition()
        self._flush_requested = self._close_requested = False
        self._threads = futures.ThreadPoolExecutor(1, "poster")
        self._future = self._threads.submit(self._run)

    @property
    def lost(self) -> int:
        """Messages dropped because Redis was away for longer than the bound lasts."""
        return self._outbox.lost

    def __len__(self) -> int:
        return len(self._outbox)

    def put(self, message: FrameDetections) -> None:
        """Add one message."""
        self._outbox.put(message)

    def flush(self, now: float) -> int:
        """Have what waits sent soon; returns 0: how many were stored is not known yet.

        Raises:
            redis.ResponseError: Redis refused a message for good, a defect that ends the process.
        """
        if self._future.done():
            self._future.result()
        with self._condition:
            self._flush_requested = True
            self._condition.notify()
        return 0

    def take_send_time_s(self) -> float:
        """Seconds of sending since they were last taken; they cost who fills it none."""
        return self._outbox.take_send_time_s()

    def close(self) -> None:
        """Send what can be sent within a moment."""
        with self._condition:
            self._close_requested = True
            self._condition.notify()
        futures.wait([self._future], MAX_CLOSE_WAIT_S)
        self._threads.shutdown(wait=False)

    def _run(self) -> None:
        while self._wait_for_work():
            while self._outbox.flush(self._clock()):
                pass
        self._outbox.flush(self._clock())

    def _wait_for_work(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._flush_requested or self._close_requested, RETRY_INTERVAL_S if len(self._outbox) else None
            )
            self._flush_requested = False
            return not self._close_requested
