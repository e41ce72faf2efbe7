"""The table of Redis streams: content, encoding, retention and expected rate of each."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from crowdperf.messaging.schema import (
    AnyEvent,
    AuditEntry,
    CameraChanged,
    EvidenceRequest,
    FrameDetections,
    PpeObserved,
    TrackedFrame,
)


class Stream(Struct, frozen=True, kw_only=True):
    """One row of the table; `key` holds `{camera}` where there is one stream per camera."""

    name: str
    key: str
    message_type: Any
    """Struct, or union of Structs, of its entries."""
    encoding: str
    """`packed` (one msgpack field `d`) or `map` (one field per attribute)."""
    ids: str
    """`<epoch>-<sequence>` where one producer writes the stream (a repeated XADD is refused), else `*`."""
    retention: str
    expected_rate: str
    max_entries: int
    """Bound that holds even while the stream is not trimmed."""


DETECTIONS = Stream(
    name="detections",
    key="crowdperf:detections:{camera}",
    message_type=FrameDetections,
    encoding="packed",
    ids="<epoch>-<sequence>",
    retention="what tracking has acknowledged goes; 10 min at most",
    expected_rate="TARGET_FPS per camera (10/s)",
    max_entries=20_000,
)
TRACKS = Stream(
    name="tracks",
    key="crowdperf:tracks:{camera}",
    message_type=TrackedFrame,
    encoding="packed",
    ids="*",
    retention="the last 32 frames",
    expected_rate="TARGET_FPS per camera (10/s)",
    max_entries=32,
)
EVENTS = Stream(
    name="events",
    key="crowdperf:events",
    message_type=AnyEvent,
    encoding="map",
    ids="*",
    retention="retention.events_days (30), never what a group has not read",
    expected_rate="a few per person seen",
    max_entries=5_000_000,
)
CONNECTIONS = Stream(
    name="connections",
    key="crowdperf:connections:{camera}",
    message_type=CameraChanged,
    encoding="map",
    ids="*",
    retention="the last 1,000",
    expected_rate="none while live; 16 a minute while the camera is down",
    max_entries=1_000,
)
"""Separate from `events`: a hundred dead cameras cause 2 million changes a day, which would displace all else."""
OBSERVATIONS = Stream(
    name="observations",
    key="crowdperf:observations",
    message_type=PpeObserved,
    encoding="map",
    ids="*",
    retention="10 min, never what a group has not read",
    expected_rate="ppe.fps (1/s) per person on cameras with a PPE rule",
    max_entries=200_000,
)
"""Separate from `events`: a busy site has more observations in a day than events in a month."""
EVIDENCE_REQUESTS = Stream(
    name="evidence_requests",
    key="crowdperf:evidence:requests",
    message_type=EvidenceRequest,
    encoding="map",
    ids="*",
    retention="the last 10,000",
    expected_rate="one per PPE violation",
    max_entries=10_000,
)
AUDIT = Stream(
    name="audit",
    key="crowdperf:audit",
    message_type=AuditEntry,
    encoding="map",
    ids="*",
    retention="retention.audit_days (730)",
    expected_rate="one per change or sign-in",
    max_entries=1_000_000,
)
STREAMS = (DETECTIONS, TRACKS, EVENTS, CONNECTIONS, OBSERVATIONS, EVIDENCE_REQUESTS, AUDIT)


def stream_key(stream: Stream, camera: str = "", prefix: str = "") -> str:
    """Build the Redis key of a stream.

    Args:
        stream: row of the table.
        camera: id of the camera, for a stream per camera.
        prefix: the configured prefix of every key.

    Returns:
        The Redis key.
    """
    return prefix + stream.key.format(camera=camera)
