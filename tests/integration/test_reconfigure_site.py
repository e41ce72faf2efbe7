"""A change through the interface of a running site: who restarts, who does not, and what a browser notices."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import httpx

from crowdperf.accounts.setup import SetupSecret
from crowdperf.events.schema import CameraGap
from crowdperf.events.streams import EVENTS
from crowdperf.events.wire import encode
from tests.conftest import wait_until
from tests.integration.test_supervision import camera, clip
from tests.support.site import Site

PASSWORD = "correct horse battery"


def messages(site: Site, last_id: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.request("GET", "/api/v1/stream", headers={"Last-Event-ID": last_id})
    return connection, connection.getresponse()


def test_a_change_restarts_what_it_concerns_and_no_event_is_missed(tmp_path: Path) -> None:
    file = clip(tmp_path)
    cameras = [camera("lobby", file), camera("door", file)]
    with Site(tmp_path / "site", {"media_roots": [str(tmp_path)], "cameras": cameras}) as site:
        site.wait_for_web()
        secret = SetupSecret(site.paths.sockets)
        wait_until(lambda: secret.read() is not None, what="the setup link")
        wait_until(lambda: "/setup/#" in (site.folder / "run.out").read_text(), what="the link in the output of run")
        with httpx.Client(base_url=site.url, timeout=30) as ada:
            first = {"name": "ada", "password": PASSWORD, "secret": secret.read()}
            ada.headers["X-CSRF-Token"] = ada.post("/api/v1/setup", json=first).json()["csrf"]
            wait_until(lambda: all(site.pids().values()), what="every program")
            before = site.pids()
            seen = site.redis().xadd("crowdperf:events", encode(EVENTS, gap("before"))).decode()
            connection, stream = messages(site, "0-1")
            assert stream.readline() == b"retry: 2000\n"

            line = {"id": "way", "p1": [0.5, 0.2], "p2": [0.5, 0.9]}
            saved = ada.post("/api/v1/cameras/door/lines", json=line)
            assert saved.status_code == 201, saved.text
            assert saved.json()["running"] is True
            restarts = set(saved.json()["restarts"])
            assert {"tracking-0", "web"} <= restarts
            assert not restarts & {"inference", "capture-lobby", "capture-door", "worker-recorder-0", "redis"}

            assert b"gap:before" in stream.read(), "the old process ends its streams in order"
            connection.close()
            site.redis().xadd("crowdperf:events", encode(EVENTS, gap("while away")))

            def changed() -> set[str]:
                now = site.pids()
                return {name for name in now if now[name] != before[name]}

            wait_until(lambda: changed() == restarts and all(site.pids().values()), what="the restart")
            site.wait_for_web()
            connection, stream = messages(site, seen)
            text = b""
            while b"gap:while away" not in text:
                text += stream.readline()
            assert b"gap:before" not in text
            connection.close()
            assert ada.get("/api/v1/session").json()["name"] == "ada", "sessions outlive the process"
            lines = ada.get("/api/v1/cameras/door").json()["lines"]
            assert [row["id"] for row in lines] == ["way"]
            system = ada.get("/api/v1/system").json()
            assert system["supervised"] is True
            assert {row["name"]: row["pid"] for row in system["processes"]} == site.pids()
            recorder = site.pids()["worker-recorder-0"]
            assert ada.post("/api/v1/system/processes/worker-recorder-0/restart").status_code == 202
            wait_until(lambda: site.pids()["worker-recorder-0"] not in (0, recorder), what="the recorder's restart")
            assert ada.post("/api/v1/system/processes/nothing/restart").status_code == 404
            assert json.loads((site.folder / "config.json").read_text())["cameras"][1]["lines"] == [line]


def gap(name: str) -> CameraGap:
    return CameraGap(id=f"gap:{name}", camera="door", ts=1e9, start=1e9, end=1e9, cause="")
