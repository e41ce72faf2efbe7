"""The input of the counters: the moment of a frame, and one sample per track."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct


class FrameMoment(Struct, frozen=True, array_like=True):
    """Time and number of a frame."""

    clock_s: float
    """Monotonic seconds, for intervals."""
    ts: float
    """Unix seconds, for display; a clock correction may set it back."""
    epoch: int
    sequence: int


class Sample(NamedTuple):
    """One track in one frame. Lengths are in picture heights; x is scaled by the aspect ratio."""

    track: int
    x: float
    """Centre of the box."""
    bottom: float
    centre: float
    height: float
    class_id: int
    """Majority class, index into `settings.base.CLASSES`."""
    confirmed: bool
