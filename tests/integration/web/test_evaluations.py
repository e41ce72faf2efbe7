"""What the API says of audits, over real HTTP and a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import msgspec
import pytest

from crowdperf.evaluation.matching import Matching, Passage
from crowdperf.evaluation.score import compute_figures
from crowdperf.settings.base import compute_fingerprint
from crowdperf.settings.camera import Line
from crowdperf.storage.evaluations import LineEvaluation, evaluations_key, stage_evaluations
from tests.conftest import RedisServer
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served

GATE = msgspec.convert(CONFIG["cameras"][0]["lines"][0], Line)


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as made:
        yield made


def audit(line: Line, camera: str = "plaza") -> LineEvaluation:
    into, out = Passage(1.0, line.id, "in"), Passage(2.0, line.id, "out")
    right, wrong = Matching([(into, into)] * 9, [into], []), Matching([], [], [out])
    return LineEvaluation(
        camera=camera,
        line=line.id,
        at=1_777_593_600.0,
        clip="gate.mkv",
        clip_s=600.0,
        model="model (openvino, full)",
        within_s=2.0,
        fingerprint=compute_fingerprint(line),
        total=compute_figures(Matching(right.pairs, right.missed, wrong.surplus)),
        directions={"in": compute_figures(right), "out": compute_figures(wrong)},
    )


def test_counts_carry_the_last_audit_of_their_line(
    client: httpx.Client, site: SyntheticSite, redis_server: RedisServer
) -> None:
    site.publish_crossing("plaza", "gate", "in", ts=time.time())
    site.publish_crossing("lobby", "door", "in", ts=time.time())
    stage_evaluations(redis_server.client(), [audit(GATE)])
    by_direction = {row["line"]: row for row in client.get("/api/v1/counts").json()["counts"]}
    found = by_direction["gate"]["audit"]
    assert (found["time"], found["stale"]) == ("2026-05-01T00:00:00.000Z", False)
    assert (found["figures"]["true"], found["figures"]["matched"]) == (10, 9)
    assert found["figures"]["recall"]["value"] == 0.9
    assert 0.5 < found["figures"]["recall"]["low"] < 0.9 < found["figures"]["recall"]["high"] < 1
    assert "audit" not in by_direction["door"], "it was never audited"
    both = client.get("/api/v1/counts", params={"group": "camera,line"}).json()["counts"]
    assert next(row for row in both if row["line"] == "gate")["audit"]["figures"]["counted"] == 10
    by_camera = client.get("/api/v1/counts", params={"group": "camera"}).json()["counts"]
    assert all("audit" not in row for row in by_camera), "a camera is no line"


def test_a_changed_line_says_that_its_audit_is_stale(client: httpx.Client, redis_server: RedisServer) -> None:
    moved = msgspec.structs.replace(GATE, p2=[0.5, 0.4])
    gone = msgspec.structs.replace(GATE, id="gone")
    stage_evaluations(redis_server.client(), [audit(moved), audit(gone)])
    found = client.get("/api/v1/audits").json()["audits"]
    assert [(row["line"], row["stale"]) for row in found] == [("gate", True), ("gone", True)]
    stage_evaluations(redis_server.client(), [audit(GATE)])
    assert client.get("/api/v1/audits").json()["audits"][0]["stale"] is False


def test_audits_of_one_camera_with_all_their_figures(client: httpx.Client, redis_server: RedisServer) -> None:
    stage_evaluations(redis_server.client(), [audit(GATE)])
    assert client.get("/api/v1/audits", params={"camera": "lobby"}).json() == {"audits": []}
    (row,) = client.get("/api/v1/audits", params={"camera": "plaza"}).json()["audits"]
    assert (row["clip"], row["clip_s"], row["model"], row["within_s"]) == ("gate.mkv", 600, "model (openvino, full)", 2)
    assert row["directions"]["out"]["recall"] is None, "nobody went out"
    assert row["directions"]["out"]["precision"]["value"] == 0
    assert client.get("/api/v1/audits", params={"camera": "nowhere"}).status_code == 404


def test_a_damaged_audit_spoils_nothing(client: httpx.Client, redis_server: RedisServer) -> None:
    stage_evaluations(redis_server.client(), [audit(GATE)])
    redis_server.client().hset(evaluations_key("plaza"), "other", b"{")
    assert [row["line"] for row in client.get("/api/v1/audits").json()["audits"]] == ["gate"]
    assert client.get("/api/v1/counts").status_code == 200
