"""What the areas' worker makes of events, without Redis: `list(AreaLogic(config).handle(event))`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from crowdperf.messaging.schema import AreaChanged, LineCrossed
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.worker_config import build_areas_config
from crowdperf.storage.occupancy import AreaSnapshot
from crowdperf.workers.areas import AreaLogic
from tests.conftest import ROOT

NOW = 1_795_600_000.0
LINES = [{"id": "door", "p1": [0.5, 0.1], "p2": [0.5, 0.9]}, {"id": "gate", "p1": [0.2, 0.1], "p2": [0.2, 0.9]}]


def logic() -> AreaLogic:
    """Two areas: one door leads from the yard into the hall, the other one into the yard."""
    into = {"camera": "lobby", "line": "door"}
    areas = [
        {"id": "hall", "doors": [into]},
        {"id": "yard", "doors": [{**into, "enters": "out"}, {"camera": "lobby", "line": "gate"}]},
    ]
    camera = {"id": "lobby", "url": "rtsp://192.0.2.1/", "lines": LINES}
    return AreaLogic(
        build_areas_config(
            Deployment(parse(msgspec.json.encode({"cameras": [camera], "areas": areas})), Paths(ROOT)), 0
        )
    )


def crossing(n: int, line: str, direction: Any = "in") -> LineCrossed:
    return LineCrossed(
        id=f"lobby:1:{n}:{line}:{direction}:0", camera="lobby", ts=NOW + n, line=line, direction=direction,
        class_name="person", track=n, epoch=1, sequence=n,
    )  # fmt: skip


def occupancy(effects: Any) -> list[tuple[str, int]]:
    return [(row.area, row.occupancy) for row in effects if isinstance(row, AreaChanged)]


def test_a_door_between_two_areas_counts_in_both() -> None:
    worker = logic()
    assert occupancy(worker.handle(crossing(1, "gate"))) == [("yard", 1)]
    effects = list(worker.handle(crossing(2, "door")))
    assert occupancy(effects) == [("hall", 1), ("yard", 0)]
    assert [(row.area, row.last_door, row.last_entered) for row in effects if isinstance(row, AreaSnapshot)] == [
        ("hall", "lobby/door", True),
        ("yard", "lobby/door", False),
    ]


def test_of_an_event_only_the_named_part_is_handled() -> None:
    worker = logic()
    assert worker.partition_keys(crossing(1, "door")) == ("hall", "yard")
    assert occupancy(worker.handle(crossing(1, "door"), "hall")) == [("hall", 1)]
    assert occupancy(worker.handle(crossing(1, "door"), "yard")) == [("yard", 0)]
    assert list(worker.handle(crossing(1, "door"), "hall")) == [], "taken before"


def test_state_and_restore_change_nothing_at_any_point() -> None:
    rows = [crossing(n, "gate" if n % 3 else "door", "out" if n % 5 == 0 else "in") for n in range(1, 40)]
    uninterrupted = logic()
    whole = [row for event in rows for row in uninterrupted.handle(event)]
    for cut in (1, 7, 20, 38):
        first, second = logic(), logic()
        effects = [row for event in rows[:cut] for row in first.handle(event)]
        for area in ("hall", "yard"):
            second.restore(area, first.dump_state(area))
        effects += [row for event in rows[cut:] for row in second.handle(event)]
        assert effects == whole


def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        logic().restore("hall", msgspec.msgpack.encode([99, []]))
