"""The history of crossings: two sorted sets scored by event time, members that are the same however often written."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from crowdperf.events.schema import LineCrossed

PERSONS = "person_logs"
VEHICLES = "vehicle_logs"


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


def member(event: LineCrossed) -> bytes:
    """Canonical JSON: fixed field order, no spaces, so that a redelivered event is the same member."""
    return msgspec.json.encode(
        Crossing(
            id=event.id,
            ts=event.ts,
            camera=event.camera,
            line=event.line,
            direction=event.direction,
            klass=event.klass,
            track=event.track,
        )
    )


def decode_member(raw: bytes) -> Crossing:
    """The crossing of a member.

    Raises:
        msgspec.DecodeError: it is no such member.
    """
    return msgspec.json.decode(raw, type=Crossing)


def stage(pipe: Any, event: LineCrossed, prefix: str = "") -> None:
    """Add the crossing to its log inside a transaction; adding it again changes nothing."""
    pipe.zadd(log_of(event.klass, prefix), {member(event): event.ts})


def stage_retention(pipe: Any, before: float, prefix: str = "") -> None:
    """Remove every crossing older than `before` (Unix seconds)."""
    for name in (PERSONS, VEHICLES):
        pipe.zremrangebyscore(prefix + name, "-inf", f"({before!r}")
