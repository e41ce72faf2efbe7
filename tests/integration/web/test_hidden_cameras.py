"""An account that may see one camera learns neither id nor name of another: in no answer, and in no refusal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from crowdperf.messaging.schema import AreaChanged, AreaMismatch, CameraChanged, TailgatingSuspected
from crowdperf.storage import alerts, occupancy, violations
from crowdperf.storage.alerts import AlertDoc, AlertUpdate
from crowdperf.web.app import create_app
from tests.conftest import RedisServer
from tests.support.people import PASSWORD, People
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, serving

HIDDEN_ID, HIDDEN_NAME = "hr-office", "Works council"
PLAZA, LOBBY, _ = CONFIG["cameras"]
DOORS = [{"camera": "plaza", "line": "gate"}, {"camera": HIDDEN_ID, "line": "door"}]
BASE: dict[str, Any] = {
    **CONFIG,
    "cameras": [PLAZA, {**LOBBY, "id": HIDDEN_ID, "name": HIDDEN_NAME}],
    "areas": [{"id": "hall", "doors": DOORS[:1]}, {"id": "site", "name": "Site", "doors": DOORS}],
    "visitors": {"entrances": DOORS},
    "alerts": {"rules": [{"id": "own", "event": "Alert", "cameras": ["plaza"]}, {"id": "other", "event": "CameraGap"}]},
}
VISITOR = {"name": "Ines Keller", "host": "Reception", "walk_in": True, "areas": ["site"]}
QUERIES: tuple[dict[str, str], ...] = (
    {},
    {"camera": "plaza", "type": "AreaChanged,AreaMismatch,TailgatingSuspected,CameraChanged,RollCallChanged"},
    *({name: "nonsense"} for name in ("camera", "type")),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def served(_redis_session: RedisServer, folder: Path) -> Iterator[Served]:
    with serving(_redis_session.url, folder, BASE) as made:
        yield made


@pytest.fixture
def people(served: Served, redis_server: RedisServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    file = folder / "config.json"
    file.write_text(json.dumps(BASE))
    monkeypatch.setenv("CROWDPERF_CONFIG", str(file))
    monkeypatch.setenv("CROWDPERF_DATA", str(folder / "var"))
    return People(served, redis_server)


def list_addresses(served: Served, places: dict[str, str]) -> list[str]:
    """List the address of every GET route, with what exists in the place of its parameters."""
    return [
        "/".join(places.get(part.strip("{}").partition(":")[0], "1") if "{" in part else part for part in parts)
        for route in create_app(served.process_config).routes
        if "GET" in getattr(route, "methods", ())
        for parts in [route.path_format.split("/")]
        if parts[-1] != "stream"
    ]


def publish_all(site: SyntheticSite, redis_server: RedisServer) -> None:
    """Publish of both cameras, and of an area that both make up, what other processes would."""
    now, redis = time.time(), redis_server.client()
    site.publish_crossing("plaza", "gate", "in")
    hidden = site.publish_crossing(HIDDEN_ID, "door", "in")
    area: dict[str, Any] = {"area": "site", "occupancy": 2, "uncertainty": 0.1, "entries": 2, "exits": 0}
    site.publish(AreaChanged(id="a", camera="plaza", ts=now, cause="crossing", **area))
    mismatch = {"counted": 2, "expected": 0, "since": now, "door": f"{HIDDEN_ID}/door"}
    site.publish(AreaMismatch(id="m", camera="", ts=now, area="site", state="opened", **mismatch))  # type: ignore[arg-type]
    passed: dict[str, Any] = {"line": "gate", "crossings": 2, "check_ins": 0, "window_s": 9.0}
    site.publish(TailgatingSuspected(id="t", camera="plaza", ts=now, evidence=f"plaza.1 {hidden}", **passed))
    site.publish(CameraChanged(id="c", camera=HIDDEN_ID, ts=now, state="stalled", detail=HIDDEN_NAME))
    occupancy.stage_area(
        redis,
        occupancy.AreaSnapshot(
            **area, since=now, next_reset=None, at=now, limit=5, over_limit=False, last_door=f"{HIDDEN_ID}/door"
        ),
    )
    for camera, title in (("plaza", "Own"), (HIDDEN_ID, HIDDEN_NAME)):
        alert = AlertDoc(
            id=f"own:{camera}", rule="own", severity="info", camera=camera, subject="", title=title, detail=title,
            event=camera, raised_at=now, last_at=now, count=1,
        )  # fmt: skip
        alerts.stage(redis, AlertUpdate(alert, "open"))
        violations.stage_compliance(
            redis,
            violations.Compliance(
                hour=int(now) // 3600 * 3600, camera=camera, zone="desk", item="vest", outcome="worn"
            ),
        )
        site.make_metrics(f"capture-{camera}").set_text("last_error", f"trouble of {title}", camera)
        site.make_metrics("inference").count("frames_analysed", 5, camera)
    site.publish_metrics()


def assert_hidden(reply: httpx.Response, what: object) -> None:
    for text in (HIDDEN_ID, HIDDEN_NAME):
        assert text not in reply.text, (what, reply.status_code, reply.text)
        assert text not in str(reply.headers), what


def test_no_answer_of_any_route_names_a_hidden_camera(
    people: People, served: Served, redis_server: RedisServer
) -> None:
    site = SyntheticSite(served.config, served.paths, redis_server.url)
    publish_all(site, redis_server)
    with people.browser("root", "admin") as root:
        visit = root.post("/api/v1/visits", json=VISITOR).json()["id"]
        assert root.post(f"/api/v1/visits/{visit}/check-in", json={}).status_code == 200
        call = root.post("/api/v1/roll-calls", json={"drill": True})
        assert HIDDEN_NAME in call.text, "who sees all cameras reads their names"
        assert HIDDEN_ID in root.get("/debug").text
    token = {"label": "old", "permissions": ["read"], "password": PASSWORD, "cameras": [HIDDEN_ID]}
    places = {"camera_id": "plaza", "zone_id": "stage", "visit_id": visit, "call_id": call.json()["id"]}
    addresses = list_addresses(served, places)
    assert len(addresses) >= 50
    for role in ("viewer", "reception", "operator", "admin"):
        with people.browser(role, role) as before:
            assert before.post("/api/v1/tokens", json=token).status_code == 201
        with people.browser(role, role, ["plaza"]) as limited:
            for address in addresses:
                for query in QUERIES if role == "operator" and not address.endswith("/system") else QUERIES[:1]:
                    assert_hidden(limited.get(address, params=query), (role, address, query))
    site.close()


def test_no_refused_change_names_a_hidden_camera(people: People) -> None:
    with people.browser("eve", "reception", ["plaza"]) as eve:
        call = eve.post("/api/v1/roll-calls", json={"drill": True})
        assert call.status_code == 201
        assert_hidden(call, "roll call")
        assert_hidden(eve.post(f"/api/v1/roll-calls/{call.json()['id']}/end", json={}), "end")
    with people.browser("ada", "operator", ["plaza"]) as ada:
        # A rule and an area name the camera: the configuration's own message lists all the others.
        removed = ada.delete("/api/v1/cameras/plaza")
        assert removed.status_code == 400
        assert "administrator" in removed.json()["detail"]
        assert_hidden(removed, "camera")
        assert_hidden(ada.delete("/api/v1/cameras/plaza/lines/gate"), "line")
        own = ada.patch("/api/v1/cameras/plaza", json={"lines": [{"id": "gate", "p1": [0.5, 0.5], "p2": [0.5, 0.5]}]})
        assert "has no length" in own.json()["detail"], "a fault of the own camera is named"
        assert_hidden(ada.post("/api/v1/alert-rules", json={"id": "x", "event": "Alert", "cameras": ["y"]}), "rule")
    with people.browser("root", "admin", ["plaza"]) as root:
        assert_hidden(root.post("/api/v1/system/processes/capture-x/restart"), "restart")
        assert root.get("/api/v1/users").status_code == 403, "an administrator of accounts sees all cameras"
