"""How good the live pictures of one client are: as good as its connection takes. Pure: the time is a parameter.

A client that confirms what it has received is sent half a second or 512 KiB ahead of that, and no more: what waits in
the buffers of a slow network would be an old picture by the time that it is seen. Whether pictures had to be skipped,
and how late they were confirmed, moves the client along `STEPS`: down at once, up after a while of calm; a step that
has failed is tried again after twice the while.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

WIDTHS = (160, 240, 320, 480, 640, 960, 1280)
"""Pixels. Few, so that clients whose tiles differ a little share one encoding."""
ENOUGH = 0.95
"""A picture that is wider than this part of its tile looks like one of its width."""
UNSAID_WIDTH = 640
"""What the lower steps are lower than, for a client that has not said how wide its tile is."""

AHEAD_S = 0.5
AHEAD_BYTES = 512 * 1024
LOOK_S = 1.0
LATE_S = 1.0
PROMPT_S = 0.4
SKIPPED_SHARE = 0.2
CALM_S = 3.0
LONGEST_CALM_S = 30.0
HOLDS_S = 10.0
"""A step that has gone well for so long was no failure."""


class Step(NamedTuple):
    """One of the qualities that a client may have."""

    scale: float
    """Of the width that its tile needs."""
    quality: int
    """Of JPEG."""
    interval_s: float


STEPS = (
    Step(1.0, 78, 0.1),
    Step(1.0, 55, 0.1),
    Step(0.75, 50, 0.2),
    Step(0.5, 45, 0.4),
    Step(0.5, 35, 1.0),
)


class Form(NamedTuple):
    """How a picture is to be encoded; clients of the same form get the same bytes."""

    width: int = 0
    """Pixels at most; 0 for the source's own."""
    quality: int = STEPS[0].quality


def form_of(width: int, step: int) -> Form:
    """The encoding for a tile of so many pixels (0: not said) at that step."""
    scale, quality, _ = STEPS[step]
    if not width and scale == 1.0:
        return Form(0, quality)
    wanted = ENOUGH * (width or UNSAID_WIDTH) * scale
    return Form(next((each for each in WIDTHS if each >= wanted), 0), quality)


class Pace:
    """What one client's connection takes."""

    def __init__(self, now: float) -> None:
        self.step = 0
        """Index into `STEPS`."""
        self.skipped_total = 0
        self._confirms = False
        self._sent = 0
        self._ahead: deque[tuple[int, float, int]] = deque()
        self._ahead_bytes = 0
        self._look_at = now + LOOK_S
        self._offered = self._skipped = 0
        self._slowest_s = 0.0
        self._calm_since = now
        # Of each step: the calm that it is tried after, and when it was tried last.
        self._calm_s = [CALM_S] * len(STEPS)
        self._tried_at = [float("-inf")] * len(STEPS)
        self._rising = True

    def offered(self, now: float, skipped: bool) -> None:
        """A picture is ready; `skipped`: in place of one that still waited to be sent."""
        self._offered += 1
        self._skipped += skipped
        self.skipped_total += skipped
        if now >= self._look_at:
            self._look(now)

    def sent(self, now: float, size: int) -> None:
        """A picture of so many bytes goes out."""
        self._sent += 1
        if self._confirms:
            self._ahead.append((self._sent, now, size))
            self._ahead_bytes += size

    def seen(self, now: float, count: int) -> None:
        """The client has received so many pictures since it came; from the first time on it is known to say so.

        Raises:
            ValueError: that is more than were sent.
        """
        if count > self._sent:
            raise ValueError(f"seen is {count}, but {self._sent} pictures were sent")
        self._confirms = True
        while self._ahead and self._ahead[0][0] <= count:
            _, at, size = self._ahead.popleft()
            self._ahead_bytes -= size
            self._slowest_s = max(self._slowest_s, now - at)

    def room(self, now: float) -> bool:
        """Whether one more picture may be sent."""
        if not self._ahead:
            return True
        return self._ahead_bytes < AHEAD_BYTES and now - self._ahead[0][1] < AHEAD_S

    def _look(self, now: float) -> None:
        """Judge the time since the last look."""
        waiting_s = now - self._ahead[0][1] if self._ahead else 0.0
        slowest_s = max(self._slowest_s, waiting_s)
        if self._skipped > SKIPPED_SHARE * self._offered or slowest_s > LATE_S:
            self._down(now)
        elif self._skipped or slowest_s > PROMPT_S:
            self._calm_since = now
        elif self.step and now - self._calm_since >= self._calm_s[self.step - 1]:
            self._up(now)
        self._look_at = now + LOOK_S
        self._offered = self._skipped = 0
        self._slowest_s = 0.0

    def _down(self, now: float) -> None:
        if self._rising:
            # The step that was tried, and not those below it that what still waits leads through.
            failed = now - self._tried_at[self.step] < HOLDS_S
            self._calm_s[self.step] = min(LONGEST_CALM_S, 2 * self._calm_s[self.step]) if failed else CALM_S
        self._rising = False
        self._calm_since = now
        self.step = min(self.step + 1, len(STEPS) - 1)

    def _up(self, now: float) -> None:
        self.step -= 1
        self._rising = True
        self._calm_since = self._tried_at[self.step] = now
