"""The pace of a recording: when each of its pictures is due. Pure; times are parameters."""

from __future__ import annotations

DEFAULT_FPS = 25.0
MAX_STEP_US = 10_000_000
"""A longer step between two pictures is a change of the recording's clock. FFmpeg takes it so too."""


class Playback:
    """Due times of the pictures of a recording that is played in rounds.

    A recorder's clock may be set forward or back within a recording. The picture after such a jump follows the one
    before it by the usual period.

    Args:
        now: Monotonic seconds of the start.
        fps: Rate of the recording; 0 if unknown.
    """

    def __init__(self, now: float, fps: float) -> None:
        self._started_at = now
        self._period_us = int(1e6 / (fps or DEFAULT_FPS))
        self._position_us = -self._period_us
        self._newest_us: int | None = None

    def begin_round(self) -> int:
        """Begin at the recording's start; return the microseconds that were played before."""
        self._position_us += self._period_us
        self._newest_us = None
        return self._position_us

    def compute_due_time(self, pts_us: int | None) -> float:
        """Return when a picture is due, in monotonic seconds; `pts_us` is its time in the recording."""
        if pts_us is not None:
            if self._newest_us is not None:
                step_us = pts_us - self._newest_us
                self._position_us += step_us if 0 <= step_us <= MAX_STEP_US else self._period_us
            self._newest_us = pts_us
        return self._started_at + self._position_us / 1e6
