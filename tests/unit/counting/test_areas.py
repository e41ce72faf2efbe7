"""Areas of several doors and zones: what is known to be true from how the sequences were made."""

from __future__ import annotations

from datetime import datetime
from itertools import count as numbers
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.counting.areas import MAX_READING_AGE_S, RESET_GRACE_S, AreaCounter, AreaCounterState, find_next_reset
from crowdperf.messaging.schema import Alert, AreaChanged, Event, LineCrossed, ZoneChanged, ZoneMinute
from crowdperf.settings.areas import Area
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import parse

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 1, 12, tzinfo=BERLIN).timestamp()
AREA = msgspec.convert(
    {
        "id": "hall",
        "doors": [{"camera": "north", "line": "door"}, {"camera": "south", "line": "gate", "enters": "out"}],
        "zones": [{"camera": "inside", "zone": "left"}, {"camera": "inside", "zone": "right"}],
    },
    Area,
)
serial = numbers()


def crossed(
    ts: float, camera: str = "north", direction: Literal["in", "out"] = "in", class_name: str = "person"
) -> LineCrossed:
    n = next(serial)
    line = "door" if camera == "north" else "gate"
    return LineCrossed(
        id=f"{camera}:1:{n}:{line}:{direction}:0",
        camera=camera,
        ts=ts,
        line=line,
        direction=direction,
        class_name=class_name,
        track=n,
        epoch=1,
        sequence=n,
    )


def seen(ts: float, occupancy: int, zone: str = "left") -> ZoneChanged:
    n = next(serial)
    return ZoneChanged(
        id=f"inside:1:{n}:{zone}:zone_in:0",
        camera="inside",
        ts=ts,
        zone=zone,
        change="in",
        class_name="person",
        track=n,
        occupancy=occupancy,
        epoch=1,
        sequence=n,
    )


def minute(ts: float, occupancy: int) -> ZoneMinute:
    return ZoneMinute(
        id=f"inside:left:minute:{ts}",
        camera="inside",
        ts=ts,
        zone="left",
        occupancy=occupancy,
        maximum=occupancy,
        mean=1.0,
        observed_s=60.0,
        entries=0,
        exits=0,
    )


def changes(events: list[Event]) -> list[tuple[int, str]]:
    return [(event.occupancy, event.cause) for event in events if isinstance(event, AreaChanged)]


def play(counter: AreaCounter, *events: Event) -> list[tuple[int, str]]:
    return [change for event in events for change in changes(counter.update(event))]


def test_in_by_one_door_and_out_by_another() -> None:
    counter = AreaCounter(AREA, "Europe/Berlin")
    made = play(
        counter,
        crossed(NOON),
        crossed(NOON + 1),
        crossed(NOON + 2, "south", "out"),
        crossed(NOON + 3, "south", "in"),
        crossed(NOON + 4, "north", "out"),
    )
    assert made == [(1, "crossing"), (2, "crossing"), (3, "crossing"), (2, "crossing"), (1, "crossing")]
    assert (counter.state.entries, counter.state.exits) == (3, 2)


def test_other_lines_and_classes_are_not_its_business() -> None:
    counter = AreaCounter(AREA, "UTC")
    other = msgspec.structs.replace(crossed(NOON), line="elsewhere")
    assert play(counter, other, crossed(NOON, class_name="car")) == []


def test_it_is_never_negative() -> None:
    counter = AreaCounter(AREA, "UTC")
    assert play(counter, crossed(NOON, "north", "out"), crossed(NOON + 1, "north", "out"), crossed(NOON + 2)) == [
        (0, "crossing"),
        (0, "crossing"),
        (1, "crossing"),
    ]


