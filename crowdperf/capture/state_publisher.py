"""Publish a camera's state changes to Redis from a thread of its own, so that Redis never delays a frame."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import redis

from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.schema import AnyEvent, CameraChanged
from crowdperf.messaging.streams import CONNECTIONS, EVENTS
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import start_thread

MAX_QUEUED_EVENTS = 256
FLUSH_TIMEOUT_S = 1.5


class StatePublisher:
    """Publishes changes in order, and repeats a change until Redis has it.

    During an outage it keeps the newest `MAX_QUEUED_EVENTS` of each kind. Every change goes to the camera stream; a
    change that is not just a retry goes to the site's events first. A repeated event keeps its id, so it is stored
    once.

    Args:
        redis_url: of Redis.
        key_prefix: of every key in it.
        metrics: counts the failures of the thread.
    """

    def __init__(self, redis_url: str, key_prefix: str, metrics: Metrics) -> None:
        client = connect(redis_url)
        events: Publisher[AnyEvent] = Publisher(client, EVENTS, key_prefix)
        connections: Publisher[CameraChanged] = Publisher(client, CONNECTIONS, key_prefix)
        # Two queues: retries of a camera that is down must not push out events of the site.
        self._queues: tuple[tuple[Publisher[Any], deque[CameraChanged]], ...] = (
            (events, deque(maxlen=MAX_QUEUED_EVENTS)),
            (connections, deque(maxlen=MAX_QUEUED_EVENTS)),
        )
        self._wake = threading.Condition()
        self._is_closing = False
        self._thread = start_thread("state-reporter", self._run, metrics, self._wait_for_close)

    def publish(self, event: CameraChanged, notify_site: bool) -> None:
        """Queue a change, for the site's events too if `notify_site`; never waits for Redis."""
        with self._wake:
            for _, queued in self._queues[0 if notify_site else 1 :]:
                queued.append(event)
            self._wake.notify()

    def close(self) -> None:
        """Send what is queued within `FLUSH_TIMEOUT_S`, then stop."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(FLUSH_TIMEOUT_S)

    def _wait_for_close(self, seconds: float) -> bool:
        with self._wake:
            return self._wake.wait_for(lambda: self._is_closing, seconds)

    def _run(self) -> None:
        outage = OutageHandler("state changes wait in memory", (*OUTAGE, redis.ResponseError))
        while True:
            with self._wake:
                self._wake.wait_for(lambda: any(queued for _, queued in self._queues) or self._is_closing)
                pair = next((pair for pair in self._queues if pair[1]), None)
                if pair is None:
                    return
                publisher, queued = pair
                event = queued[0]
            with outage:
                publisher.publish(event, event.camera)
            with self._wake:
                if outage.wait_s:
                    self._wake.wait(outage.wait_s)
                    if self._is_closing:
                        return
                # The bounded queue may have dropped it meanwhile.
                elif queued and queued[0] is event:
                    queued.popleft()
