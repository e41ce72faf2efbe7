"""Decide which frames are analysed, and when. Pure: time is a parameter (monotonic seconds).

A frame that arrives is due or not (`frame_skip`, `target_fps`). If due, it waits in its camera's short queue. It is
taken in one batch with the due frames of other cameras. Nothing ever waits for a camera. Lost frames are counted by
cause:

- `skipped`, `paced`: not due; intended.
- `lapped`: due, but overwritten in the ring before it was read.
- `overload`: more than `queue_max` waited, and the oldest for too long; only the newest stays.
- `stale`: it waited longer than the staleness budget.
- `gone`: it waited when its ring was replaced or removed.

More than `queue_max` frames alone are no overload. A camera that pauses around its key frame sends half a second's
frames at once, and a busy machine catches up. Their pictures wait in the ring. So the queue may grow as long as the
ring holds the oldest one and it is fresh.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from crowdperf.inference.camera_feed import CAMERA_IDLE_S, BatchGeometry, CameraFeed

MAX_GEOMETRIES = 256
"""Bound of the geometries whose cost is known."""
INITIAL_COST_S_PER_PIXEL = 1e-8
"""Assumed cost of a pixel before a geometry's first frame is measured: 2.3 ms for 640x360."""
SLOW_FRAME_SHARE = 0.5
"""A frame that costs more than this share of the staleness budget makes other cameras' frames stale."""
SLOW_CAMERA_REST_FACTOR = 9.0
"""The camera of such a frame rests this many times as long, if other cameras have cheaper frames.

Slow frames then block a tenth of the time at most. If all frames are slow, resting would not help.
"""
COST_WEIGHT = 0.2
"""Weight of the newest batch in the moving average of a geometry's cost."""


class ScheduledFrame(NamedTuple):
    """A frame to analyse now."""

    feed: CameraFeed
    sequence: int
    arrived: float
    """Monotonic seconds."""


class FrameScheduler:
    """Fills and empties the feeds' queues.

    Args:
        queue_max: frames that may wait per camera, however long the machine is overloaded.
        staleness_s: age, from arrival, above which a frame is dropped.
    """

    def __init__(self, queue_max: int, staleness_s: float) -> None:
        self._queue_max = queue_max
        self._staleness = staleness_s
        self._costs: dict[BatchGeometry, float] = {}
        self._virtual_s = 0.0
        self._served = 0

    def offer(self, feed: CameraFeed, sequence: int, arrived: float, available: bool = True) -> None:
        """Queue a frame that has arrived, or drop it; call in the order of sequences.

        Args:
            feed: of its camera.
            sequence: its number in the ring.
            arrived: monotonic seconds.
            available: False if it is overwritten already; `arrived` is an estimate then.
        """
        feed.offered_at = arrived
        if sequence % feed.frame_step:
            feed.record_drop("skipped")
        elif not feed.bucket.admit(arrived):
            feed.record_drop("paced")
        elif not available:
            feed.record_drop("lapped")
        else:
            feed.pending.append((sequence, arrived))
            if sequence - feed.pending[0][0] > feed.max_safe_lag:
                self._drop_backlog(feed)

    def take(self, feeds: Collection[CameraFeed], now: float, limit: int) -> list[ScheduledFrame]:
        """Take the frames to analyse now, all of one geometry.

        The camera with the least model time so far goes first and decides the geometry. Among equals it is the one
        served longest ago. Every camera gives its oldest frame before any gives a second one. So an overloaded model is
        shared evenly: equal cameras get equally many frames, and a camera whose frames cost fifty times as much waits
        instead of the others (start-time fair queueing: Goyal, Vin and Cheng, 1996). A camera whose single frame makes
        other cameras' frames stale rests after it.

        Args:
            feeds: of all cameras.
            now: monotonic seconds.
            limit: maximum cost, in whole pictures.

        Returns:
            At least one frame if any is fresh and its camera does not rest.
        """
        for feed in feeds:
            self._drop_stale(feed, now)
        waiting = [
            feed for feed in feeds if feed.pending and not feed.is_busy and (feed.rests_until <= now or len(feeds) == 1)
        ]
        if not waiting:
            return []
        waiting.sort(key=lambda feed: (max(feed.virtual_time_s, self._virtual_s), feed.served_number))
        geometry = waiting[0].geometry
        self._virtual_s = max(self._virtual_s, waiting[0].virtual_time_s)
        waiting = [feed for feed in waiting if feed.geometry == geometry]
        cost = self._estimate_cost(geometry)
        is_slow = cost > SLOW_FRAME_SHARE * self._staleness and self._has_fast_camera(feeds, now)
        rest_s = (1 + SLOW_CAMERA_REST_FACTOR) * cost if is_slow else 0.0
        frames: list[ScheduledFrame] = []
        room = float(limit)
        while waiting and room > 0:
            for feed in waiting:
                share = feed.estimate_cost(now)
                frames.append(ScheduledFrame(feed, *feed.pending.popleft()))
                self._charge(feed, cost * share)
                room -= share
                if rest_s:
                    feed.rests_until = now + rest_s
                if room <= 0:
                    break
            # Where regions are planned, a camera's next frame depends on what is found in this one.
            waiting = [feed for feed in waiting if feed.pending and feed.planner is None]
        return frames

    def record_cost(self, geometry: BatchGeometry, seconds: float) -> None:
        """Record the model time that a frame of this geometry took."""
        if geometry not in self._costs and len(self._costs) >= MAX_GEOMETRIES:
            del self._costs[next(iter(self._costs))]
        before = self._costs.setdefault(geometry, seconds)
        self._costs[geometry] = before + COST_WEIGHT * (seconds - before)

    def _charge(self, feed: CameraFeed, cost: float) -> None:
        """Charge a camera for a frame that it is served."""
        self._served += 1
        feed.served_number = self._served
        feed.virtual_time_s = max(feed.virtual_time_s, self._virtual_s) + cost

    def _estimate_cost(self, geometry: BatchGeometry) -> float:
        """Return the model time that a frame takes, in seconds."""
        return self._costs.get(geometry, INITIAL_COST_S_PER_PIXEL * geometry[0] * geometry[1])

    def _has_fast_camera(self, feeds: Iterable[CameraFeed], now: float) -> bool:
        """Check for a camera that sends frames which do not make others wait."""
        return any(
            now - feed.offered_at <= CAMERA_IDLE_S
            and self._estimate_cost(feed.geometry) <= SLOW_FRAME_SHARE * self._staleness
            for feed in feeds
        )

    def _drop_stale(self, feed: CameraFeed, now: float) -> None:
        """Drop frames that have waited too long; of a queue that is too long, all but the newest."""
        if feed.pending and now - feed.pending[0][1] > self._staleness:
            self._drop_backlog(feed)
        while feed.pending and now - feed.pending[0][1] > self._staleness:
            feed.pending.popleft()
            feed.record_drop("stale")

    def _drop_backlog(self, feed: CameraFeed) -> None:
        """Keep only the newest frame of a queue that is too long."""
        if len(feed.pending) > self._queue_max:
            newest = feed.pending.pop()
            feed.record_drop("overload", feed.clear_pending())
            feed.pending.append(newest)
