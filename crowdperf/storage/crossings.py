"""The history of crossings: two sorted sets scored by event time, members that are the same however often written."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct, field

from crowdperf.events.schema import LineCrossed

PERSON_LOG = "person_logs"
VEHICLE_LOG = "vehicle_logs"
LOGS = (PERSON_LOG, VEHICLE_LOG)
MAX_TIME_S = 32_503_680_000.0
"""The year 3000 in Unix seconds: a later time is no time, neither of an event nor of a question."""


class CrossingRecord(Struct, frozen=True, kw_only=True):
    """One member of `person_logs` or `vehicle_logs`: nothing in it varies between deliveries of the same event."""

    id: str
    ts: float
    camera: str
    line: str
    direction: Literal["in", "out"]
    class_name: str = field(name="class")
    track: int


def get_log_key(class_name: str, prefix: str = "") -> str:
    """The sorted set that keeps crossings of this class."""
    return prefix + (PERSON_LOG if class_name == "person" else VEHICLE_LOG)


def build_crossing(event: LineCrossed) -> CrossingRecord:
    """What the history keeps of an event."""
    return CrossingRecord(
        id=event.id,
        ts=event.ts,
        camera=event.camera,
        line=event.line,
        direction=event.direction,
        class_name=event.klass,
        track=event.track,
    )


def encode_member(crossing: CrossingRecord) -> bytes:
    """Canonical JSON: fixed field order, no spaces, so that a redelivered event is the same member."""
    return msgspec.json.encode(crossing)


def decode_member(raw: bytes) -> CrossingRecord:
    """The crossing of a member.

    Raises:
        msgspec.DecodeError: it is no such member.
    """
    return msgspec.json.decode(raw, type=CrossingRecord)