def test_it_is_never_below_what_its_zones_see() -> None:
    counter = AreaCounter(AREA, "UTC")
    assert play(counter, seen(NOON, 2), seen(NOON + 1, 3, "right")) == [(2, "zone"), (5, "zone")]
    # One leaves by a door, but five are still seen; that they are seen no more then does not say where they are.
    assert play(counter, crossed(NOON + 2, "north", "out")) == [(5, "crossing")]
    assert play(counter, seen(NOON + 3, 0), seen(NOON + 4, 0, "right")) == []
    assert counter.state.occupancy == 5


def test_what_a_zone_said_long_ago_is_not_what_it_sees() -> None:
    counter = AreaCounter(AREA, "UTC")
    play(counter, seen(NOON, 2))
    assert play(counter, crossed(NOON + 1, "north", "out")) == [(2, "crossing")]
    assert play(counter, crossed(NOON + MAX_READING_AGE_S + 10, "north", "out")) == [(1, "crossing")]
    play(counter, minute(NOON + 600, 2))
    assert play(counter, crossed(NOON + 700, "north", "out")) == [(2, "crossing")]


def test_an_area_of_zones_alone_is_what_they_see() -> None:
    area = msgspec.structs.replace(AREA, doors=[])
    assert play(AreaCounter(area, "UTC"), seen(NOON, 2), seen(NOON + 1, 1, "right"), seen(NOON + 2, 0)) == [
        (2, "zone"),
        (3, "zone"),
        (1, "zone"),
    ]


def test_uncertainty_grows_with_crossings_and_shrinks_at_a_reset() -> None:
    counter = AreaCounter(AREA, "Europe/Berlin")
    widths = []
    for n in range(100):
        counter.update(crossed(NOON + n))
        widths.append(counter.uncertainty)
    assert widths == sorted(widths)
    assert widths[-1] == pytest.approx(1.96 * (100 * 0.03) ** 0.5, abs=0.05)
    (reset,) = counter.tick(NOON + 16 * 3600 + RESET_GRACE_S + 1)
    assert isinstance(reset, AreaChanged)
    assert (reset.occupancy, reset.uncertainty, reset.cause, reset.entries) == (0, 0.0, "reset", 0)
    assert reset.ts == NOON + 16 * 3600
    assert reset.id == f"area:hall:reset:{int(NOON) + 16 * 3600}"


def test_missed_reset_happens_before_the_next_event() -> None:
    counter = AreaCounter(AREA, "Europe/Berlin")
    play(counter, crossed(NOON), crossed(NOON + 1))
    two_nights = NOON + 2 * 86_400
    assert play(counter, crossed(two_nights)) == [(0, "reset"), (1, "crossing")]
    assert counter.state.since == NOON + 86_400 + 16 * 3600
    # What comes late from before the reset is no longer of this day.
    assert play(counter, crossed(NOON + 3)) == []
    assert counter.tick(two_nights + 60) == []


def test_a_reset_keeps_whom_the_zones_see() -> None:
    counter = AreaCounter(AREA, "Europe/Berlin")
    play(counter, *(crossed(NOON + n) for n in range(7)))
    night = NOON + 16 * 3600
    play(counter, seen(night - 20, 1))
    assert changes(counter.tick(night + RESET_GRACE_S)) == [(1, "reset")]


@pytest.mark.parametrize(
    ("day", "at", "expected"),
    [
        ((2026, 3, 28, 12), "02:30", "2026-03-29T03:30:00+02:00"),
        ((2026, 10, 24, 12), "02:30", "2026-10-25T02:30:00+02:00"),
        ((2026, 10, 25, 2), "04:00", "2026-10-25T04:00:00+01:00"),
        ((2026, 6, 1, 4), "04:00", "2026-06-02T04:00:00+02:00"),
    ],
    ids=["the hour that does not exist", "the hour that is there twice", "after the change", "at the moment itself"],
)
def test_next_reset(day: tuple[int, int, int, int], at: str, expected: str) -> None:
    after = datetime(*day, tzinfo=BERLIN).timestamp()
    assert datetime.fromtimestamp(find_next_reset(after, BERLIN, at), BERLIN).isoformat() == expected


