"""How good a camera's connection has been over the last hour: one word, out of what was delivered and what broke. Pure.

excellent   98 % of the expected pictures, and no loss
fair        90 %, and three losses at most
poor        half of them
unusable    less

A stall counts as two losses: it hid for `stall_s` before it was one.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

Grade = Literal["excellent", "fair", "poor", "unusable"]

WINDOW_S = 3600.0
BUCKET_S = 60.0
MIN_EXCELLENT_RATIO, MIN_FAIR_RATIO, MIN_POOR_RATIO = 0.98, 0.90, 0.50
MAX_FAIR_LOSSES = 3
GRACE_S = 10.0
"""Neither the first seconds of a camera nor the minute that has just begun tell a rate."""


class _MinuteCounts(Struct):
    started_at: float
    frames: int = 0
    losses: int = 0


class ConnectionQuality:
    """One camera's last hour. Every method takes `now`, monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._started_at = now
        self._stated_fps = 0.0
        self._has_frames = False
        self._minutes: deque[_MinuteCounts] = deque([_MinuteCounts(now)])

    def set_expected_fps(self, fps: float) -> None:
        """The rate that the source states; 0 where it states none: then its own best minute is what is expected."""
        self._stated_fps = fps

    def record_frames(self, now: float, frames: int) -> None:
        """So many pictures have come. The first begins the measurement: a start takes its time, and is no loss."""
        if not self._has_frames:
            losses = sum(minute.losses for minute in self._minutes)
            self._has_frames, self._started_at, self._minutes = True, now, deque([_MinuteCounts(now, 0, losses)])
        self._get_minute(now).frames += frames

    def record_loss(self, now: float, stall: bool) -> None:
        """A connection was lost, or could not be made."""
        self._get_minute(now).losses += 2 if stall else 1

    def compute_delivery_ratio(self, now: float) -> float | None:
        """Delivered pictures by expected ones, 1.0 at most; None while it is too early to tell."""
        self._get_minute(now)
        if now - self._started_at < GRACE_S:
            return None
        frames = sum(minute.frames for minute in self._minutes)
        whole = [minute.frames for minute in self._minutes if now - minute.started_at >= BUCKET_S]
        expected = self._stated_fps or max(whole, default=0) / BUCKET_S
        if not expected:
            # No rate is known: nothing at all is bad, anything else cannot be judged yet.
            return None if frames else 0.0
        return min(1.0, frames / (expected * (now - self._minutes[0].started_at)))

    def compute_grade(self, now: float) -> Grade | None:
        """The hour in a word; None while it is too early to tell."""
        share = self.compute_delivery_ratio(now)
        if share is None:
            return None
        losses = sum(minute.losses for minute in self._minutes)
        if share >= MIN_EXCELLENT_RATIO and not losses:
            return "excellent"
        if share >= MIN_FAIR_RATIO and losses <= MAX_FAIR_LOSSES:
            return "fair"
        return "poor" if share >= MIN_POOR_RATIO else "unusable"

    def _get_minute(self, now: float) -> _MinuteCounts:
        """The minute of `now`; those that are older than the window go."""
        while now - self._minutes[-1].started_at >= BUCKET_S:
            self._minutes.append(_MinuteCounts(self._minutes[-1].started_at + BUCKET_S))
            if len(self._minutes) > WINDOW_S / BUCKET_S:
                self._minutes.popleft()
        return self._minutes[-1]
