"""Who is inside which zone now: read off the newest tracked frames. Pure, time is a parameter."""

from __future__ import annotations

from collections.abc import Mapping

from crowdperf.events.schema import TrackedFrame
from crowdperf.settings.camera import Camera
from crowdperf.web.parameters import format_rfc3339
from crowdperf.web.replies import ZoneOccupancy

MAX_FRAME_AGE_S = 5.0
"""An older frame says nothing about now."""


def is_fresh(frame: TrackedFrame | None, now: float) -> bool:
    """Whether the frame tells of the present; `now` in Unix seconds."""
    return frame is not None and now - frame.captured_at_ns / 1e9 <= MAX_FRAME_AGE_S


def compute_occupancy(
    cameras: tuple[Camera, ...], frames: Mapping[str, TrackedFrame], now: float
) -> list[ZoneOccupancy]:
    """Every zone of every enabled camera, in the order of the configuration."""
    rows = []
    for camera in cameras:
        frame = frames.get(camera.id)
        current = frame if is_fresh(frame, now) else None
        for zone in camera.zones if camera.enabled else ():
            inside = current.occupancy.get(zone.id, 0) if current else None
            rows.append(
                ZoneOccupancy(
                    camera=camera.id,
                    zone=zone.id,
                    name=zone.name or zone.id,
                    limit=zone.limit,
                    occupancy=inside,
                    over_limit=bool(inside is not None and zone.limit and inside > zone.limit),
                    time=format_rfc3339(current.captured_at_ns / 1e9) if current else None,
                )
            )
    return rows
