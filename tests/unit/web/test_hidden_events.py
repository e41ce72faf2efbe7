"""Which cameras an event reveals, and who receives it."""

from __future__ import annotations

from typing import Any

import pytest

from crowdperf.messaging import codec
from crowdperf.messaging.schema import AnyEvent, AreaChanged, AreaMismatch, CameraChanged, TailgatingSuspected
from crowdperf.messaging.streams import EVENTS
from crowdperf.settings.areas import Area, AreaZone, Door
from crowdperf.web.live.counts import find_cameras
from crowdperf.web.live.feed import build_event_message

AREAS = [
    Area(id="hall", doors=[Door(camera="a", line="x")]),
    Area(id="site", doors=[Door(camera="a", line="x")], zones=[AreaZone(camera="b", zone="z")]),
]
PASSED: dict[str, Any] = {"line": "x", "crossings": 2, "check_ins": 0, "window_s": 9.0}
COUNTED: dict[str, Any] = {"occupancy": 1, "uncertainty": 0.0, "entries": 1, "exits": 0, "cause": "crossing"}


def area_changed(area: str) -> AreaChanged:
    return AreaChanged(id="e", camera="a", ts=1.0, area=area, **COUNTED)


@pytest.mark.parametrize(
    ("event", "cameras"),
    [
        (CameraChanged(id="e", camera="a", ts=1.0, state="live"), {"a"}),
        (area_changed("hall"), {"a"}),
        (area_changed("site"), {"a", "b"}),
        (area_changed("removed"), {"a", ""}),
        (TailgatingSuspected(id="e", camera="a", ts=1.0, evidence="a.1.2.x b.1.3.y", **PASSED), {"a", "b"}),
        (
            AreaMismatch(id="e", camera="", ts=1.0, area="hall", state="opened", counted=1, expected=0, since=1.0),
            {"", "a"},
        ),
    ],
)
def test_an_event_reaches_who_may_see_all_that_it_reveals(event: AnyEvent, cameras: set[str]) -> None:
    assert find_cameras(event, AREAS) == cameras
    fields = {str(name).encode(): str(value).encode() for name, value in codec.encode(EVENTS, event).items()}
    message = build_event_message(b"1-0", fields, AREAS)
    assert message.get_data_for(None)
    for visible in ({"a"}, {"b"}, {"a", "b"}):
        assert bool(message.get_data_for(frozenset(visible))) is (cameras <= visible)
