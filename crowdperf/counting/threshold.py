"""A limit with hysteresis and a minimum duration, for opening and closing alerts. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ROUNDING_TOLERANCE_S = 1e-6
"""Three frames at 10 frames per second are 0.3 s, despite binary rounding."""
ThresholdChange = Literal["opened", "closed"]


class ThresholdState(Struct, array_like=True):
    """The serialised state of a limit."""

    alert: str = ""
    """Id of the open alert."""
    opened_at: float = 0.0
    """Unix seconds."""
    other_since_s: float | None = None
    """Clock time since when the value contradicts the present state."""
    peak: float = 0.0
    """Maximum value since the alert opened."""


class Threshold:
    """Opens after `hold_s` above the limit, closes after `hold_s` at or below the clear value.

    Args:
        above: the limit; larger values exceed it.
        clear: closes at this value or below; None for `above`.
        hold_s: minimum duration in seconds.
    """

    def __init__(self, above: float, clear: float | None, hold_s: float) -> None:
        self.above = above
        self._clear = above if clear is None else clear
        self._hold_s = hold_s
        self.state = ThresholdState()

    def update(self, value: float, clock_s: float) -> ThresholdChange | None:
        """Process one value; `clock_s` is monotonic. The caller sets the id of an opened alert with `open`."""
        state = self.state
        if state.alert:
            state.peak = max(state.peak, value)
        contradicts = value <= self._clear if state.alert else value > self.above
        if not contradicts:
            state.other_since_s = None
            return None
        if state.other_since_s is None:
            state.other_since_s = clock_s
        if clock_s - state.other_since_s < self._hold_s - ROUNDING_TOLERANCE_S:
            return None
        state.other_since_s = None
        return "closed" if state.alert else "opened"

    def open(self, alert: str, ts: float, value: float) -> None:
        """Store the alert that `update` asked for.

        Args:
            alert: id of the alert.
            ts: Unix seconds.
            value: the present value.
        """
        self.state.alert, self.state.opened_at, self.state.peak = alert, ts, value

    def close(self) -> None:
        """Forget the alert."""
        self.state.alert = ""
