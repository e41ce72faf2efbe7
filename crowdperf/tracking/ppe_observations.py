"""Turn PPE findings on detections into observations of tracks. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crowdperf.geometry import Point, contains
from crowdperf.messaging.schema import FrameDetections, PpeObserved
from crowdperf.settings.base import CLASSES
from crowdperf.settings.camera import Zone
from crowdperf.settings.ppe import PPE_CLASSES
from crowdperf.tracking.tracker import Tracks

PERSON = CLASSES.index("person")
Findings = dict[int, dict[str, float]]
"""Detection -> item class -> best score, for every inspected detection."""


class MalformedFrameError(ValueError):
    """The columns of a message do not belong together; `reason` gives the details."""

    def __init__(self, frame: FrameDetections, reason: str) -> None:
        super().__init__(f"camera {frame.camera}, frame {frame.epoch}-{frame.sequence}: {reason}")


def parse_findings(frame: FrameDetections) -> Findings:
    """Decode the PPE columns of a frame.

    Raises:
        MalformedFrameError: they do not belong together, or to the frame's detections.
    """
    columns = frame.ppe
    if columns is None:
        return {}
    count, people = len(columns.items), len(columns.persons)
    if len(columns.owners) != 2 * count or len(columns.scores) != 4 * count or people % 2:
        sizes = f"{len(columns.owners)} and {len(columns.scores)} bytes"
        raise MalformedFrameError(frame, f"PPE columns of {sizes} do not fit {count} items")
    persons = np.frombuffer(columns.persons, "<u2").tolist()
    owners = np.frombuffer(columns.owners, "<u2").tolist()
    scores = np.frombuffer(columns.scores, "<f4")
    if not set(owners) <= set(persons) or max(persons, default=0) >= max(1, len(frame.classes)):
        raise MalformedFrameError(frame, "a PPE item belongs to no detection")
    if not np.isfinite(scores).all() or max(columns.items, default=1) >= len(PPE_CLASSES):
        raise MalformedFrameError(
            frame, f"a PPE score is not a finite number, or an item is above {len(PPE_CLASSES) - 1}"
        )
    findings: Findings = {person: {} for person in persons}
    for owner, item, score in zip(owners, columns.items, scores.tolist()):
        if item:
            best = findings[owner]
            best[PPE_CLASSES[item]] = max(best.get(PPE_CLASSES[item], 0.0), round(score, 3))
    return findings


def build_observations(
    frame: FrameDetections, findings: Findings, tracks: Tracks, zones: Sequence[Zone]
) -> list[PpeObserved]:
    """Build one event for every confirmed person of the frame that the PPE model inspected.

    Args:
        frame: the frame's detections.
        findings: result of `parse_findings`.
        tracks: the tracks that were seen in the frame.
        zones: zones of the camera.

    Returns:
        The events.
    """
    height = frame.ppe.picture_height if frame.ppe else 0
    events = []
    for track, detection, box, class_id, confirmed in zip(
        *(column.tolist() for column in (tracks.ids, tracks.detections, tracks.boxes, tracks.classes, tracks.confirmed))
    ):
        if not confirmed or class_id != PERSON or detection not in findings:
            continue
        x1, y1, x2, y2 = box
        feet = Point((x1 + x2) / 2, y2)
        inside = [zone.id for zone in zones if contains(zone.get_points(), feet)]
        events.append(
            PpeObserved(
                id=f"{frame.camera}:{frame.epoch}:{frame.sequence}:ppe:{track}",
                camera=frame.camera,
                ts=frame.captured_at_ns / 1e9,
                track=track,
                epoch=frame.epoch,
                sequence=frame.sequence,
                detection=detection,
                height_px=round((y2 - y1) * height, 1),
                zones=",".join(inside),
                x1=round(x1, 4),
                y1=round(y1, 4),
                x2=round(x2, 4),
                y2=round(y2, 4),
                **findings[detection],
            )
        )
    return events
