"""State machine of a camera's connection. It has no clock, no randomness and no I/O of its own.

connecting --frame--> live --no frame for stall_s--> stalled --decoder gone--> backing_off --due--> connecting
    |                   `--decoder ended---------------------------------------->   |
    `--decoder ended or stalled; a wrong url, no video: misconfigured, retried at the same pace
stopped: on request, or after the end of a file (the only final state)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from crowdperf.primitives.backoff import Backoff

StateName = Literal["connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"]
DisconnectCause = Literal["stall", "short_reads", "ended", "source", "stopped"]

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 10.0
JITTER = 0.5
"""Largest share that a wait is shortened by."""
STABLE_S = 10.0
"""A connection that delivers for this long resets the back-off."""
MAX_SHORT_READS = 3
FRAME_TIMEOUT_S = 2.0
"""A frame that is incomplete this long after its first byte is a short read."""


class ConnectionState:
    """Connection state of one camera.

    Every method takes `now`, monotonic seconds.

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
