"""Changing the configuration over HTTP: what is refused, what is kept, and who never learns a password."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import msgspec
import numpy as np
import pytest

from crowdperf.accounts import credentials
from crowdperf.accounts.account_store import ACCOUNTS_KEY
from crowdperf.accounts.principal import Account
from crowdperf.cli import probe_source
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.settings.config import parse
from crowdperf.supervision.config_patch import ProbeRequest
from crowdperf.web import config_client
from tests.conftest import RedisServer, wait_until
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

PASSWORD = "correct horse battery"
HASH = credentials.hash_password(PASSWORD)
SECRETS = ("s3cret-pass", "t0ken")
GATE = {"id": "north", "p1": [0.3, 0.2], "p2": [0.3, 0.9]}


@pytest.fixture(scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


@pytest.fixture(scope="module")
def served(_redis_session: RedisServer, _folder: Path) -> Iterator[Served]:
    with serving(_redis_session.url, _folder, CONFIG) as served:
        yield served


@pytest.fixture
def config(served: Served, _folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a configuration file of the test's own, for the commands of the served site."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**CONFIG, "media_roots": [str(tmp_path)]}, indent=2))
    file.chmod(0o600)
    monkeypatch.setenv("CROWDPERF_CONFIG", str(file))
    monkeypatch.setenv("CROWDPERF_DATA", str(tmp_path / "var"))
    return file


def browser(server: Served, redis_server: RedisServer, name: str, role: str, cameras: list[str] | None) -> httpx.Client:
    row = Account(name=name, role=role, password=HASH, created_at=time.time(), cameras=cameras)
    redis_server.client().hset(ACCOUNTS_KEY, name, msgspec.json.encode(row))
    reply = httpx.post(f"{server.url}/api/v1/session", json={"name": name, "password": PASSWORD}, timeout=TIMEOUT_S)
    headers = {"X-CSRF-Token": reply.json()["csrf"]}
    return httpx.Client(base_url=server.url, cookies=reply.cookies, headers=headers, timeout=TIMEOUT_S)


@pytest.fixture
def ada(served: Served, redis_server: RedisServer, config: Path) -> Iterator[httpx.Client]:
    """Sign in an administrator."""
    with browser(served, redis_server, "ada", "admin", None) as made:
        yield made


def cameras(config: Path) -> dict[str, Any]:
    return {row["id"]: row for row in json.loads(config.read_text())["cameras"]}


def test_adding_changing_and_removing_a_camera_make_versions(ada: httpx.Client, config: Path) -> None:
    before = config.read_text()
    new = {"id": "yard", "url": "rtsp://yard:pass-word@192.0.2.20/1", "lines": [GATE]}
    made = ada.post("/api/v1/cameras", json=new)
    assert made.status_code == 201, made.text
    assert made.json()["url"] == "rtsp://***@192.0.2.20/1"
    assert made.json()["running"] is False, "no supervisord here"
    assert "capture-yard" in made.json()["restarts"]
    assert not {"capture-plaza", "web"} & set(made.json()["restarts"])
    assert cameras(config)["yard"] == new, "as it was sent, nothing added"
    assert config.stat().st_mode & 0o777 == 0o600
    assert ada.post("/api/v1/cameras", json=new).status_code == 409
    assert ada.patch("/api/v1/cameras/plaza", json={"enabled": False}).json()["state"] == "disabled"
    assert ada.delete("/api/v1/cameras/lobby").status_code == 200
    assert set(cameras(config)) == {"plaza", "dock", "yard"}
    versions = ada.get("/api/v1/config/versions").json()["versions"]
    assert [(row["number"], row["who"], row["comment"]) for row in versions] == [
        (4, "ada", "camera.remove lobby"),
        (3, "ada", "camera.change plaza"),
        (2, "ada", "camera.create yard"),
        (1, "", "the file as it was found"),
    ]
    diff = ada.get("/api/v1/config/versions/2/diff", params={"to": 3}).json()["text"]
    assert '+      "enabled": false' in diff
    whole = ada.get("/api/v1/config/versions/1").json()["text"] + ada.get("/api/v1/config/versions/1/diff").text + diff
    assert not any(secret in whole for secret in (*SECRETS, "pass-word"))
    back = ada.post("/api/v1/config/versions/1/rollback")
    assert (back.status_code, back.json()["version"]) == (200, 5)
    assert config.read_text() == before, "to the letter"
    assert ada.post("/api/v1/config/versions/77/rollback").status_code == 404
    entries = ada.get("/api/v1/audit").json()["entries"]
    assert [row["action"] for row in entries[:8]] == [
        "config.rollback.refuse",
        "config.rollback.intent",
        "config.rollback",
        "config.rollback.intent",
        "camera.remove",
        "camera.remove.intent",
        "camera.change",
        "camera.change.intent",
    ]
    assert entries[0]["detail"] == "status 404"
    assert entries[6]["detail"] == "version 3; enabled"
    assert not any(secret in json.dumps(entries) for secret in (*SECRETS, "pass-word"))


def test_a_refusal_without_audit_log_tells_what_happened(
    ada: httpx.Client, config: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, ask = redis_server.client(), config_client.ConfigClient.request

    def refuse_writes(refused: bool) -> None:
        client.config_set("maxmemory", "1" if refused else "0")

    async def change_and_fill(this: config_client.ConfigClient, request: Any) -> Any:
        outcome = await ask(this, request)
        refuse_writes(True)
        return outcome

    try:
        refuse_writes(True)
        before = config.read_text()
        for method, address, body in (
            ("PATCH", "cameras/plaza", {"enabled": False}),
            ("DELETE", "cameras/lobby", None),
            ("POST", "config/versions/1/rollback", None),
        ):
            refused = ada.request(method, f"/api/v1/{address}", json=body)
            assert (refused.status_code, "so nothing was changed" in refused.text) == (503, True), refused.text
        assert config.read_text() == before
        refuse_writes(False)
        monkeypatch.setattr(config_client.ConfigClient, "request", change_and_fill)
        made = ada.patch("/api/v1/cameras/plaza", json={"enabled": False})
        assert (made.status_code, "but the change was made" in made.text) == (503, True), made.text
        assert cameras(config)["plaza"]["enabled"] is False
    finally:
        refuse_writes(False)
    (entry, *_) = ada.get("/api/v1/audit").json()["entries"]
    assert (entry["action"], entry["target"], entry["who"]) == ("camera.change.intent", "plaza", "ada")


def test_a_password_stays_while_the_redacted_url_comes_back(ada: httpx.Client, config: Path) -> None:
    shown = ada.get("/api/v1/cameras/plaza/config")
    assert not any(secret in shown.text for secret in SECRETS)
    body = shown.json()
    assert body["url"] == "rtsp://***@192.0.2.7/stream?***"
    saved = ada.put("/api/v1/cameras/plaza", json={**body, "name": "Plaza south"})
    assert saved.status_code == 200, saved.text
    assert cameras(config)["plaza"]["url"] == CONFIG["cameras"][0]["url"]
    assert cameras(config)["plaza"]["name"] == "Plaza south"
    elsewhere = ada.patch("/api/v1/cameras/plaza", json={"url": "rtsp://***@198.51.100.1/stream?***"})
    assert elsewhere.status_code == 400, "or the password would be sent to whoever listens there"


def test_two_editors_of_one_camera_do_not_overwrite_each_other(ada: httpx.Client, config: Path) -> None:
    etag = ada.get("/api/v1/cameras/plaza").headers["etag"]
    mine = ada.post("/api/v1/cameras/plaza/lines", json=GATE, headers={"If-Match": etag})
    assert mine.status_code == 201, mine.text
    assert mine.headers["etag"] != etag
    theirs = ada.delete("/api/v1/cameras/plaza/lines/gate", headers={"If-Match": etag})
    assert theirs.status_code == 412
    assert "Remedy" in theirs.json()["detail"]
    assert [row["id"] for row in cameras(config)["plaza"]["lines"]] == ["gate", "north"]
    again = ada.delete("/api/v1/cameras/plaza/lines/gate", headers={"If-Match": mine.headers["etag"]})
    assert [row["id"] for row in again.json()["lines"]] == ["north"]


def test_changes_at_the_same_time_are_all_kept(ada: httpx.Client, config: Path) -> None:
    def add(number: int) -> None:
        replies.append(ada.post("/api/v1/cameras/plaza/lines", json={**GATE, "id": f"l{number}"}).status_code)

    replies: list[int] = []
    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [201] * 4
    assert {row["id"] for row in cameras(config)["plaza"]["lines"]} == {"gate", "l0", "l1", "l2", "l3"}


def test_a_change_that_takes_long_is_answered_and_goes_on(
    ada: httpx.Client, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_client, "CHANGE_TIMEOUT_S", 0.01)
    reply = ada.post("/api/v1/cameras/plaza/lines", json=GATE)
    assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
    assert "continues in the background" in reply.json()["detail"]
    wait_until(lambda: [row["id"] for row in cameras(config)["plaza"]["lines"]] == ["gate", "north"], what="the line")


@pytest.mark.parametrize(
    ("method", "address", "body", "status", "message"),
    [
        ("POST", "cameras", {"id": "../x", "url": "rtsp://192.0.2.1/"}, 400, ""),
        ("POST", "cameras", {"id": "x", "url": "rtsp://192.0.2.1/", "target_fps": "NaN"}, 400, "target_fps"),
        ("POST", "cameras", {"id": "x", "url": "http://169.254.169.254/latest"}, 400, "metadata"),
        ("PATCH", "cameras/plaza", {"colour": "red"}, 400, "colour"),
        ("PATCH", "cameras/nobody", {"enabled": True}, 404, "nobody"),
        ("POST", "cameras/plaza/lines", {"id": "n", "p1": [0.3, 2], "p2": [0.3, 0.9]}, 400, "p1"),
    ],
)
def test_what_is_not_valid_changes_nothing(
    ada: httpx.Client, config: Path, method: str, address: str, body: dict[str, Any], status: int, message: str
) -> None:
    before = config.read_bytes()
    reply = ada.request(method, f"/api/v1/{address}", json=body)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert message in reply.text
    assert config.read_bytes() == before


def test_whoever_draws_is_told_whether_it_can_count(ada: httpx.Client) -> None:
    assert ada.post("/api/v1/cameras/plaza/lines/check", json=GATE).json() == {"problem": ""}
    edge = ada.post("/api/v1/cameras/plaza/lines/check", json={"id": "e", "p1": [0, 0], "p2": [0, 1]})
    assert "never count" in edge.json()["problem"]
    zone = {"id": "z", "polygon": [[0.2, 0.2], [0.8, 0.8], [0.8, 0.2], [0.2, 0.8]]}
    assert "crosses itself" in ada.post("/api/v1/cameras/plaza/zones/check", json=zone).json()["problem"]


def test_who_sees_one_camera_changes_one_camera(served: Served, redis_server: RedisServer, config: Path) -> None:
    before = config.read_bytes()
    with browser(served, redis_server, "bob", "operator", ["lobby"]) as bob:
        assert bob.patch("/api/v1/cameras/plaza", json={"enabled": False}).status_code == 404
        assert bob.post("/api/v1/cameras", json={"id": "n", "url": "rtsp://192.0.2.1/"}).status_code == 403
        assert bob.post("/api/v1/camera-test", json={"url": "rtsp://192.0.2.1/"}).status_code == 404
        assert bob.get("/api/v1/config/versions").status_code == 403
        assert config.read_bytes() == before
        assert bob.patch("/api/v1/cameras/lobby", json={"enabled": False}).status_code == 200


def test_a_source_is_tried_before_it_is_saved(
    ada: httpx.Client, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take longer to start Python than an operator is to wait.
    monkeypatch.setattr(config_client, "PROBE_TIMEOUT_S", TIMEOUT_S)
    clip = tmp_path / "clip.mp4"
    source = ("-f", "lavfi", "-i", "testsrc=size=320x180:rate=10:duration=1")
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *source, str(clip)], check=True)
    reply = ada.post("/api/v1/camera-test", json={"url": "clip.mp4"})
    assert reply.status_code == 200, reply.text
    assert cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_COLOR).shape == (180, 320, 3)
    assert (reply.headers["x-source-width"], reply.headers["x-source-fps"]) == ("320", "10")
    for url, message in (
        ("/etc/passwd", "media_roots"),
        ("http://169.254.169.254/", "metadata"),
        ("rtsp://127.0.0.1:1/x", "refused"),
        ("missing.mp4", "does not exist"),
    ):
        refused = ada.post("/api/v1/camera-test", json={"url": url})
        assert refused.status_code == 422, refused.text
        assert message in refused.json()["detail"]


def test_hanging_camera_is_answered_without_its_password(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_source, "MAX_PROBE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/x"
        camera = {"id": "plaza", "url": f"rtsp://viewer:s3cret-pass@{address}"}
        site = parse(msgspec.json.encode({"cameras": [camera]}))
        seen = probe_source.probe_source(ProbeRequest(url=f"rtsp://***@{address}", camera="plaza"), site, ())
    assert not seen.ok
    assert seen.detail == "the source did not answer within 1 s. Remedy: check address, network and camera."
