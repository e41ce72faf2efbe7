"""A limit with hysteresis and a least duration: when an alert opens, and when it closes. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ROUNDING_TOLERANCE_S = 1e-6
"""Three frames at 10 frames a second are 0.3 s, whatever binary fractions make of it."""
ThresholdChange = Literal["opened", "closed"]


class ThresholdState(Struct, array_like=True):
    """A limit in serialised form."""

    alert: str = ""
    """Id of the alert that is open."""
    opened_at: float = 0.0
    """Unix seconds."""
    other_since_s: float | None = None
    """Since when the value contradicts the present state."""
    peak: float = 0.0
    """Greatest value since the alert opened."""


class Threshold:
    """Opens when a value was above `above` for `hold_s`, closes when it was at `clear` or below as long."""

    def __init__(self, above: float, clear: float | None, hold_s: float) -> None:
        self.above = above
        self._clear = above if clear is None else clear
        self._hold_s = hold_s
        self.state = ThresholdState()

    def update(self, value: float, clock_s: float) -> ThresholdChange | None:
        """Take one value; `clock_s` only grows. The caller names the alert that was opened (`state.alert`)."""
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
        """The alert that `update` asked for."""
        self.state.alert, self.state.opened_at, self.state.peak = alert, ts, value

    def close(self) -> None:
        """The alert is over."""
        self.state.alert = ""
