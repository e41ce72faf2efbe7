"""Areas, alerts, density, zones and the installation over HTTP, from what other processes store in Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from crowdperf.accounts import credentials
from crowdperf.accounts.account_store import ACCOUNTS_KEY
from crowdperf.accounts.principal import Account
from crowdperf.messaging.process_metrics import metrics_key
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import CameraChanged, ZoneMinute
from crowdperf.messaging.streams import CONNECTIONS, DETECTIONS, TRACKS, stream_key
from crowdperf.storage import density, occupancy
from crowdperf.storage import occupancy as areas
from crowdperf.web import rates
from crowdperf.web.parameters import format_rfc3339
from tests.conftest import RedisServer, wait_until
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

PASSWORD = "correct horse battery"
HASH = credentials.hash_password(PASSWORD)
HOUR = 1_777_593_600
BASE = {
    **CONFIG,
    "areas": [
        {"id": "hall", "name": "Hall", "doors": [{"camera": "plaza", "line": "gate"}], "limit": 50},
        {"id": "site", "doors": [{"camera": "plaza", "line": "gate"}, {"camera": "lobby", "line": "door"}]},
    ],
    "alerts": {
        "rules": [{"id": "crowded", "event": "Alert", "cameras": ["plaza"]}, {"id": "all", "event": "CameraGap"}]
    },
}


@pytest.fixture(scope="module")
def served(_redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(_redis_session.url, tmp_path_factory.mktemp("state"), BASE) as made:
        yield made


@pytest.fixture
def client(served: Served, redis_server: RedisServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=TIMEOUT_S) as made:
        yield made


def browser(served: Served, redis_server: RedisServer, role: str, cameras: list[str] | None = None) -> httpx.Client:
    row = Account(name="ada", role=role, password=HASH, created_at=time.time(), cameras=cameras)
    redis_server.client().hset(ACCOUNTS_KEY, "ada", msgspec.json.encode(row))
    reply = httpx.post(f"{served.url}/api/v1/session", json={"name": "ada", "password": PASSWORD}, timeout=TIMEOUT_S)
    headers = {"X-CSRF-Token": reply.json()["csrf"]}
    return httpx.Client(base_url=served.url, cookies=reply.cookies, headers=headers, timeout=TIMEOUT_S)


def test_red_light_where_a_stream_stands_still(
    client: httpx.Client, served: Served, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "MIN_LOOK_INTERVAL_S", 0.5)
    redis, began, added = redis_server.client(), time.monotonic(), dict.fromkeys(("plaza", "lobby"), 0)

    def look(*running: str) -> dict[str, Any]:
        """Add 8 messages per second for the cameras that run, and read /debug."""
        due = int((time.monotonic() - began) * 8)
        for camera in added:
            for _ in range(due - added[camera] if camera in running else 0):
                for stream in (DETECTIONS, TRACKS):
                    redis.xadd(stream_key(stream, camera), {"d": b""})
            added[camera] = due
        report: dict[str, Any] = client.get("/debug").json()
        return report

    def get_states(report: dict[str, Any]) -> dict[str, str]:
        return {f"{row['stream']} {row['camera']}".strip(): row["state"] for row in report["streams"]}

    def all_measured() -> bool:
        report = look("plaza", "lobby")
        return bool(report["streams_ok"]) and set(get_states(report).values()) == {"ok"}

    wait_until(all_measured, what="every stream to have the expected rate")
    assert "dock" not in {row["camera"] for row in look("plaza", "lobby")["streams"]}, "it is disabled"
    wait_until(lambda: not look("plaza")["streams_ok"], what="the red light")
    states = get_states(look("plaza"))
    assert {name for name, state in states.items() if state != "ok"} == {"detections lobby", "tracks lobby"}
    assert states["tracks lobby"] == "low"
    page = client.get("/metrics").text
    assert 'crowdperf_stream_rate_ok{stream="tracks",camera="lobby"} 0' in page
    assert 'crowdperf_stream_rate_ok{stream="tracks",camera="plaza"} 1' in page
    assert 'crowdperf_stream_rate_minimum{stream="tracks",camera="lobby"} 2.5' in page


def test_connection_changes_are_listed_once_newest_first(
    client: httpx.Client, served: Served, redis_server: RedisServer
) -> None:
    publisher: Publisher[CameraChanged] = Publisher(redis_server.client(), CONNECTIONS)
    rows: list[tuple[str, str, int]] = [("plaza", "connecting", 0), ("plaza", "backing_off", 1), ("lobby", "live", 0)]
    for camera, state, failures in rows:
        event = CameraChanged(id=f"{camera}:{state}", camera=camera, ts=HOUR, state=state, failures=failures)  # type: ignore[arg-type]
        publisher.publish(event, camera)
        # As after a lost reply.
        publisher.publish(event, camera)
    redis_server.client().xadd("crowdperf:connections:plaza", {"state": "asleep"})
    changes = client.get("/api/v1/cameras/plaza/connection").json()["changes"]
    assert [(row["state"], row["failures"]) for row in changes] == [("backing_off", 1), ("connecting", 0)]
    assert [row["time"] for row in changes] == [format_rfc3339(HOUR)] * 2
    few = client.get("/api/v1/cameras/plaza/connection", params={"limit": 2}).json()["changes"]
    assert [row["state"] for row in few] == ["backing_off"]
    assert client.get("/api/v1/cameras/plaza/connection", params={"limit": 0}).status_code == 400
    assert client.get("/api/v1/cameras/nowhere/connection").status_code == 404
    bob = browser(served, redis_server, "viewer", ["lobby"])
    assert bob.get("/api/v1/cameras/plaza/connection").status_code == 404
    assert [row["state"] for row in bob.get("/api/v1/cameras/lobby/connection").json()["changes"]] == ["live"]


def test_an_area_is_shown_as_the_worker_last_saw_it(
    client: httpx.Client, served: Served, redis_server: RedisServer
) -> None:
    redis = redis_server.client()
    now = areas.AreaSnapshot(
        area="hall",
        occupancy=61,
        uncertainty=3.5,
        entries=100,
        exits=39,
        since=HOUR,
        next_reset=None,
        at=HOUR + 60,
        limit=50,
        over_limit=True,
    )
    areas.stage_area(redis, now)
    hall, whole = client.get("/api/v1/areas").json()["areas"]
    assert (hall["name"], hall["occupancy"], hall["uncertainty"], hall["over_limit"]) == ("Hall", 61, 3.5, True)
    assert hall["time"] == format_rfc3339(HOUR + 60)
    assert (whole["id"], whole["occupancy"]) == ("site", None), "nothing was heard of it yet"
    with browser(served, redis_server, "viewer", ["plaza"]) as ada:
        assert [row["id"] for row in ada.get("/api/v1/areas").json()["areas"]] == ["hall"]
        assert [row["id"] for row in ada.get("/api/v1/alert-rules").json()["rules"]] == ["crowded"]
        assert ada.get("/api/v1/system").status_code == 200


def test_where_people_stood_is_summed_over_the_hours(client: httpx.Client, redis_server: RedisServer) -> None:
    pipe = redis_server.client().pipeline()
    hour = int(time.time()) // 3600 * 3600
    density.stage(pipe, "plaza", hour - 3600, {0: 5, 33: 7}, 10)
    density.stage(pipe, "plaza", hour - 7200, {33: 1}, 10)
    pipe.execute()
    asked = {"from": format_rfc3339(hour - 7200), "to": format_rfc3339(hour)}
    body = client.get("/api/v1/cameras/plaza/heatmap", params=asked).json()
    assert (body["columns"], body["rows"], body["maximum"]) == (32, 18, 8)
    assert (body["seconds"][0][0], body["seconds"][1][1]) == (5, 8)
    assert len(body["seconds"]) == 18


def test_a_zone_over_a_range(client: httpx.Client, redis_server: RedisServer) -> None:
    pipe = redis_server.client().pipeline()
    minute = ZoneMinute(
        id="m",
        camera="plaza",
        ts=float(HOUR),
        zone="stage",
        occupancy=2,
        maximum=4,
        mean=3.0,
        observed_s=60.0,
        entries=5,
        exits=3,
        dwells="12,40",
    )
    occupancy.stage_zone_minute(pipe, minute)
    pipe.execute()
    asked = {"from": format_rfc3339(HOUR), "to": format_rfc3339(HOUR + 120)}
    body = client.get("/api/v1/cameras/plaza/zones/stage/stats", params=asked).json()
    assert (body["maximum"], body["mean"], body["entries"], body["dwell_max_s"]) == (4, 1.5, 5, 40)
    assert len(body["dwell_histogram"]) == len(body["dwell_bounds_s"]) + 1
    assert client.get("/api/v1/cameras/plaza/zones/nowhere/stats").status_code == 404


def test_the_installation_is_shown_without_a_supervisord(
    client: httpx.Client, served: Served, redis_server: RedisServer
) -> None:
    made = SyntheticSite(served.config, served.paths, redis_server.url)
    made.make_metrics("inference").set_gauge("infer_ms", 20.0)
    made.make_metrics("inference").set_gauge("batch_size", 2.0)
    for camera in ("plaza", "lobby"):
        made.make_metrics("inference").set_gauge("fps_analysed", 10.0, camera)
    made.make_metrics("inference").set_text("model", "crowdperf-person-vehicle-n")
    for stage, seconds, ms in (("infer", 1.5, 7.5), ("publish", 0.5, 2.5)):
        made.make_metrics("inference").count(f"stage_{stage}_s", seconds)
        made.make_metrics("inference").set_gauge(f"stage_{stage}_ms", ms)
    for milliseconds in range(1, 1001):
        made.make_metrics("inference").observe("frame_age_seconds", milliseconds / 1000)
        made.make_metrics("tracking-0").observe("tracking_lag_seconds", 2 * milliseconds / 1000)
    made.publish_metrics()
    # Two seconds of work in the ten of its life.
    inference = made.make_metrics("inference").snapshot("inference", 0.0)
    inference = msgspec.structs.replace(inference, started_at=inference.at - 10)
    redis_server.client().set(metrics_key("inference"), msgspec.json.encode(inference))
    redis = redis_server.client()
    redis.xadd("crowdperf:events", {"type": "x"})
    redis.xgroup_create("crowdperf:events", "recorder", id="0")
    redis.xadd("crowdperf:dead:events:recorder", {"_why": "odd"})
    body = client.get("/api/v1/system").json()
    assert body["supervised"] is False
    assert "inference" in {row["name"] for row in body["processes"]}
    assert body["queues"] == [{"stream": "crowdperf:events", "group": "recorder", "length": 1, "pending": 0, "lag": 1}]
    assert body["dead_letters"] == [{"box": "events:recorder", "letters": 1}]
    assert body["models"]["person"] == "crowdperf-person-vehicle-n"
    assert body["latency"] == [
        {"what": "boxes", "p50_ms": 501, "p95_ms": 951, "p99_ms": 991},
        {"what": "tracks", "p50_ms": 1002, "p95_ms": 1902, "p99_ms": 1982},
        {"what": "crossings", "p50_ms": None, "p95_ms": None, "p99_ms": None},
    ]
    assert body["stages"] == [
        {"stage": "infer", "ms_per_frame": 7.5, "share": 0.15},
        {"stage": "publish", "ms_per_frame": 2.5, "share": 0.05},
    ]
    # Publishing is another thread's; what is left takes 0.15 of the loop's time for two cameras.
    assert (body["capacity"]["busy"], body["capacity"]["cameras_left"]) == (0.15, 9)
    assert body["machine"]["cores"] >= 1
    assert body["versions"]["litestar"].startswith("2.")
    with browser(served, redis_server, "admin") as ada:
        assert ada.post("/api/v1/system/processes/inference/restart").status_code == 503
    made.close()


def test_areas_and_rules_are_changed_like_cameras(
    served: Served, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(BASE))
    monkeypatch.setenv("CROWDPERF_CONFIG", str(file))
    monkeypatch.setenv("CROWDPERF_DATA", str(tmp_path / "var"))
    with browser(served, redis_server, "operator") as ada:
        new = {"id": "yard", "zones": [{"camera": "plaza", "zone": "stage"}]}
        assert ada.post("/api/v1/areas", json=new).status_code == 201
        assert ada.post("/api/v1/areas", json={**new, "id": "z", "zones": []}).status_code == 400
        assert ada.delete("/api/v1/areas/hall").status_code == 200
        rule = {"id": "crowded", "event": "Alert", "severity": "critical"}
        assert ada.put("/api/v1/alert-rules/crowded", json=rule).status_code == 200
    after = json.loads(file.read_text())
    assert [row["id"] for row in after["areas"]] == ["site", "yard"]
    assert after["areas"][1] == new
    assert after["alerts"]["rules"][0] == {"id": "crowded", "event": "Alert", "severity": "critical"}
    with browser(served, redis_server, "operator", ["plaza"]) as ada:
        assert ada.delete("/api/v1/areas/site").status_code == 403
