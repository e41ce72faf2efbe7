"""Rate control of one client's live pictures: as good as its connection allows. Time is a parameter.

A client that confirms its pictures is sent half a second or 512 KiB ahead, and no more: pictures that wait in the
buffers of a slow network arrive too late. Skipped pictures and late confirmations lower the quality at once. After a
calm period the quality rises again. A step that fails is tried again after twice that period.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

ENCODED_WIDTHS = (160, 240, 320, 480, 640, 960, 1280)
"""Pixels. Few, so that clients with similar tiles share one encoding."""
MIN_WIDTH_SHARE = 0.95
"""A picture of this share of its tile's width looks as sharp as a full one."""
DEFAULT_TILE_WIDTH = 640
"""Tile width in pixels that the lower steps assume for a client that has not sent one."""

MAX_AHEAD_S = 0.5
MAX_AHEAD_BYTES = 512 * 1024
EVALUATION_INTERVAL_S = 1.0
DOWNGRADE_DELAY_S = 1.0
MAX_CALM_DELAY_S = 0.4
MAX_SKIPPED_SHARE = 0.2
MIN_CALM_S = 3.0
MAX_CALM_S = 30.0
UPGRADE_TRIAL_S = 10.0
"""A step that lasts this long counts as success."""


class QualityStep(NamedTuple):
    """One step of the quality ladder."""

    scale: float
    """Share of the tile's width."""
    quality: int
    """JPEG quality."""
    interval_s: float


QUALITY_STEPS = (
    QualityStep(1.0, 78, 0.1),
    QualityStep(1.0, 55, 0.1),
    QualityStep(0.75, 50, 0.2),
    QualityStep(0.5, 45, 0.4),
    QualityStep(0.5, 35, 1.0),
)


class PictureFormat(NamedTuple):
    """Format of a picture; clients with equal formats share the bytes."""

    width: int = 0
    """Maximum in pixels; 0 for the source's own width."""
    quality: int = QUALITY_STEPS[0].quality


def choose_format(width: int, step: int) -> PictureFormat:
    """Choose the format for a tile of `width` pixels (0: unknown) at a quality step."""
    scale, quality, _ = QUALITY_STEPS[step]
    if not width and scale == 1.0:
        return PictureFormat(0, quality)
    min_width = MIN_WIDTH_SHARE * (width or DEFAULT_TILE_WIDTH) * scale
    return PictureFormat(next((encoded for encoded in ENCODED_WIDTHS if encoded >= min_width), 0), quality)


class RateController:
    """Choose the quality step that one client's connection sustains."""

    def __init__(self, now: float) -> None:
        self.step = 0
        """Index into `QUALITY_STEPS`."""
        self.skipped_total = 0
        self._has_confirmed = False
        self._sent_count = 0
        self._ahead: deque[tuple[int, float, int]] = deque()
        self._ahead_bytes = 0
        self._evaluate_at = now + EVALUATION_INTERVAL_S
        self._ready_count = self._skipped_count = 0
        self._slowest_s = 0.0
        self._calm_since = now
        # For each step: the calm period before a trial, and the time of the last trial.
        self._calm_s = [MIN_CALM_S] * len(QUALITY_STEPS)
        self._upgraded_at = [float("-inf")] * len(QUALITY_STEPS)
        self._is_rising = True

    def record_ready(self, now: float, skipped: bool) -> None:
        """Record that a picture is ready; `skipped`: it replaces one that still waited."""
        self._ready_count += 1
        self._skipped_count += skipped
        self.skipped_total += skipped
        if now >= self._evaluate_at:
            self._evaluate(now)

    def record_sent(self, now: float, size: int) -> None:
        """Record that a picture of `size` bytes is sent."""
        self._sent_count += 1
        if self._has_confirmed:
            self._ahead.append((self._sent_count, now, size))
            self._ahead_bytes += size

    def record_confirmed(self, now: float, count: int) -> None:
        """Record the number of pictures that the client has received since it connected.

        Raises:
            ValueError: The number is higher than that of the pictures sent.
        """
        if count > self._sent_count:
            raise ValueError(f"seen is {count}, but {self._sent_count} pictures were sent")
        self._has_confirmed = True
        while self._ahead and self._ahead[0][0] <= count:
            _, at, size = self._ahead.popleft()
            self._ahead_bytes -= size
            self._slowest_s = max(self._slowest_s, now - at)

    def has_room(self, now: float) -> bool:
        """Check whether one more picture may be sent."""
        if not self._ahead:
            return True
        return self._ahead_bytes < MAX_AHEAD_BYTES and now - self._ahead[0][1] < MAX_AHEAD_S

    def _evaluate(self, now: float) -> None:
        """Evaluate the time since the last evaluation."""
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
            # Only the step that was tried fails, not the lower ones that the backlog leads through.
            failed = now - self._upgraded_at[self.step] < UPGRADE_TRIAL_S
            self._calm_s[self.step] = min(MAX_CALM_S, 2 * self._calm_s[self.step]) if failed else MIN_CALM_S
        self._is_rising = False
        self._calm_since = now
        self.step = min(self.step + 1, len(QUALITY_STEPS) - 1)

    def _raise_quality(self, now: float) -> None:
        self.step -= 1
        self._is_rising = True
        self._calm_since = self._upgraded_at[self.step] = now
