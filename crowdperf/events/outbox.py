"""Detections on their way to Redis: pipelined, with explicit ids, kept in bounded memory while Redis is away."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from typing import Any

import redis

from crowdperf.events import wire
from crowdperf.events.connection import OUTAGE, Backoff
from crowdperf.events.schema import FrameDetections
from crowdperf.events.streams import DETECTIONS, key

log = logging.getLogger(__name__)


class Outbox:
    """The only writer of `detections:<camera>`.

    Ids are `<epoch>-<sequence>`, so an XADD whose reply was lost can be repeated: Redis refuses what it already has
    ("equal or smaller"), and refused means stored. An epoch below the stream's last one (the clock went back) would be
    refused too, and lost: such a stream is told to accept it by XSETID, once per epoch, and the log says so.
    """

    def __init__(self, client: redis.Redis, prefix: str = "", bound: int = 20_000) -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._prefix = prefix
        self._queue: deque[FrameDetections] = deque()
        self._bound = bound
        self._backoff = Backoff()
        self._retry_at = 0.0
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self.lost = 0
        """Messages dropped, oldest first, because Redis was away for longer than the bound lasts."""
        self.connected = False

    def put(self, message: FrameDetections) -> None:
        """Add one message; the oldest goes, and is counted, when the bound is reached."""
        if len(self._queue) >= self._bound:
            self._queue.popleft()
            self.lost += 1
        self._queue.append(message)

    def __len__(self) -> int:
        return len(self._queue)

    def flush(self, now: float) -> int:
        """Send what is waiting; returns how many messages were stored. `now` is a monotonic time in seconds.

        Never raises for an outage: the messages stay, and the next attempt waits for the back-off.
        """
        if not self._queue or now < self._retry_at:
            return 0
        batch = list(self._queue)[:256]
        try:
            for message in batch:
                if self._epochs.get(message.camera) != message.epoch:
                    self._admit(message)
            with self._client.pipeline(transaction=False) as pipe:
                for message in batch:
                    pipe.xadd(
                        key(DETECTIONS, message.camera, self._prefix),
                        wire.encode(DETECTIONS, message),
                        id=f"{message.epoch}-{message.sequence}",
                        maxlen=DETECTIONS.max_entries,
                        approximate=True,
                    )
                replies = pipe.execute(raise_on_error=False)
        except OUTAGE as error:
            self._away(error, now)
            return 0
        for reply in replies:
            if isinstance(reply, OUTAGE):
                self._away(reply, now)
                return 0
            if isinstance(reply, redis.ResponseError) and "equal or smaller" not in str(reply):
                raise reply
        for _ in batch:
            self._queue.popleft()
        self.connected = True
        self._backoff.reset()
        return len(batch)

    def _away(self, error: BaseException, now: float) -> None:
        if self._backoff.worth_saying:
            log.warning("Redis takes nothing (%s): detections wait in memory", error)
        self.connected = False
        self._epochs.clear()
        self._retry_at = now + self._backoff.next()

    def _admit(self, message: FrameDetections) -> None:
        """See to it that the stream accepts this epoch."""
        name = key(DETECTIONS, message.camera, self._prefix)
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
