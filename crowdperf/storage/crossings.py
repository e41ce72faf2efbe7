"""The history of crossings: two sorted sets scored by event time, members that are the same however often written."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct, field

from crowdperf.events.schema import LineCrossed

PERSONS = "person_logs"
VEHICLES = "vehicle_logs"
LOGS = (PERSONS, VEHICLES)
LATEST_S = 32_503_680_000.0
"""The year 3000 in Unix seconds: a later time is no time, neither of an event nor of a question."""


class Crossing(Struct, frozen=True, kw_only=True):
    """One member of `person_logs` or `vehicle_logs`: nothing in it varies between deliveries of the same event."""

    id: str
    ts: float
    camera: str
    line: str
    direction: Literal["in", "out"]
    klass: str = field(name="class")
    track: int


def log_of(klass: str, prefix: str = "") -> str:
    """The sorted set that keeps crossings of this class."""
    return prefix + (PERSONS if klass == "person" else VEHICLES)


def crossing_of(event: LineCrossed) -> Crossing:
    """What the history keeps of an event."""
    return Crossing(
        id=event.id,
        ts=event.ts,
        camera=event.camera,
        line=event.line,
        direction=event.direction,
        klass=event.klass,
        track=event.track,
    )


def encode_member(crossing: Crossing) -> bytes:
    """Canonical JSON: fixed field order, no spaces, so that a redelivered event is the same member."""
    return msgspec.json.encode(crossing)


def decode_member(raw: bytes) -> Crossing:
    """The crossing of a member.

    Raises:
        msgspec.DecodeError: it is no such member.
    """
    return msgspec.json.decode(raw, type=Crossing)
