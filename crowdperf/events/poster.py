"""An outbox with a postman: what waits is sent by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures

from crowdperf.events.outbox import Outbox
from crowdperf.events.schema import FrameDetections

LOOK_S = 0.05
"""How often it is tried again while messages wait for Redis."""
LAST_S = 2.0
"""What `close` waits at most for the last messages."""


class Poster:
    """Sends an outbox's messages, so that a Redis that is slow, far away or frozen never holds up who fills it.

    `put` and `flush` return at once; the outbox keeps what waits, within its bound. `clock` is monotonic, in seconds.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], float]) -> None:
        self._outbox, self._clock = outbox, clock
        self._turn = threading.Condition()
        self._asked = self._closing = False
        self._threads = futures.ThreadPoolExecutor(1, "poster")
        self._work = self._threads.submit(self._run)

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
        if self._work.done():
            self._work.result()
        with self._turn:
            self._asked = True
            self._turn.notify()
        return 0

    def take_spent(self) -> float:
        """Seconds of sending since they were last taken; they cost who fills it none."""
        return self._outbox.take_spent()

    def close(self) -> None:
        """Send what can be sent within a moment."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        futures.wait([self._work], LAST_S)
        self._threads.shutdown(wait=False)

    def _run(self) -> None:
        while self._wait():
            while self._outbox.flush(self._clock()):
                pass
        self._outbox.flush(self._clock())

    def _wait(self) -> bool:
        """Until there is something to do; False at the end."""
        with self._turn:
            self._turn.wait_for(lambda: self._asked or self._closing, LOOK_S if len(self._outbox) else None)
            self._asked = False
            return not self._closing
