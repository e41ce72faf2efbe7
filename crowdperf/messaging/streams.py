"""The table of Redis streams: content, encoding, retention and expected rate of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

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
from crowdperf.settings.process_config import AnalysisRate

MAX_BURST_MESSAGES = 20
"""Messages above the maximum that may come at once."""

RateState = Literal["unknown", "low", "ok", "high"]


class ExpectedRate(Struct, frozen=True, kw_only=True):
    """How many messages per second a stream gets, by what its site has."""

    per: Literal["frame of target_fps", "frame of ppe.fps", "camera", "site"]
    minimum: float = 0.0
    """0 where messages come on events: such a stream may stand still."""
    maximum: float

    def describe(self) -> str:
        """Describe the rate for the table of streams in the documents."""
        number = f"{self.minimum:g} to {self.maximum:g}" if self.minimum else f"at most {self.maximum:g}"
        return f"{number} per {self.per}" if self.per.startswith("frame") else f"{number}/s per {self.per}"


class RateBounds(NamedTuple):
    """Messages per second."""

    minimum: float
    maximum: float

    def judge(self, messages: int, seconds: float) -> RateState:
        """Compare with the number of messages that came within a time."""
        if messages < self.minimum * seconds:
            return "low"
        return "high" if messages > self.maximum * seconds + MAX_BURST_MESSAGES else "ok"


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
    expected_rate: ExpectedRate
    max_entries: int
    """Bound that holds even while the stream is not trimmed."""


ANALYSED_FRAMES = ExpectedRate(per="frame of target_fps", minimum=0.25, maximum=1.2)
"""A camera may give fewer frames than `target_fps`. With less than a quarter of them, tracks break."""
DETECTIONS = Stream(
    name="detections",
    key="crowdperf:detections:{camera}",
    message_type=FrameDetections,
    encoding="packed",
    ids="<epoch>-<sequence>",
    retention="what tracking has acknowledged goes; 10 min at most",
    expected_rate=ANALYSED_FRAMES,
    max_entries=20_000,
)
TRACKS = Stream(
    name="tracks",
    key="crowdperf:tracks:{camera}",
    message_type=TrackedFrame,
    encoding="packed",
    ids="*",
    retention="the last 32 frames",
    expected_rate=ANALYSED_FRAMES,
    max_entries=32,
)
EVENTS = Stream(
    name="events",
    key="crowdperf:events",
    message_type=AnyEvent,
    encoding="map",
    ids="*",
    retention="retention.events_days (30), never what a group has not read",
    expected_rate=ExpectedRate(per="frame of target_fps", maximum=2),
    max_entries=5_000_000,
)
CONNECTIONS = Stream(
    name="connections",
    key="crowdperf:connections:{camera}",
    message_type=CameraChanged,
    encoding="map",
    ids="*",
    retention="the last 1,000",
    expected_rate=ExpectedRate(per="camera", maximum=0.5),
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
    expected_rate=ExpectedRate(per="frame of ppe.fps", maximum=50),
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
    expected_rate=ExpectedRate(per="frame of ppe.fps", maximum=1),
    max_entries=10_000,
)
AUDIT = Stream(
    name="audit",
    key="crowdperf:audit",
    message_type=AuditEntry,
    encoding="map",
    ids="*",
    retention="retention.audit_days (730)",
    expected_rate=ExpectedRate(per="site", maximum=20),
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


def compute_rate_bounds(stream: Stream, cameras: Iterable[AnalysisRate]) -> RateBounds:
    """Compute the expected rate of a stream from the enabled cameras that write to it."""
    rows = list(cameras)
    rate = stream.expected_rate
    units = {
        "frame of target_fps": sum(row.target_fps for row in rows),
        "frame of ppe.fps": sum(row.ppe_fps for row in rows),
        "camera": len(rows),
        "site": 1,
    }
    # A slow camera that skips frames gives only this many; a fast one gives `target_fps` in spite of it.
    least = sum(row.target_fps / (row.frame_skip + 1) for row in rows)
    return RateBounds(rate.minimum * least, rate.maximum * units[rate.per])
