"""State changes of a camera on their way to the event stream, from their own thread: Redis never delays a frame."""

from __future__ import annotations

import logging
import threading
from collections import deque

import redis

from crowdperf.events.bus import Publisher
from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.events.schema import AnyEvent, CameraChanged
from crowdperf.events.streams import EVENTS

BOUND = 256
FLUSH_S = 1.5

log = logging.getLogger(__name__)


class StateReporter:
    """Publishes events in order, keeps the newest `BOUND` of them while Redis is away, and repeats what may be lost.

    A repeated event has the same id, so it is stored once.
    """

    def __init__(self, redis_url: str, key_prefix: str) -> None:
        self._client = connect(redis_url)
        self._publisher: Publisher[AnyEvent] = Publisher(self._client, EVENTS, key_prefix)
        self._queue: deque[CameraChanged] = deque(maxlen=BOUND)
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="state-reporter", daemon=True)
        self._thread.start()

    def put(self, event: CameraChanged) -> None:
        """Take an event; never waits for Redis."""
        with self._wake:
            self._queue.append(event)
            self._wake.notify()

    def close(self) -> None:
        """Send what can be sent within a moment."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(FLUSH_S)

    def _run(self) -> None:
        backoff = Backoff()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                event = self._queue[0]
            try:
                self._publisher.publish(event)
            except (*OUTAGE, redis.ResponseError) as error:
                if backoff.worth_saying:
                    log.warning("Redis takes nothing (%s): state changes wait in memory", error)
                with self._wake:
                    self._wake.wait(backoff.next())
                    if self._closing:
                        return
                continue
            backoff.reset()
            with self._wake:
                # It may have left the bounded queue meanwhile.
                if self._queue and self._queue[0] is event:
                    self._queue.popleft()
