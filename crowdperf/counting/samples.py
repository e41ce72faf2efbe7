"""What the counters see of one frame: its moment, and a sample of each track."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct


class FrameMoment(Struct, frozen=True, array_like=True):
    """When and where in the stream a sample was taken."""

    clock_s: float
    """Time that only grows, for intervals."""
    ts: float
    """Unix seconds, for people; a stepped clock may set it back."""
    epoch: int
    sequence: int


class Sample(NamedTuple):
    """One track in one frame; lengths are in picture heights (x is scaled by the aspect ratio)."""

    track: int
    x: float
    """Centre of the box."""
    bottom: float
    centre: float
    height: float
    class_id: int
    """Majority class, index into `settings.base.CLASSES`."""
    confirmed: bool
