"""What a tile's message says."""

from __future__ import annotations

import numpy as np
import pytest

from crowdperf.messaging.schema import TrackedFrame
from crowdperf.web.live.pictures import EncodedPicture
from crowdperf.web.live.tiles import MAX_BOXES_LAG_S, build_header

TAKEN_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize(("late_s", "shown"), [(0.0, 1), (MAX_BOXES_LAG_S - 0.01, 1), (MAX_BOXES_LAG_S + 0.01, 0)])
def test_boxes_of_another_moment_are_not_drawn(late_s: float, shown: int) -> None:
    picture = EncodedPicture(1, 9, TAKEN_NS + round(late_s * 1e9), 640, 360, b"jpeg")
    box = np.array([[0.1, 0.2, 0.3, 0.4]], "<f4").tobytes()
    frame = TrackedFrame("plaza", 1, 7, TAKEN_NS, box, np.array([5], "<u4").tobytes(), bytes([0]), {"square": 2})
    message = build_header("plaza", picture, frame)
    assert [len(message[name]) for name in ("boxes", "tracks", "classes")] == [shown] * 3  # type: ignore[arg-type]
    assert message["occupancy"] == {"square": 2}
    assert message["boxes_sequence"] == (7 if shown else None)
