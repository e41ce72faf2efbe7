"""From PPE items on detections to what was observed of tracks."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from crowdperf.messaging.schema import FrameDetections, PpeColumns, PpeObserved
from crowdperf.settings.camera import Zone
from crowdperf.settings.engine import Tracking
from crowdperf.settings.ppe import PPE_CLASSES
from crowdperf.tracking.pipeline import CameraPipeline
from crowdperf.tracking.ppe_observations import MalformedFrameError
from tests.support.sequences import detections, standing

LEFT = Zone(id="left", polygon=[[0, 0], [0.5, 0], [0.5, 1], [0, 1]])
ALL = Zone(id="all", polygon=[[0, 0], [1, 0], [1, 1], [0, 1]])


def columns(people: list[int], items: list[tuple[int, str, float]]) -> PpeColumns:
    """Items are (owner, class, score)."""
    return PpeColumns(
        persons=np.array(people, "<u2").tobytes(),
        owners=np.array([owner for owner, _, _ in items], "<u2").tobytes(),
        items=bytes(PPE_CLASSES.index(name) for _, name, _ in items),
        scores=np.array([score for _, _, score in items], "<f4").tobytes(),
        boxes=np.zeros((len(items), 4), "<f4").tobytes(),
        picture_height=720,
    )


def frame(number: int, ppe: PpeColumns | None = None) -> FrameDetections:
    """Two people, in an order of detections that changes from frame to frame, and a car between them."""
    boxes = [standing(0.2, 0.6), standing(0.5, 0.6), standing(0.8, 0.6)]
    order = [0, 1, 2] if number % 2 else [2, 1, 0]
    made = detections(number, [boxes[one] for one in order], class_id=[0, 2, 0])
    return msgspec.structs.replace(made, ppe=ppe)


def run(*frames: FrameDetections) -> list[list[PpeObserved]]:
    pipeline = CameraPipeline("lobby", Tracking(), (), (LEFT, ALL), 10.0)
    return [[event for event in pipeline.step(one)[1] if isinstance(event, PpeObserved)] for one in frames]


def test_only_analysed_frames_give_observations_of_their_track() -> None:
    seen = columns([0, 2], [(0, "hardhat", 0.9), (0, "hardhat", 0.7), (2, "no_vest", 0.5), (2, "person", 0.9)])
    *before, odd, even = run(*(frame(number) for number in range(1, 7)), frame(7, seen), frame(8, seen))
    assert not any(before)
    assert [(one.zones, one.hardhat, one.no_vest) for one in odd] == [("left,all", 0.9, 0.0), ("all", 0.0, 0.5)]
    # In frame 8 detection 0 is the person on the right.
    assert [(one.detection, one.zones, one.hardhat) for one in even] == [(2, "left,all", 0.0), (0, "all", 0.9)]
    assert odd[0].track == even[0].track
    assert odd[0].id == f"lobby:1:7:ppe:{odd[0].track}"
    assert odd[0].height_px == pytest.approx(720 * (standing(0, 0)[3] - standing(0, 0)[1]), rel=0.1)


def test_people_who_were_not_looked_at_are_not_observed() -> None:
    *_, last = run(*(frame(number) for number in range(1, 5)), frame(5, columns([2], [])))
    assert [(one.detection, one.hardhat, one.no_hardhat) for one in last] == [(2, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"owners": b"\0"}, "do not fit 1 items"),
        ({"scores": b""}, "do not fit 1 items"),
        ({"persons": b"\0"}, "do not fit 1 items"),
        ({"owners": b"\1\0"}, "belongs to no detection"),
        ({"persons": b"\0\0\7\0"}, "belongs to no detection"),
        ({"scores": np.array([np.nan], "<f4").tobytes()}, "not a finite number"),
        ({"items": b"\x09"}, "above 6"),
    ],
)
def test_wrong_columns_are_refused_before_any_change(damage: dict[str, bytes], says: str) -> None:
    bad = msgspec.structs.replace(columns([0], [(0, "vest", 0.5)]), **damage)
    pipeline = CameraPipeline("lobby", Tracking(), (), (), 10.0)
    pipeline.step(frame(1))
    before = pipeline.dump_state()
    with pytest.raises(MalformedFrameError, match=says):
        pipeline.step(frame(2, bad))
    assert pipeline.dump_state() == before
