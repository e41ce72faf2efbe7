"""State changes of a camera on their way to Redis, from their own thread: Redis never delays a frame."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

import redis

from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import OUTAGE, Backoff, connect
from crowdperf.messaging.schema import AnyEvent, CameraChanged
from crowdperf.messaging.streams import CONNECTIONS, EVENTS

MAX_QUEUED_EVENTS = 256
FLUSH_TIMEOUT_S = 1.5

log = logging.getLogger(__name__)


class StatePublisher:
    """Publishes changes in order, keeps the newest `BOUND` of each kind while Redis is away, repeats what may be lost.

    Every change goes to the camera's own stream; what is more than a retry goes to the site's events before that. A
    repeated event has the same id, so it is stored once.
    """

    def __init__(self, redis_url: str, key_prefix: str) -> None:
        client = connect(redis_url)
        events: Publisher[AnyEvent] = Publisher(client, EVENTS, key_prefix)
        connections: Publisher[CameraChanged] = Publisher(client, CONNECTIONS, key_prefix)
        # Two queues: the retries of a camera that is down are not to push out what the site must hear.
        self._queues: tuple[tuple[Publisher[Any], deque[CameraChanged]], ...] = (
            (events, deque(maxlen=MAX_QUEUED_EVENTS)),
            (connections, deque(maxlen=MAX_QUEUED_EVENTS)),
        )
        self._wake = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="state-reporter", daemon=True)
        self._thread.start()

    def publish(self, event: CameraChanged, notify_site: bool) -> None:
        """Take a change, and whether it is more than a retry; never waits for Redis."""
        with self._wake:
            for _, waiting in self._queues[0 if notify_site else 1 :]:
                waiting.append(event)
            self._wake.notify()

    def close(self) -> None:
        """Send what can be sent within a moment."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(FLUSH_TIMEOUT_S)

    def _run(self) -> None:
        backoff = Backoff()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: any(waiting for _, waiting in self._queues) or self._is_closing)
                lane = next((lane for lane in self._queues if lane[1]), None)
                if lane is None:
                    return
                publisher, waiting = lane
                event = waiting[0]
            try:
                publisher.publish(event, event.camera)
            except (*OUTAGE, redis.ResponseError) as error:
                if backoff.should_log(error):
                    log.warning("Redis unavailable (%s): state changes wait in memory", error)
                with self._wake:
                    self._wake.wait(backoff.next())
                    if self._is_closing:
                        return
                continue
            backoff.reset()
            with self._wake:
                # It may have left the bounded queue meanwhile.
                if waiting and waiting[0] is event:
                    waiting.popleft()
