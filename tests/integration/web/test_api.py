"""The REST interface over real HTTP, against a real Redis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import httpx
import pytest

from crowdperf.messaging.schema import CameraGap, LineCrossed
from crowdperf.web.parameters import format_rfc3339
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import TIMEOUT_S, Served

PROBLEM = "application/problem+json"
DAY = 1_777_593_600.0
"""2026-05-01T00:00:00Z."""


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as made:
        yield made


def soon_after_a_frame(
    client: httpx.Client, site: SyntheticSite, path: str, good: Callable[[httpx.Response], bool], moment: float = 0.0
) -> httpx.Response:
    """Write frames of the plaza until `path` answers well: on a busy machine one frame may be too old."""
    replies: list[httpx.Response] = []

    def answered() -> bool:
        site.write_frame("plaza", moment)
        replies.append(client.get(path))
        return good(replies[-1])

    wait_until(answered, what=f"{path} to show the frame")
    return replies[-1]


def counts(client: httpx.Client, **parameters: str) -> dict:
    reply = client.get("/api/v1/counts", params={key.rstrip("_"): value for key, value in parameters.items()})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_counts_are_grouped_filtered_and_half_open(client: httpx.Client, site: SyntheticSite) -> None:
    start, end = format_rfc3339(DAY), format_rfc3339(DAY + 3600)
    site.publish_crossing("plaza", "gate", "in", ts=DAY)
    site.publish_crossing("plaza", "gate", "in", ts=DAY + 10)
    site.publish_crossing("plaza", "gate", "out", ts=DAY + 20)
    site.publish_crossing("lobby", "door", "in", "car", ts=DAY + 30)
    site.publish_crossing("plaza", "gate", "in", ts=DAY + 3600)
    site.publish_crossing("plaza", "gate", "in", ts=DAY - 0.001)
    everything = counts(client, from_=start, to=end)
    assert everything["total"] == 4
    assert {"camera": "plaza", "line": "gate", "class": "person", "direction": "in", "count": 2} in everything["counts"]
    assert {"camera": "lobby", "line": "door", "class": "car", "direction": "in", "count": 1} in everything["counts"]
    assert counts(client, from_=start, to=end, camera="plaza")["total"] == 3
    assert counts(client, from_=start, to=end, direction="out")["total"] == 1
    assert counts(client, from_=start, to=end, class_="car")["total"] == 1
    assert counts(client, from_=start, to=end, line="door")["total"] == 1
    by_camera = counts(client, from_=start, to=end, group="camera")["counts"]
    assert by_camera == [{"camera": "lobby", "count": 1}, {"camera": "plaza", "count": 3}]
    assert counts(client, from_=start, to=end, group="")["counts"] == []
    two_hours = counts(client, from_=start, to=format_rfc3339(DAY + 7200), class_="person", group="hour")["counts"]
    assert two_hours == [{"hour": format_rfc3339(DAY), "count": 3}, {"hour": format_rfc3339(DAY + 3600), "count": 1}]


def test_today_is_the_day_of_the_sites_zone(client: httpx.Client, site: SyntheticSite) -> None:
    zone = ZoneInfo(site.config.site.timezone)
    midnight = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    assert midnight.utcoffset(), "midnight is another one in UTC"
    reply = counts(client)
    assert reply["from"] == format_rfc3339(midnight.timestamp())
    site.publish_crossing("plaza", "gate", "in")
    assert counts(client)["total"] == 1


def test_an_offset_whose_plus_was_not_escaped_is_understood(client: httpx.Client, site: SyntheticSite) -> None:
    site.publish_crossing("plaza", "gate", "in", ts=DAY)
    url = "/api/v1/counts?from=2026-05-01T02:00:00+02:00&to=2026-05-01T03:00:00+02:00"
    assert client.get(url).json()["total"] == 1


def test_more_crossings_than_a_page_are_all_counted(client: httpx.Client, site: SyntheticSite) -> None:
    for number in range(1300):
        # Many share one instant, so that a page ends inside a score.
        site.publish_crossing("plaza", "gate", "in", ts=DAY + number // 400)
    assert counts(client, from_=format_rfc3339(DAY), to=format_rfc3339(DAY + 60))["total"] == 1300


@pytest.mark.parametrize("kind", ["", "LineCrossed"])
def test_pages_of_events_hold_every_event_once_newest_first(
    client: httpx.Client, site: SyntheticSite, kind: str
) -> None:
    now = time.time()
    ids = [
        site.publish_crossing(
            "plaza" if n % 2 else "lobby", "gate", "in", "person" if n % 3 else "car", ts=now - 500 + n // 4
        )
        for n in range(120)
    ]
    found: list[dict] = []
    cursor = None
    while True:
        parameters = {"from": format_rfc3339(now - 1000), "to": format_rfc3339(now + 1), "limit": "7", "type": kind}
        reply = client.get("/api/v1/events", params=parameters | ({"cursor": cursor} if cursor else {}))
        assert reply.status_code == 200, reply.text
        page = reply.json()
        assert len(page["events"]) <= 7
        found += page["events"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(row["id"] for row in found) == sorted(ids)
    assert [row["ts"] for row in found] == sorted((row["ts"] for row in found), reverse=True)


def test_events_are_filtered_by_type_camera_and_time(client: httpx.Client, site: SyntheticSite) -> None:
    now = time.time()
    site.publish_crossing("plaza", "gate", "in", ts=now - 10)
    site.publish_crossing("lobby", "door", "in", ts=now - 9)
    site.publish(CameraGap(id="gap", camera="lobby", ts=now - 5, start=now - 8, end=now - 5, cause="restart"))
    span = {"from": format_rfc3339(now - 60), "to": format_rfc3339(now + 60)}

    def ids(**more: str) -> list[str]:
        return [row["type"] for row in client.get("/api/v1/events", params=span | more).json()["events"]]

    assert ids() == ["CameraGap", "LineCrossed", "LineCrossed"]
    assert ids(type="CameraGap") == ["CameraGap"]
    assert ids(camera="lobby") == ["CameraGap", "LineCrossed"]
    assert ids(camera="lobby", type="LineCrossed") == ["LineCrossed"]
    assert ids(to=format_rfc3339(now - 9)) == ["LineCrossed"]


def test_crossings_older_than_the_stream_are_still_found(
    client: httpx.Client, site: SyntheticSite, redis_server: RedisServer
) -> None:
    site.publish_crossing("plaza", "gate", "in", ts=DAY + 5)
    redis_server.client().delete("crowdperf:events")
    parameters = {"from": format_rfc3339(DAY), "to": format_rfc3339(DAY + 60), "type": "LineCrossed"}
    assert len(client.get("/api/v1/events", params=parameters).json()["events"]) == 1


BAD = [
    "/api/v1/counts?from=yesterday",
    "/api/v1/counts?from=2026-05-01T00:00:00",
    "/api/v1/counts?from=1777593600",
    "/api/v1/counts?from=NaN&to=inf",
    "/api/v1/counts?from=0001-01-01T00:00:00Z&to=0002-01-01T00:00:00Z",
    "/api/v1/counts?from=1970-01-01T00:00:00Z&to=9999-12-31T00:00:00Z",
    "/api/v1/counts?from=2026-05-02T00:00:00Z&to=2026-05-01T00:00:00Z",
    *(
        f"/api/v1/{path}{'&' if '?' in path else '?'}{span}"
        for path in ("counts", "events", "series?bucket=day", "exports/crossings.csv", "exports/crossings.parquet")
        for span in (
            "to=9999-12-31T23:59:59Z",
            "from=9999-12-31T00:00:00Z&to=9999-12-31T23:59:59Z",
            "from=9000-01-01T00:00:00Z&to=9000-01-01T12:00:00Z",
            "to=1970-01-01T00:00:00Z",
            "to=1969-12-31T23:59:59Z",
        )
    ),
    "/api/v1/counts?from=2026-05-01T00:00:00Z&to=2026-05-01T00:00:00Z",
    "/api/v1/counts?class=dragon",
    "/api/v1/counts?direction=up",
    "/api/v1/counts?group=camera,camera",
    "/api/v1/counts?group=moon",
    "/api/v1/events?limit=0",
    "/api/v1/events?limit=1001",
    "/api/v1/events?limit=NaN",
    "/api/v1/events?type=Nothing",
    "/api/v1/events?cursor=!!!",
    "/api/v1/events?cursor=e30",
    "/api/v1/events?type=LineCrossed&cursor=WyJzdHJlYW0iLDEuMCwiMS0xIl0",
    "/api/v1/events?cursor=WyJzdHJlYW0iLDEuMCwiKyJd",
    "/api/v1/stream?last_id=oldest",
    "/api/v1/events?camera=" + "x" * 65,
]


@pytest.mark.parametrize("address", BAD)
def test_a_bad_parameter_is_a_problem_that_names_it(client: httpx.Client, address: str) -> None:
    reply = client.get(address)
    assert reply.status_code == 400, reply.text
    assert reply.headers["content-type"] == PROBLEM
    body = reply.json()
    assert body["status"] == 400
    assert body["title"] == "Bad Request"
    name = address.partition("?")[2].rpartition("&")[2].partition("=")[0]
    assert any(word in json.dumps(body) for word in (name, "from", "to", "Last-Event-ID"))


@pytest.mark.parametrize(
    "address",
    [
        "/api/v1/cameras/nobody",
        "/api/v1/cameras/nobody/snapshot.jpg",
        "/api/v1/counts?camera=nobody",
        "/api/v1/events?camera=nobody",
        "/api/v1/nothing",
        "/nothing.html",
        "/..%2f..%2fconfig.json",
    ],
)
def test_what_is_not_there_is_a_404_problem(client: httpx.Client, address: str) -> None:
    reply = client.get(address)
    assert reply.status_code == 404
    assert reply.headers["content-type"] == PROBLEM


def test_a_wrong_method_is_a_problem_too(client: httpx.Client) -> None:
    reply = client.post("/api/v1/counts")
    assert (reply.status_code, reply.headers["content-type"]) == (405, PROBLEM)


def test_no_answer_holds_a_secret(client: httpx.Client, site: SyntheticSite) -> None:
    site.make_metrics("capture-plaza").set_text(
        "last_error", "rtsp://viewer:s3cret-pass@192.0.2.7/stream failed", "plaza"
    )
    site.publish_metrics()
    for address in ("/api/v1/cameras", "/api/v1/cameras/plaza", "/debug", "/metrics", "/schema/openapi.json"):
        text = client.get(address).text
        assert "s3cret" not in text, address
        assert "t0ken" not in text, address
    assert "***@192.0.2.7" in client.get("/api/v1/cameras").text


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    for address in ("/", "/js/main.js", "/api/v1/cameras", "/api/v1/cameras/nobody", "/metrics"):
        headers = client.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; script-src 'self'"), address
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get("/api/v1/cameras").headers["cache-control"] == "no-store"


def test_occupancy_is_of_now_or_null(client: httpx.Client, site: SyntheticSite) -> None:
    before = client.get("/api/v1/occupancy").json()["zones"]
    assert [(row["zone"], row["occupancy"]) for row in before] == [("stage", None), ("desk", None)]

    def known(reply: httpx.Response) -> bool:
        return reply.json()["zones"][0]["occupancy"] is not None

    stage = soon_after_a_frame(client, site, "/api/v1/occupancy", known).json()["zones"][0]
    assert (stage["occupancy"], stage["limit"], stage["over_limit"]) == (3, 4, False)


def test_a_snapshot_is_the_sources_picture_and_never_an_old_one(client: httpx.Client, site: SyntheticSite) -> None:
    import cv2
    import numpy as np

    down = client.get("/api/v1/cameras/plaza/snapshot.jpg")
    assert (down.status_code, down.headers["content-type"]) == (503, PROBLEM)
    reply = soon_after_a_frame(
        client, site, "/api/v1/cameras/plaza/snapshot.jpg", lambda reply: reply.status_code == 200, 3.0
    )
    assert reply.headers["content-type"] == "image/jpeg"
    assert reply.headers["cache-control"] == "no-store"
    picture = cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (360, 640, 3), "without the ring's padding"
    assert np.abs(picture[20, 300].astype(int) - (150, 138, 126)).max() < 12, "with the source's colours"
    wait_until(
        lambda: client.get("/api/v1/cameras/plaza/snapshot.jpg").status_code == 503, what="the frozen camera as down"
    )
    assert client.get("/api/v1/cameras/dock/snapshot.jpg").status_code == 503, "a disabled camera"


def test_probes_say_what_is_missing(client: httpx.Client, site: SyntheticSite) -> None:
    assert client.get("/healthz").status_code == 200
    reply = client.get("/readyz")
    assert (reply.status_code, reply.headers["content-type"]) == (503, PROBLEM)
    assert reply.json()["reasons"] == ["inference does not run", "tracking does not run"]
    site.make_metrics("inference").set_text("model", "")
    site.make_metrics("inference").set_text("last_error", "the model 'x' is not there. Remedy: put it there.")
    site.publish_metrics()
    assert client.get("/readyz").json()["reasons"] == ["the model 'x' is not there. Remedy: put it there."]
    site.make_metrics("inference").set_text("model", "x")
    site.publish_metrics()
    assert client.get("/readyz").status_code == 200


def test_an_outage_of_redis_is_a_503_and_ends_by_itself(
    client: httpx.Client, site: SyntheticSite, redis_server: RedisServer
) -> None:
    redis_server.kill()
    for address in ("/api/v1/counts", "/api/v1/events", "/api/v1/occupancy", "/debug", "/metrics", "/readyz"):
        reply = client.get(address)
        assert (reply.status_code, reply.headers["content-type"]) == (503, PROBLEM), address
    assert client.get("/healthz").status_code == 200
    assert client.get("/api/v1/cameras").status_code == 200
    redis_server.start()
    wait_until(lambda: client.get("/api/v1/counts").status_code == 200, what="counts after the outage")


SAMPLE = re.compile(r'^[a-zA-Z_][a-zA-Z0-9_]*(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? [^ ]+$')


def test_metrics_are_in_prometheus_form(client: httpx.Client, site: SyntheticSite) -> None:
    site.make_metrics("inference").count("frames_analysed", 12, "plaza")
    site.make_metrics("capture-plaza").set_text("state", 'odd "state" \\ of\ntwo lines', "plaza")
    site.make_metrics("tracking-0").set_gauge("zone_occupancy", 3, "plaza", "stage")
    site.publish_metrics()
    live = 'crowdperf_camera_live{camera="plaza"} 1'
    reply = soon_after_a_frame(client, site, "/metrics", lambda reply: live in reply.text)
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = [line.split()[2] for line in reply.text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families)), "a family appears once"
    for line in reply.text.splitlines():
        if not line.startswith("#"):
            assert SAMPLE.match(line) or "odd" in line, line
            float(line.rpartition(" ")[2])
    assert 'crowdperf_frames_analysed_total{process="inference",camera="plaza"} 12' in reply.text
    assert 'crowdperf_zone_occupancy{process="tracking-0",camera="plaza",part="stage"} 3' in reply.text
    assert 'crowdperf_camera_live{camera="lobby"} 0' in reply.text


def test_debug_shows_cameras_and_processes(client: httpx.Client, site: SyntheticSite) -> None:
    site.make_metrics("capture-plaza").count("ffmpeg_restarts_total", 2, "plaza")
    site.make_metrics("inference").count("drops_stale", 4, "plaza")
    site.make_metrics("tracking-0").set_gauge("tracking_lag_s", 0.1234, "plaza")
    site.make_metrics("capture-plaza").set_text("last_error", "the camera closed the connection", "plaza")
    site.make_metrics("capture-plaza").count("ffmpeg_restarts_stall", 2, "plaza")
    site.make_metrics("capture-plaza").set_gauge("backoff_s", 3.456, "plaza")
    site.make_metrics("capture-plaza").count("short_reads_total", 4, "plaza")
    site.make_metrics("capture-plaza").set_gauge("glass_to_capture_ms", 181.0, "plaza")
    site.make_metrics("capture-plaza").set_text("quality", "fair", "plaza")
    site.make_metrics("capture-plaza").set_text("ffmpeg_stderr", "one line\nrtsp://a:s3cret@h/x failed", "plaza")
    site.publish_metrics()
    body = soon_after_a_frame(client, site, "/debug", lambda reply: reply.json()["cameras"]["plaza"]["live"]).json()
    plaza = body["cameras"]["plaza"]
    assert plaza["ffmpeg_restarts_total"] == 2
    assert (plaza["short_reads_total"], plaza["capture_crashes_total"]) == (4, 0)
    assert plaza["glass_to_capture_ms"] == 181.0
    assert plaza["latency_ms"] == 123.4
    assert plaza["drops"] == {"stale": 4}
    assert (plaza["quality"], plaza["backoff_s"], plaza["ffmpeg_restarts"]) == ("fair", 3.46, {"stall": 2})
    assert plaza["ffmpeg_stderr"] == ["one line", "rtsp://***@h/x failed"]
    assert plaza["last_error"] == "the camera closed the connection"
    assert (plaza["ring"]["head"] >= 1, plaza["ring"]["slots"], plaza["live"]) == (True, 4, True)
    assert set(body["processes"]["inference"]) >= {"pid", "uptime_s", "rss_bytes", "cpu_percent"}
    assert body["cameras"]["dock"]["state"] == "disabled"


OPEN = ("/healthz", "/readyz", "/api/v1/session")


def test_the_description_is_openapi_3_1_and_covers_every_route(client: httpx.Client) -> None:
    schema = client.get("/schema/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == [PROBLEM], (path, status)
            if operation.get("parameters") or operation.get("requestBody"):
                assert "400" in operation["responses"] or path in OPEN, path
            assert {"401", "403"} <= operation["responses"].keys() or path in OPEN, path
    assert {"/api/v1/counts", "/api/v1/events", "/api/v1/stream", "/debug", "/metrics"} <= schema["paths"].keys()


def test_a_foreign_member_of_the_history_spoils_nothing(
    client: httpx.Client, site: SyntheticSite, redis_server: RedisServer
) -> None:
    redis_server.client().zadd("person_logs", {b"by hand": DAY + 1})
    redis_server.client().xadd("crowdperf:events", {"type": "Unheard"})
    site.publish_crossing("plaza", "gate", "in", ts=DAY + 2)
    assert counts(client, from_=format_rfc3339(DAY), to=format_rfc3339(DAY + 60))["total"] == 1
    assert client.get("/api/v1/events").status_code == 200


def test_the_feed_survives_an_unreadable_entry(client: httpx.Client, redis_server: RedisServer) -> None:
    redis_server.client().xadd("crowdperf:events", {"type": LineCrossed.__name__, "ts": "no number"})
    assert client.get("/healthz").status_code == 200


def test_the_log_keeps_its_redacting_handler() -> None:
    code = (
        "import logging\n"
        "from crowdperf.settings.environment import Paths\n"
        "from crowdperf.settings.config import Deployment, parse\n"
        "from crowdperf.runtime.process_runtime import log_to_stderr\n"
        "from crowdperf.settings.process_config import build_web_config\n"
        "from crowdperf.web.app import create_app\n"
        "from pathlib import Path\n"
        "log_to_stderr('web')\n"
        "create_app(build_web_config(Deployment(parse(b'{}'), Paths(Path('var')))))\n"
        "logging.getLogger('uvicorn.error').error('rtsp://admin:topsecret@camera/1')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ERROR web rtsp://***@camera/1" in done.stderr
    assert "topsecret" not in done.stderr
