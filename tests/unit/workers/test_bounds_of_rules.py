"""The rules of the workers keep nothing for ever: tens of thousands of people, visits and cameras come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.counting.areas import AreaCounter
from crowdperf.messaging.schema import Alert, AreaChanged, Event, PpeObserved, PpeViolation, VisitorChanged, ZoneChanged
from crowdperf.settings.areas import Area
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.worker_config import build_ppe_config, build_visitors_config
from crowdperf.storage.alerts import AlertUpdate
from crowdperf.visitors.camera_reconciliation import MAX_CREDIT_AGE_S, MAX_CREDITS
from crowdperf.visitors.visit_store import VisitUpdate
from crowdperf.workers.notify.logic import MAX_ACTIVE_ALERTS, MAX_REFS_PER_ALERT, AlertLogic
from crowdperf.workers.ppe import MAX_WATCHED_TRACKS, PpeLogic
from crowdperf.workers.visitors import SITE_PARTITION, VisitorLogic
from crowdperf.workers.worker_logic import WorkerLogic
from tests.support.alerting import NOW, crossing, make_config, state
from tests.support.bounds import largest

MANY = 20_000
HOOK = {"type": "webhook", "id": "hook", "url": "https://hooks.example/x"}


def over(logic: WorkerLogic, cameras: int, of: Any) -> list[Struct]:
    """So many cameras that no configuration knows say something, and are forgotten; the effects of that."""
    effects: list[Struct] = []
    for number in range(cameras):
        camera = f"gone-{number}"
        for event in of(camera, number):
            list(logic.handle(event))
        assert not logic.is_configured(camera)
        effects += logic.forget(camera, NOW + number)
    return effects


# -- alerts --


def alerts(*events: str, **more: Any) -> AlertLogic:
    rules = [{"id": name.lower(), "name": name, "event": name, "channels": ["hook"], **more} for name in events]
    broker = {"type": "mqtt", "id": "broker", "host": "mqtt.example"}
    return AlertLogic(make_config({"rules": rules, "channels": [HOOK, broker]}))


def violation(number: int, name: Any, camera: str = "plaza") -> PpeViolation:
    return PpeViolation(
        id=f"v{number}:{name}", camera=camera, ts=NOW + number / 100, violation=f"v{number}", rule="hats", state=name,
        items="hardhat", zone="square", track=number, first_seen=NOW, last_seen=NOW,
    )  # fmt: skip


def test_flood_of_violations_is_bounded_finished_ones_go_first() -> None:
    logic = alerts("PpeViolation", dedupe_s=86_400, max_per_hour=3600)
    list(logic.handle(violation(0, "opened")))
    for number in range(1, MAX_ACTIVE_ALERTS + 500):
        list(logic.handle(violation(number, "opened")))
        list(logic.handle(violation(number, "closed")))
    assert largest(logic) == (MAX_ACTIVE_ALERTS, "AlertLogic._cameras['plaza'].active")
    assert [row.subject for row in logic._cameras["plaza"].active if row.state != "closed"] == ["v0"]
    effects = [
        effect
        for number in range(7_000, 7_000 + MAX_ACTIVE_ALERTS)
        for effect in logic.handle(violation(number, "opened"))
    ]
    assert [row for row in effects if isinstance(row, AlertUpdate) and row.state == "closed"], (
        "what has to go is closed"
    )
    assert largest(logic)[0] == MAX_ACTIVE_ALERTS


def test_what_holds_an_alert_open_is_bounded() -> None:
    logic = alerts("Alert")
    for number in range(MANY):
        list(
            logic.handle(
                Alert(
                    id=f"a{number}",
                    camera="plaza",
                    ts=NOW,
                    rule="loitering",
                    state="opened",
                    alert=f"a{number}",
                    zone="square",
                )
            )
        )
    assert largest(logic) == (MAX_REFS_PER_ALERT, "AlertLogic._cameras['plaza'].active[].refs")


def test_alerts_of_cameras_that_are_gone_close_and_leave_nothing() -> None:
    logic = alerts("CameraChanged", "LineCrossed")

    def make_events(camera: str, number: int) -> list[Event]:
        return [state(number, "stalled", NOW, camera), crossing(number, NOW, camera)]

    effects = over(logic, MANY, make_events)
    closed = [row for row in effects if isinstance(row, AlertUpdate) and row.state == "closed"]
    assert len(closed) == 2 * MANY, "an alert about a camera that is gone must not stay open"
    assert largest(logic)[0] < 50
    assert logic.is_configured("plaza")
    assert logic.is_configured(""), "alerts about no camera"


def test_rules_that_are_gone_leave_nothing_in_the_stored_state() -> None:
    before, after = alerts("LineCrossed", max_per_hour=1), alerts("CameraChanged")
    for number in range(3):
        list(before.handle(crossing(number, NOW + 400 * number)))
        list(before.advance_time("plaza", NOW + 400 * number + 1))
    assert before._cameras["plaza"].sent
    after.restore("plaza", before.dump_state("plaza"))
    assert not after._cameras["plaza"].sent
    assert not after._cameras["plaza"].held


# -- protective equipment --


def observed(number: int, camera: str = "yard") -> PpeObserved:
    return PpeObserved(
        id=f"{camera}:1:{number}:ppe:{number}", camera=camera, ts=NOW + number / 1000, track=number, epoch=1,
        sequence=number, detection=0, height_px=200.0, zones="site", no_hardhat=0.8,
    )  # fmt: skip


def test_ppe_crowd_is_bounded_and_gone_cameras_are_forgotten() -> None:
    zone = {"id": "site", "polygon": [[0, 0], [1, 0], [1, 1]]}
    camera = {
        "id": "yard",
        "url": "rtsp://192.0.2.1/",
        "zones": [zone],
        "ppe": [{"id": "hats", "zone": "site", "required": ["hardhat"]}],
    }
    logic = PpeLogic(
        build_ppe_config(Deployment(parse(msgspec.json.encode({"cameras": [camera]})), Paths(Path("/nowhere"))), 0)
    )
    for number in range(3 * MAX_WATCHED_TRACKS):
        list(logic.handle(observed(number)))
    assert largest(logic) == (MAX_WATCHED_TRACKS, "PpeLogic._cameras['yard'].watched")
    list(logic.advance_time("yard", NOW + 3600))
    over(logic, MANY, lambda name, number: [observed(number, name)])
    assert largest(logic)[0] < 50
    assert logic.is_configured("yard")


# -- visitors --


def changed(visit: str, name: str, version: int, ts: float, previous: str = "") -> VisitorChanged:
    return VisitorChanged(
        id=f"visit:{visit}:{version}", camera="", ts=ts, visit=visit, person="p", state=name, previous=previous,
        version=version, expected_from=ts, expected_until=ts + 3600, area="lab",
    )  # fmt: skip


def visitors(areas: list[dict[str, Any]], **rules: Any) -> VisitorLogic:
    line = {"p1": [0.5, 0.1], "p2": [0.5, 0.9]}
    cameras = [
        {"id": name, "url": "rtsp://192.0.2.1/", "lines": [{"id": "door", **line}]} for name in ("lobby", "back")
    ]
    config = parse(msgspec.json.encode({"cameras": cameras, "areas": areas, "visitors": rules}))
    return VisitorLogic(build_visitors_config(Deployment(config, Paths(Path("/nowhere"))), 0))


LAB = {"id": "lab", "doors": [{"camera": "lobby", "line": "door"}, {"camera": "back", "line": "door"}]}
HALL = {"id": "hall", "doors": [{"camera": "lobby", "line": "door"}]}


def test_every_visit_ends_whatever_people_forget() -> None:
    logic = visitors([LAB])
    paths = (["invited"], ["arrived"], ["checked_in"], ["invited", "arrived"], ["checked_in", "on_site", "checked_out"])
    most = 0
    for number in range(MANY):
        now = NOW + number * 30
        steps = paths[number % len(paths)]
        for version, name in enumerate(steps, 1):
            list(logic.handle(changed(f"v{number}", name, version, now)))
        if number % 200 == 0:
            # What the rules ask for is done, and comes back as an event.
            for effect in list(logic.advance_time(SITE_PARTITION, now)):
                for event in effect.events if isinstance(effect, VisitUpdate) else []:
                    if isinstance(event, VisitorChanged):
                        list(logic.handle(event))
        most = max(most, len(logic._site.visits))
    # Half a day's visits: who came in the evening goes with the next night's check-out.
    assert most < 86_400 / 30 * 1.1, most
    assert largest(logic)[0] == max(len(logic._site.visits), len(logic._site.cameras.credits))


def test_check_ins_of_a_site_without_entrances_are_not_kept() -> None:
    logic = visitors([])
    for number in range(MANY):
        list(logic.handle(changed(f"v{number}", "checked_in", 1, NOW + number)))
        list(logic.handle(changed(f"v{number}", "checked_out", 2, NOW + number)))
    assert largest(logic) == (MAX_CREDIT_AGE_S + 1, "VisitorLogic._site.cameras.credits"), (
        "those that could let somebody pass"
    )
    for number in range(2 * MAX_CREDITS):
        list(logic.handle(changed(f"crowd{number}", "checked_in", 1, NOW + MANY)))
        list(logic.handle(changed(f"crowd{number}", "checked_out", 2, NOW + MANY)))
    assert largest(logic)[0] == MAX_CREDITS


def test_removed_areas_and_doors_leave_the_stored_state() -> None:
    before, after = visitors([LAB, HALL]), visitors([{**HALL, "id": "lab"}])
    for area in ("lab", "hall"):
        list(
            before.handle(
                AreaChanged(
                    id=area,
                    camera="lobby",
                    ts=NOW,
                    area=area,
                    occupancy=3,
                    uncertainty=0.0,
                    entries=3,
                    exits=0,
                    cause="crossing",
                )
            )
        )
    for camera in ("lobby", "back"):
        list(before.handle(crossing(1, NOW, camera)))
    assert before._site.cameras.areas["lab"].doors == {"lobby/door": 1, "back/door": 1}
    after.restore(SITE_PARTITION, before.dump_state(SITE_PARTITION))
    assert list(after._site.cameras.areas) == ["lab"]
    assert after._site.cameras.areas["lab"].doors == {"lobby/door": 1}


# -- areas --


def test_area_keeps_no_state_of_foreign_or_removed_zones() -> None:
    zones = [{"camera": "lobby", "zone": "front"}, {"camera": "back", "zone": "rear"}]
    area = {"id": "hall", "doors": [{"camera": "lobby", "line": "door"}], "zones": zones}
    counter = AreaCounter(msgspec.convert(area, Area), "UTC")
    for number in range(MANY):
        counter.update(crossing(number, NOW + number / 10, "lobby"))
        counter.update(crossing(number, NOW + number / 10, f"stranger-{number}"))
    assert largest(counter) == (256, "AreaCounter.state.recent")
    for place in zones:
        counter.update(minute(place["camera"], place["zone"]))
    assert len(counter.state.zones) == 2
    fewer = AreaCounter(msgspec.convert({**area, "zones": zones[:1]}, Area), "UTC")
    fewer.restore(counter.state)
    assert list(fewer.state.zones) == ["lobby/front"]


def minute(camera: str, zone: str) -> Event:
    return ZoneChanged(
        id=f"{camera}/{zone}", camera=camera, ts=NOW + MANY, zone=zone, change="in", class_name="person", track=1,
        occupancy=2, epoch=1, sequence=1,
    )  # fmt: skip
