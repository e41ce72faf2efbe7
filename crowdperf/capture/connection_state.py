"""The state of a camera's connection: an explicit machine without clock, chance or I/O of its own.

connecting --frame--> live --no frame for stall_s--> stalled --child gone--> backing_off --due--> connecting
    |                   `--child ended------------------------------------->   |
    `--child ended, stalled likewise; a wrong url, no video: misconfigured, retried at the same pace
stopped: told to, or a file that has been played to its end (the one state that is never left)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

StateName = Literal["connecting", "live", "stalled", "backing_off", "stopped", "misconfigured"]
DisconnectCause = Literal["stall", "short_reads", "ended", "source", "stopped"]

FIRST_WAIT_S = 0.5
MAX_WAIT_S = 10.0
STABLE_S = 10.0
"""A connection that has delivered for this long was a good one: the next wait is the shortest again."""
MAX_SHORT_READS = 3
FRAME_TIMEOUT_S = 2.0
"""A frame that is not whole this long after its first byte is a short read."""


class ConnectionState:
    """One camera's connection.

    Every method takes `now`, monotonic seconds. `random` gives 0..1, for the jitter that keeps a site's cameras from
    coming back all at once.
    """

    def __init__(self, stall_s: float, random: Callable[[], float], now: float) -> None:
        self.state: StateName = "connecting"
        self.detail = ""
        self.changed_at = now
        self.failures = 0
        """Failed connections in a row."""
        self.is_down = False
        """Whether a connection was lost and no frame has come since: what is tried meanwhile is a retry."""
        self.short_reads = 0
        """Short reads in a row."""
        self._stall_s = stall_s
        self._random = random
        self._due_at = now
        self._progress_at = now
        self._live_since: float | None = None

    def is_due(self, now: float) -> bool:
        """Whether it is time to connect: always at first, then after the back-off, never when stopped."""
        return self.state != "stopped" and now >= self._due_at

    def get_backoff_s(self, now: float) -> float:
        """Seconds that are left of the back-off; 0 where there is none."""
        return max(0.0, self._due_at - now) if self.state in ("backing_off", "misconfigured") else 0.0

    def start_connecting(self, now: float) -> None:
        """A child is being started. A misconfigured camera stays so until a frame proves otherwise."""
        self._progress_at = now
        self._live_since = None
        self.short_reads = 0
        if self.state != "misconfigured":
            self._enter("connecting", "", now)

    def mark_opened(self, now: float) -> None:
        """The child is about to deliver: what opening took has had limits of its own, and is no silence of pictures."""
        self._progress_at = now

    def record_frame(self, now: float) -> None:
        """A whole frame came."""
        self._progress_at = now
        self.short_reads = 0
        if self._live_since is None:
            self._live_since = now
        elif self.failures and now - self._live_since >= STABLE_S:
            self.failures = 0
        self.is_down = False
        if self.state != "live":
            self._enter("live", "", now)

    def record_short_read(self, now: float) -> bool:
        """A frame broke off, or is overdue; True when the child must go."""
        self.short_reads += 1
        return self.short_reads >= MAX_SHORT_READS

    def check_stalled(self, now: float) -> bool:
        """Ask regularly while a child runs; True when there was no frame for `stall_s`: the child must go."""
        if now - self._progress_at < self._stall_s:
            return False
        if self.state != "stalled":
            self._enter("stalled", f"no frame for {self._stall_s:g} s", now)
        return True

    def schedule_retry(self, now: float, detail: str, misconfigured: bool = False) -> None:
        """The connection is gone, or never was: wait, each time twice as long, 10 s at most."""
        wait = min(MAX_WAIT_S, FIRST_WAIT_S * 2 ** min(self.failures, 16)) * (0.5 + 0.5 * self._random())
        self.failures += 1
        self.is_down = True
        self._due_at = now + wait
        self._enter("misconfigured" if misconfigured else "backing_off", detail, now)

    def stop(self, now: float, detail: str = "") -> None:
        """For good."""
        self._enter("stopped", detail, now)

    def _enter(self, state: StateName, detail: str, now: float) -> None:
        self.state, self.detail, self.changed_at = state, detail, now
