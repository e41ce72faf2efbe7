"""How good the live pictures of one client are: as good as its connection takes. Pure: the time is a parameter.

A client that confirms what it has received is sent half a second or 512 KiB ahead of that, and no more: what waits in
the buffers of a slow network would be an old picture by the time that it is seen. Whether pictures had to be skipped,
and how late they were confirmed, moves the client along `STEPS`: down at once, up after a while of calm; a step that
has failed is tried again after twice the while.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

ENCODED_WIDTHS = (160, 240, 320, 480, 640, 960, 1280)
"""Pixels. Few, so that clients whose tiles differ a little share one encoding."""
MIN_WIDTH_SHARE = 0.95
"""A picture that is wider than this part of its tile looks like one of its width."""
DEFAULT_TILE_WIDTH = 640
"""What the lower steps are lower than, for a client that has not said how wide its tile is."""

MAX_AHEAD_S = 0.5
MAX_AHEAD_BYTES = 512 * 1024
EVALUATION_INTERVAL_S = 1.0
DOWNGRADE_DELAY_S = 1.0
MAX_CALM_DELAY_S = 0.4
MAX_SKIPPED_SHARE = 0.2
MIN_CALM_S = 3.0
MAX_CALM_S = 30.0
UPGRADE_TRIAL_S = 10.0
"""A step that has gone well for so long was no failure."""


class QualityStep(NamedTuple):
    """One of the qualities that a client may have."""

    scale: float
    """Of the width that its tile needs."""
    quality: int
    """Of JPEG."""
    interval_s: float


QUALITY_STEPS = (
    QualityStep(1.0, 78, 0.1),
    QualityStep(1.0, 55, 0.1),
    QualityStep(0.75, 50, 0.2),
    QualityStep(0.5, 45, 0.4),
    QualityStep(0.5, 35, 1.0),
)


class PictureFormat(NamedTuple):
    """How a picture is to be encoded; clients of the same form get the same bytes."""

    width: int = 0
    """Pixels at most; 0 for the source's own."""
    quality: int = QUALITY_STEPS[0].quality


def choose_format(width: int, step: int) -> PictureFormat:
    """The encoding for a tile of so many pixels (0: not said) at that step."""
    scale, quality, _ = QUALITY_STEPS[step]
    if not width and scale == 1.0:
        return PictureFormat(0, quality)
    wanted = MIN_WIDTH_SHARE * (width or DEFAULT_TILE_WIDTH) * scale
    return PictureFormat(next((each for each in ENCODED_WIDTHS if each >= wanted), 0), quality)


class RateController:
    """What one client's connection takes."""

    def __init__(self, now: float) -> None:
        self.step = 0
        """Index into `STEPS`."""
        self.skipped_total = 0
        self._has_confirmed = False
        self._sent_count = 0
        self._ahead: deque[tuple[int, float, int]] = deque()
        self._ahead_bytes = 0
        self._evaluate_at = now + EVALUATION_INTERVAL_S
        self._ready_count = self._skipped_count = 0
        self._slowest_s = 0.0
        self._calm_since = now
        # Of each step: the calm that it is tried after, and when it was tried last.
        self._calm_s = [MIN_CALM_S] * len(QUALITY_STEPS)
        self._upgraded_at = [float("-inf")] * len(QUALITY_STEPS)
        self._is_rising = True

    def record_ready(self, now: float, skipped: bool) -> None:
        """A picture is ready; `skipped`: in place of one that still waited to be sent."""
        self._ready_count += 1
        self._skipped_count += skipped
        self.skipped_total += skipped
        if now >= self._evaluate_at:
            self._evaluate(now)

    def record_sent(self, now: float, size: int) -> None:
        """A picture of so many bytes goes out."""
        self._sent_count += 1
        if self._has_confirmed:
            self._ahead.append((self._sent_count, now, size))
            self._ahead_bytes += size

    def record_confirmed(self, now: float, count: int) -> None:
        """The client has received so many pictures since it came; from the first time on it is known to say so.

        Raises:
            ValueError: that is more than were sent.
        """
        if count > self._sent_count:
            raise ValueError(f"seen is {count}, but {self._sent_count} pictures were sent")
        self._has_confirmed = True
        while self._ahead and self._ahead[0][0] <= count:
            _, at, size = self._ahead.popleft()
            self._ahead_bytes -= size
            self._slowest_s = max(self._slowest_s, now - at)

    def has_room(self, now: float) -> bool:
        """Whether one more picture may be sent."""
        if not self._ahead:
            return True
        return self._ahead_bytes < MAX_AHEAD_BYTES and now - self._ahead[0][1] < MAX_AHEAD_S

    def _evaluate(self, now: float) -> None:
        """Judge the time since the last look."""
        waiting_s = now - self._ahead[0][1] if self._ahead else 0.0
        slowest_s = max(self._slowest_s, waiting_s)
        if self._skipped_count > MAX_SKIPPED_SHARE * self._ready_count or slowest_s > DOWNGRADE_DELAY_S:
            self._lower_quality(now)
        elif self._skipped_count or slowest_s > MAX_CALM_DELAY_S:
            self._calm_since = now
        elif self.step and now - self._calm_since >= self._calm_s[self.step - 1]:
            self._raise_quality(now)
        self._evaluate_at = now + EVALUATION_INTERVAL_S
        self._ready_count = self._skipped_count = 0
        self._slowest_s = 0.0

    def _lower_quality(self, now: float) -> None:
        if self._is_rising:
            # The step that was tried, and not those below it that what still waits leads through.
            failed = now - self._upgraded_at[self.step] < UPGRADE_TRIAL_S
            self._calm_s[self.step] = min(MAX_CALM_S, 2 * self._calm_s[self.step]) if failed else MIN_CALM_S
        self._is_rising = False
        self._calm_since = now
        self.step = min(self.step + 1, len(QUALITY_STEPS) - 1)

    def _raise_quality(self, now: float) -> None:
        self.step -= 1
        self._is_rising = True
        self._calm_since = self._upgraded_at[self.step] = now
