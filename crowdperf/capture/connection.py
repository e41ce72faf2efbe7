"""State and quality of a camera's connection. Neither has a clock, randomness or I/O of its own.

connecting --frame--> live --no frame for stall_s--> stalled --decoder gone--> backing_off --due--> connecting
    |                   `--decoder ended---------------------------------------->   |
    `--decoder ended or stalled; a wrong url, no video: misconfigured, retried at the same pace
stopped: on request, or after the end of a file (the only final state)

Frames and losses of the last hour give the grade. A stall counts as two losses: it stays hidden for `stall_s`.

excellent   98 % of the expected frames, and no loss
fair        90 %, and at most three losses
poor        50 %
unusable    less
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from crowdperf.primitives.backoff import Backoff

StateName = Literal["connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"]
DisconnectCause = Literal["stall", "short_reads", "ended", "source", "stopped"]
Grade = Literal["excellent", "fair", "poor", "unusable"]

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 10.0
JITTER = 0.5
"""Largest share that a wait is shortened by."""
STABLE_S = 10.0
"""A connection that delivers for this long resets the back-off."""
MAX_SHORT_READS = 3
FRAME_TIMEOUT_S = 2.0
"""A frame that is incomplete this long after its first byte is a short read."""
WINDOW_S = 3600.0
BUCKET_S = 60.0
MIN_EXCELLENT_RATIO, MIN_FAIR_RATIO, MIN_POOR_RATIO = 0.98, 0.90, 0.50
MAX_FAIR_LOSSES = 3
GRACE_S = 10.0
"""No ratio is computed before the camera has run this long."""


class ConnectionState:
    """Connection state of one camera. Every method takes `now`, monotonic seconds.

    Args:
        stall_s: Seconds without a frame that count as a stall.
        random: Returns 0..1. Its jitter keeps the cameras of a site from reconnecting all at once.
        now: Monotonic seconds.
    """

    def __init__(self, stall_s: float, random: Callable[[], float], now: float) -> None:
        self.state: StateName = "connecting"
        self.detail = ""
        self.changed_at = now
        self.is_down = False
        """True from a lost connection until the next frame: attempts in between are retries."""
        self.short_reads = 0
        """Short reads in a row."""
        self._stall_s = stall_s
        self._backoff = Backoff(FIRST_WAIT_S, MAX_WAIT_S, JITTER, random)
        self._due_at = now
        self._progress_at = now
        self._live_since: float | None = None

    @property
    def failures(self) -> int:
        """Return the number of failed connections in a row."""
        return self._backoff.failures

    def is_due(self, now: float) -> bool:
        """Check whether to connect now: at first, then after the back-off, never when stopped."""
        return self.state != "stopped" and now >= self._due_at

    def get_backoff_s(self, now: float) -> float:
        """Return the remaining seconds of the back-off, 0 without one."""
        return max(0.0, self._due_at - now) if self.state in ("backing_off", "misconfigured") else 0.0

    def start_connecting(self, now: float) -> None:
        """Enter `connecting`; a misconfigured camera stays so until a frame arrives."""
        self._progress_at = now
        self._live_since = None
        self.short_reads = 0
        if self.state != "misconfigured":
            self._enter("connecting", "", now)

    def mark_opened(self, now: float) -> None:
        """Restart the stall timer once the decoder is open: opening has its own time limits."""
        self._progress_at = now

    def record_frame(self, now: float) -> None:
        """Record a complete frame."""
        self._progress_at = now
        self.short_reads = 0
        if self._live_since is None:
            self._live_since = now
        elif self.failures and now - self._live_since >= STABLE_S:
            self._backoff.reset()
        self.is_down = False
        if self.state != "live":
            self._enter("live", "", now)

    def record_short_read(self, now: float) -> bool:
        """Record an incomplete or overdue frame; return True when the decoder must be replaced."""
        self.short_reads += 1
        return self.short_reads >= MAX_SHORT_READS

    def check_stalled(self, now: float) -> bool:
        """Enter `stalled` after `stall_s` without a frame; return True then. Call it while a decoder runs."""
        if now - self._progress_at < self._stall_s:
            return False
        if self.state != "stalled":
            self._enter("stalled", f"no frame for {self._stall_s:g} s", now)
        return True

    def schedule_retry(self, now: float, detail: str, misconfigured: bool = False) -> None:
        """Schedule the next attempt. The wait doubles each time, up to 10 s.

        Args:
            now: Monotonic seconds.
            detail: Reason of the loss, without secrets.
            misconfigured: Enter `misconfigured` instead of `backing_off`.
        """
        self.is_down = True
        self._due_at = now + self._backoff.next()
        self._enter("misconfigured" if misconfigured else "backing_off", detail, now)

    def stop(self, now: float, detail: str = "") -> None:
        """Enter `stopped`, for good."""
        self._enter("stopped", detail, now)

    def _enter(self, state: StateName, detail: str, now: float) -> None:
        self.state, self.detail, self.changed_at = state, detail, now


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
