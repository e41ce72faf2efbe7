"""States of rule workers: those of each version stay readable, and what is not usable is rebuilt from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from crowdperf.messaging.schema import Alert, AlertChanged, LineCrossed, PpeViolation
from crowdperf.settings.areas import Area
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.worker_config import AreasConfig, build_ppe_config, build_visitors_config
from crowdperf.storage.alerts import AlertView
from crowdperf.storage.occupancy import AreaSnapshot
from crowdperf.storage.violations import Violation, ViolationView
from crowdperf.visitors.visit import Visit
from crowdperf.visitors.visit_store import VisitUpdate
from crowdperf.workers import areas, ppe, visitors
from crowdperf.workers.areas import AreaLogic, StoredArea
from crowdperf.workers.notify import logic as notify
from crowdperf.workers.notify.logic import AlertLogic, CameraAlertState
from crowdperf.workers.ppe import CameraPpeState, PpeLogic
from crowdperf.workers.state_loader import StateLoader
from crowdperf.workers.visitors import ExpireVisits, SiteVisitState, VisitorLogic
from crowdperf.workers.worker_logic import WorkerCheckpoint, WorkerLogic
from tests.support.alerting import ALERT, NOW, make_config, zone

DAY_S = 86_400.0
GOLDEN_STATES: dict[tuple[str, int], str] = {
    ("areas", 2): (
        "92029c040905cb41dad27480000000cb41dad2748f00000081aa6c6f6262792f6465736b9202cb41dad2748140000094ab61"
        "7265613a68616c6c3a31cb41dad27480000000c0cb401c000000000000910bcb41dad27482400000aa6c6f6262792f646f6f"
        "72c3cb41dad27482000000"
    ),
    ("notify", 1): (
        "85a776657273696f6e01a6616374697665918ea472756c65a563726f7764a77375626a656374a46465736ba56576656e74a2"
        "6531a27473cb41dad27480000000a664657461696cad3720617420746865206465736ba76f6e676f696e67c3a47265667391"
        "a27231a5616c6572748ca26964a863726f77643a6531a472756c65a563726f7764a87365766572697479a77761726e696e67"
        "a663616d657261a56c6f626279a77375626a656374a46465736ba57469746c65a543726f7764a664657461696cad37206174"
        "20746865206465736ba56576656e74a26531a97261697365645f6174cb41dad27480000000a76c6173745f6174cb41dad274"
        "80c00000a5636f756e7402a9657363616c6174656400a57374617465ac61636b6e6f776c6564676564a86e6f746966696564"
        "c3a774656c6c5f6174cb41dad27480000000a9657363616c6174656400a9636c6f7365645f6174cb0000000000000000a574"
        "696d657303a473656e7481a563726f776491cb41dad27480000000a468656c6481a563726f776401a872656164696e677382"
        "a3646179aa323032372d30312d3135a6636f756e747381a7646f6f722f696e06"
    ),
    ("ppe", 1): (
        "82a776657273696f6e01a777617463686564918ea472756c65a468617473a5747261636b07a573696e6365cb41dad2748000"
        "0000a46c617374cb41dad27481000000a5766f74657381a76861726468617492cb3fe999999999999acbbfb999999999999a"
        "a47365656e05a46265737496cb3fe999999999999acb41dad2748040000005460294cb3fb999999999999acb3fc999999999"
        "999acb3fd3333333333333cb3fd999999999999aa976696f6c6174696f6ea27631a76f6e676f696e67c3aa66697273745f73"
        "65656ecb41dad27480000000a76d697373696e6791a768617264686174a9636c6f7365645f6174cb0000000000000000a574"
        "696d657301a461776179c2"
    ),
    ("visitors", 1): (
        "84a776657273696f6e01a676697369747381a276318aa57669736974a27631a6706572736f6ea27031a776657273696f6e04"
        "a57374617465aa636865636b65645f696ead65787065637465645f66726f6dcb41dad27480000000ae65787065637465645f"
        "756e74696ccb41dad27804000000a461726561a36c6162a573696e6365cb41dad27482800000a561736b656400a872656d69"
        "6e646564c3a763616d6572617384a5617265617381a36c616284a7636f756e74656403a5646f6f727381aa6c6f6262792f64"
        "6f6f7201a573696e6365cb41dad27480000000a66f70656e6564a26d31a76372656469747391cb41dad27480000000a47573"
        "656491cb41dad27480400000a7776974686f75749192cb41dad27480800000a26539aa657870697265645f6174cb41dad274"
        "80000000"
    ),
}
"""Worker and version -> a state that this version has stored. Add one with each version, and keep the others."""
TYPES: dict[str, Any] = {
    "areas": StoredArea,
    "notify": CameraAlertState,
    "ppe": CameraPpeState,
    "visitors": SiteVisitState,
}
UNUSABLE = [
    pytest.param(msgspec.msgpack.encode(WorkerCheckpoint(b"5-1", b"", b"\x81\xa7version\x63")), id="another version"),
    pytest.param(b"\xc1", id="damaged"),
]


@pytest.mark.parametrize(("worker", "version"), GOLDEN_STATES)
def test_a_stored_state_stays_readable(worker: str, version: int) -> None:
    stored = bytes.fromhex(GOLDEN_STATES[worker, version])
    state = msgspec.msgpack.decode(stored, type=TYPES[worker])
    assert state.version == version
    assert msgspec.msgpack.encode(state) == stored


def test_each_worker_has_a_golden_state_of_its_version() -> None:
    modules = {"areas": areas, "notify": notify, "ppe": ppe, "visitors": visitors}
    assert {(name, module.VERSION) for name, module in modules.items()} <= set(GOLDEN_STATES)


def rebuild(logic: WorkerLogic, partition: str, stored: bytes, *documents: msgspec.Struct) -> None:
    state = StateLoader("worker", logic, lambda: documents).restore(partition, stored, NOW)
    assert state.dirty, "the rebuilt state is stored"


@pytest.mark.parametrize("stored", UNUSABLE)
def test_visits_end_at_night_and_names_expire(stored: bytes) -> None:
    config = parse(msgspec.json.encode({"cameras": []}))
    logic = VisitorLogic(build_visitors_config(Deployment(config, Paths(Path("/nowhere"))), 0))
    visit = Visit(
        id="v1",
        person="p1",
        state="on_site",
        version=4,
        code="c",
        host="Ada",
        expected_from=NOW - DAY_S,
        expected_until=NOW - DAY_S + 3600,
        checked_in_at=NOW - DAY_S,
    )
    rebuild(logic, "", stored, visit)
    effects = list(logic.advance_time("", NOW))
    assert [(row.visit, row.fields["state"]) for row in effects if isinstance(row, VisitUpdate)] == [
        ("v1", "checked_out")
    ]
    assert any(isinstance(row, ExpireVisits) for row in effects)


@pytest.mark.parametrize("stored", UNUSABLE)
@pytest.mark.parametrize(("event", "closes_by_time"), [("LineCrossed", True), ("ZoneChanged", False)])
def test_open_alerts_close(stored: bytes, event: str, closes_by_time: bool) -> None:
    rule = {"id": "crowd", "name": "Too many", "event": event, "channels": []}
    logic = AlertLogic(make_config({"rules": [rule], "channels": []}))
    other = msgspec.structs.replace(ALERT, id="crowd:2", camera="gate")
    rebuild(logic, "plaza", stored, AlertView(alert=ALERT, state="open"), AlertView(alert=other, state="open"))
    closed = [row for row in logic.advance_time("plaza", NOW + DAY_S) if isinstance(row, AlertChanged)]
    if not closes_by_time:
        assert closed == [], "the condition may still hold"
        closed = [row for row in logic.handle(zone(1, 0, NOW + 5)) if isinstance(row, AlertChanged)]
    assert [(row.alert, row.state) for row in closed] == [("crowd:1", "closed")]


@pytest.mark.parametrize("stored", UNUSABLE)
def test_violations_end(stored: bytes) -> None:
    camera = {"id": "yard", "url": "rtsp://192.0.2.1/", "ppe": [{"id": "hats", "required": ["hardhat"]}]}
    config = parse(msgspec.json.encode({"cameras": [camera]}))
    logic = PpeLogic(build_ppe_config(Deployment(config, Paths(Path("/nowhere"))), 0))
    violation = Violation(
        id="v1",
        rule="hats",
        camera="yard",
        zone="",
        track=7,
        items=["hardhat"],
        first_seen=NOW - 60,
        last_seen=NOW - 50,
        frames=9,
        votes="",
        ongoing=True,
        cause="",
    )
    rebuild(logic, "yard", stored, ViolationView(violation=violation, review="open"))
    ended = [row for row in logic.advance_time("yard", NOW) if isinstance(row, PpeViolation)]
    assert [(row.violation, row.state, row.cause) for row in ended] == [("v1", "closed", "gone")]


@pytest.mark.parametrize("stored", UNUSABLE)
def test_an_area_keeps_its_numbers_and_closes_its_alert(stored: bytes) -> None:
    hall = msgspec.convert({"id": "hall", "doors": [{"camera": "c", "line": "l"}], "limit": 5, "limit_s": 0}, Area)
    config = AreasConfig(instance=0, instances=1, areas=(hall,), timezone="UTC", redis_url="", key_prefix="")
    logic = AreaLogic(config)
    snapshot = AreaSnapshot(
        area="hall",
        occupancy=4,
        uncertainty=1.0,
        entries=9,
        exits=5,
        since=NOW - 3600,
        next_reset=None,
        at=NOW - 5,
        limit=5,
        over_limit=True,
    )
    alert = Alert(
        id="area:hall:occupancy_opened:1",
        camera="c",
        ts=NOW - 60,
        rule="occupancy",
        state="opened",
        alert="area:hall:occupancy_opened:1",
        area="hall",
        value=7.0,
        limit=5.0,
        opened_at=NOW - 60,
    )
    rebuild(logic, "hall", stored, snapshot, alert)
    state = logic.counters["hall"].state
    assert (state.occupancy, state.entries, state.exits, state.since) == (4, 9, 5, NOW - 3600)
    closed = [row for row in logic.advance_time("hall", NOW) if isinstance(row, Alert)]
    assert [(row.alert, row.state) for row in closed] == [(alert.alert, "closed")]


def test_an_area_closes_the_alert_that_its_own_record_names() -> None:
    """However many events have come since the alert, also more than the stream keeps."""
    hall = msgspec.convert({"id": "hall", "doors": [{"camera": "c", "line": "l"}], "limit": 1, "limit_s": 0}, Area)
    config = AreasConfig(instance=0, instances=1, areas=(hall,), timezone="UTC", redis_url="", key_prefix="")
    before, after = AreaLogic(config), AreaLogic(config)

    def crossing(n: int, direction: Literal["in", "out"]) -> LineCrossed:
        return LineCrossed(
            id=f"c:1:{n}", camera="c", ts=NOW + n, line="l", direction=direction, class_name="person", track=n,
            epoch=1, sequence=n,
        )  # fmt: skip

    effects = [effect for n in range(3) for effect in before.handle(crossing(n, "in"))]
    (opened,) = [row for row in effects if isinstance(row, Alert)]
    published = [row for row in effects if isinstance(row, AreaSnapshot)][-1]
    rebuild(after, "hall", b"\xc1", published)
    effects = [effect for n in (3, 4) for effect in after.handle(crossing(n, "out"))]
    (closed,) = [row for row in effects if isinstance(row, Alert)]
    assert (closed.alert, closed.state, closed.value, closed.opened_at) == (opened.alert, "closed", 3, opened.opened_at)


def test_a_waiting_notification_stays_readable() -> None:
    """It waits in Redis as JSON, and newer fields have defaults."""
    alert = {
        "id": "crowd:1", "rule": "crowd", "severity": "warning", "camera": "plaza", "subject": "desk",
        "title": "Too many", "detail": "7 at the desk", "event": "1", "raised_at": NOW, "last_at": NOW, "count": 1,
    }  # fmt: skip
    waiting = {
        "id": "crowd:1:0", "channel": "post", "due": NOW, "stage": 0, "alert": alert, "site": "Demo",
        "camera_title": "Plaza",
    }  # fmt: skip
    decoded = msgspec.json.decode(msgspec.json.encode(waiting), type=notify.Notification)
    assert (decoded.id, decoded.alert.id, decoded.note) == ("crowd:1:0", "crowd:1", "")


def test_a_checkpoint_stays_readable() -> None:
    stored = bytes.fromhex("93c403352d31c4080102030405060708c401c0")
    checkpoint = msgspec.msgpack.decode(stored, type=WorkerCheckpoint)
    assert checkpoint == WorkerCheckpoint(b"5-1", bytes(range(1, 9)), b"\xc0")
    assert msgspec.msgpack.encode(checkpoint) == stored
