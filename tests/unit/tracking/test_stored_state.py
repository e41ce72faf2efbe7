"""The state of a camera that each version of tracking has stored stays readable."""

from __future__ import annotations

import msgspec
import pytest

from crowdperf.settings.camera import Zone
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.pipeline import VERSION, CameraPipeline
from crowdperf.tracking.shard import TrackingCheckpoint
from tests.support.sequences import LINE, detections, standing

ZONE = Zone(id="hall", polygon=[[0.4, 0.1], [0.6, 0.1], [0.6, 0.9], [0.4, 0.9]])
GOLDEN_STATES: dict[int, str] = {
    2: (
        "92c404312d3332c502bf99020120cf17979cff6c1bb400cb4014ccccccccccc9cb3ff0000000000000c501039902cb4014cc"
        "ccccccccc903c40402000000c4081600000000000000c408c9cccccccccc1440c430000000c4cccc33400000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000c4a05ad793bfd5a3e03f000000080000e03f"
        "af19e3ea51b8ae3f000000c09999c93f1e23b6368299b93f00000000000000008c44b52d4a6e2c3e0000000000000000218a"
        "3f4b4c262c3f218a3f4b4c262c3f71c4d7bf913a303f71c4d7bf913a303f41b1099b35c24a3f41b1099b35c24a3f37dff625"
        "13fc353f37dff62513fc353f6d08bc5251687f3f6d08bc5251687f3f44aadced9824503f44aadced9824503fcb3fbeec1157"
        "c705c29481b0343664333233633861636232316364339581029ec30092c0c0cb4014ccccccccccc9cb3fe0a3d5b8000000cb"
        "3fe333334000000000c3c293ff94cb4014666666666663cb41d954fc41466666011f009092cbfff0000000000000cbfff000"
        "0000000000cb3fc99999c0000000c290cb4014ccccccccccc9cb4008cccccccccccdcb400b99999999999a81b03437323632"
        "6135613863633865353632958102dc0010c300c0cb4010000000000001cb4014ccccccccccc9cb3fe0a3d5b8000000cb3fe3"
        "333340000000cb4008cccccccccccdcb3fd3d70a40000000cb3fe3333340000000a0cb0000000000000000a0cb0000000000"
        "000000cb3fdb857340000000cb3fe333334000000094a0cb0000000000000000c0cb000000000000000097ce01b055150100"
        "01cb3fefffffffffffe0cb401466666666666290cb4014ccccccccccc9cb000000000000000093ce01b05515cb4014cccccc"
        "ccccc98acd0147cd012ccd0148cd012ccd0149ccc8cd014accc8cd014bcd012ccd014ccd012ccd014dcd012ccd014ecd012c"
        "cd014fcd0190cd0150ccc890c0"
    ),
}
"""Version -> a state that it has stored: somebody in a zone has just crossed a line. Add one with each version."""


@pytest.mark.parametrize("version", GOLDEN_STATES)
def test_a_stored_state_goes_on(version: int) -> None:
    """The person stays in the zone, and the crossing that was not decided yet is counted once."""
    stored = bytes.fromhex(GOLDEN_STATES[version])
    checkpoint = msgspec.msgpack.decode(stored, type=TrackingCheckpoint)
    pipeline = CameraPipeline("lobby", Tracking(), (LINE,), (ZONE,), 10.0)
    pipeline.restore(checkpoint.pipeline)
    if version == VERSION:
        assert pipeline.dump_state() == checkpoint.pipeline
    assert (checkpoint.position, pipeline.get_occupancy()) == (b"1-32", {"hall": 1})
    frames = [detections(n, [standing(0.2 + 0.01 * n, 0.6)], at_s=n / 10 + 2.0) for n in range(30, 40)]
    events = [event.id for frame in frames for event in pipeline.step(frame)[1]]
    assert events == ["lobby:1:31:door:out:0"]


def test_the_present_version_has_a_golden_state() -> None:
    assert VERSION in GOLDEN_STATES
