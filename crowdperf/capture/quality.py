"""Grade a camera's connection over the last hour by delivered frames and losses.

excellent   98 % of the expected frames, and no loss
fair        90 %, and at most three losses
poor        50 %
unusable    less

A stall counts as two losses: it stays hidden for `stall_s`.
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
"""No ratio is computed before the camera has run this long."""


class _MinuteCounts(Struct):
    started_at: float
    frames: int = 0
    losses: int = 0


class ConnectionQuality:
    """Connection quality of one camera. Every method takes `now`, monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._started_at = now
        self._stated_fps = 0.0
        self._has_frames = False
        self._minutes: deque[_MinuteCounts] = deque([_MinuteCounts(now)])

    def set_expected_fps(self, fps: float) -> None:
        """Set the rate that the source states. With 0 the camera's best minute gives the expected rate."""
        self._stated_fps = fps

    def record_frames(self, now: float, frames: int) -> None:
        """Record frames. The first one starts the measurement, so a slow start is no loss."""
        if not self._has_frames:
            losses = sum(minute.losses for minute in self._minutes)
            self._has_frames, self._started_at, self._minutes = True, now, deque([_MinuteCounts(now, 0, losses)])
        self._get_minute(now).frames += frames

    def record_loss(self, now: float, stall: bool) -> None:
        """Record a connection that was lost or could not be made."""
        self._get_minute(now).losses += 2 if stall else 1

    def compute_delivery_ratio(self, now: float) -> float | None:
        """Compute delivered / expected frames, at most 1.0; None while it is too early to tell."""
        self._get_minute(now)
        if now - self._started_at < GRACE_S:
            return None
        frames = sum(minute.frames for minute in self._minutes)
        complete = [minute.frames for minute in self._minutes if now - minute.started_at >= BUCKET_S]
        expected = self._stated_fps or max(complete, default=0) / BUCKET_S
        if not expected:
            # Without a rate only a camera that delivers nothing can be judged.
            return None if frames else 0.0
        return min(1.0, frames / (expected * (now - self._minutes[0].started_at)))

    def compute_grade(self, now: float) -> Grade | None:
        """Grade the last hour; None while it is too early to tell."""
        ratio = self.compute_delivery_ratio(now)
        if ratio is None:
            return None
        losses = sum(minute.losses for minute in self._minutes)
        if ratio >= MIN_EXCELLENT_RATIO and not losses:
            return "excellent"
        if ratio >= MIN_FAIR_RATIO and losses <= MAX_FAIR_LOSSES:
            return "fair"
        return "poor" if ratio >= MIN_POOR_RATIO else "unusable"

    def _get_minute(self, now: float) -> _MinuteCounts:
        """Return the counts of the minute of `now`, and drop minutes outside the window."""
        while now - self._minutes[-1].started_at >= BUCKET_S:
            self._minutes.append(_MinuteCounts(self._minutes[-1].started_at + BUCKET_S))
            if len(self._minutes) > WINDOW_S / BUCKET_S:
                self._minutes.popleft()
        return self._minutes[-1]