def test_alert_opens_above_and_closes_below_after_a_delay() -> None:
    area = msgspec.structs.replace(AREA, limit=2, limit_clear=1, limit_s=5.0, zones=[])
    counter = AreaCounter(area, "UTC")
    events = [event for n in range(3) for event in counter.update(crossed(NOON + n))]
    assert not any(isinstance(event, Alert) for event in events)
    events = counter.tick(NOON + 4) + counter.tick(NOON + 7.5) + counter.tick(NOON + 8)
    (opened,) = events
    assert isinstance(opened, Alert)
    assert (opened.state, opened.area, opened.value, opened.limit) == ("opened", "hall", 3, 2)
    events = [event for n in range(2) for event in counter.update(crossed(NOON + 20 + n, "north", "out"))]
    events += counter.tick(NOON + 27)
    (closed,) = [event for event in events if isinstance(event, Alert)]
    assert (closed.state, closed.alert, closed.value) == ("closed", opened.id, 3)


DOOR = st.sampled_from([("north", "in", 1), ("north", "out", -1), ("south", "out", 1), ("south", "in", -1)])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(DOOR, st.booleans(), st.booleans()), max_size=80))
def test_random_door_walks_with_redelivery_and_restart(
    steps: list[tuple[tuple[str, Literal["in", "out"], int], bool, bool]],
) -> None:
    counter = AreaCounter(AREA, "UTC")
    inside = 0
    for n, ((camera, direction, sign), again, restart) in enumerate(steps):
        event = crossed(NOON + n, camera, direction)
        inside = max(0, inside + sign)
        (change,) = counter.update(event)
        assert isinstance(change, AreaChanged)
        assert change.occupancy == inside
        if restart:
            stored = msgspec.msgpack.encode(counter.state)
            counter = AreaCounter(AREA, "UTC")
            counter.state = msgspec.msgpack.decode(stored, type=AreaCounterState)
        if again:
            assert counter.update(event) == []
    assert counter.state.entries + counter.state.exits == len(steps)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(DOOR, st.tuples(st.sampled_from(["left", "right"]), st.integers(0, 5))), max_size=60))
def test_bounds_hold_for_every_sequence(steps: list[tuple[object, ...]]) -> None:
    counter = AreaCounter(AREA, "UTC")
    zones = {"left": 0, "right": 0}
    for n, step in enumerate(steps):
        if len(step) == 3:
            counter.update(crossed(NOON + n, step[0], step[1]))  # type: ignore[arg-type]
        else:
            zones[step[0]] = step[1]  # type: ignore[index, assignment]
            counter.update(seen(NOON + n, step[1], step[0]))  # type: ignore[arg-type]
        assert counter.state.occupancy >= max(0, sum(zones.values()))


CAMERA = '{"id": "north", "url": "rtsp://x/1", "lines": [{"id": "door", "p1": [0.1, 0.5], "p2": [0.9, 0.5]}]}'


@pytest.mark.parametrize(
    ("area", "why"),
    [
        ('{"id": "hall"}', "neither doors nor zones"),
        ('{"id": "hall", "doors": [{"camera": "north", "line": "gate"}]}', "line 'gate' of camera 'north'"),
        ('{"id": "hall", "zones": [{"camera": "north", "zone": "left"}]}', "zone 'left' of camera 'north'"),
        ('{"id": "hall", "doors": [{"camera": "north", "line": "door"}], "reset_at": "25:00"}', "reset_at"),
        (
            '{"id": "hall", "doors": [{"camera": "north", "line": "door"}, {"camera": "north", "line": "door"}]}',
            "'door' twice",
        ),
    ],
)
def test_an_area_that_cannot_be_is_refused_with_a_remedy(area: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse(f'{{"cameras": [{CAMERA}], "areas": [{area}]}}'.encode())
    assert "Remedy" in str(caught.value)
