"""Changes of a running site: who restarts, who does not, and that nobody who looks at it notices."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx

from crowdperf.accounts.credentials import SetupSecret
from crowdperf.messaging.codec import encode
from crowdperf.messaging.schema import CameraGap
from crowdperf.messaging.streams import EVENTS
from tests.conftest import wait_until
from tests.integration.supervision.test_supervision import camera, clip
from tests.support.site import Site

PASSWORD = "correct horse battery"
LINE = {"id": "way", "p1": [0.5, 0.2], "p2": [0.5, 0.9]}


class Looking:
    """Somebody whose page is open: one stream that stays, and requests in turn, each by a new connection."""

    def __init__(self, site: Site) -> None:
        self._get_port = site.port
        self._stop = threading.Event()
        self.requests = 0
        self.failures: list[str] = []
        self.text = b""
        self.ended = False
        self._connection, self._stream = stream(site)
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._ask, self._listen)]

    def __enter__(self) -> Looking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._connection.sock and self._connection.sock.shutdown(2)
        for thread in self._threads:
            thread.join(120)
        self._connection.close()

    def _ask(self) -> None:
        while not self._stop.is_set():
            for path in ("/api/v1/cameras", "/healthz", "/"):
                self.requests += 1
                connection = http.client.HTTPConnection("127.0.0.1", self._get_port, timeout=120)
                try:
                    connection.request("GET", path)
                    reply = connection.getresponse()
                    reply.read()
                    if reply.status != 200:
                        self.failures.append(f"{path}: {reply.status}")
                except OSError as error:
                    self.failures.append(f"{path}: {error!r}")
                finally:
                    connection.close()

    def _listen(self) -> None:
        while line := self._stream.readline():
            self.text += line
        self.ended = True

    def wait_for(self, text: bytes) -> None:
        """Wait until the stream has sent this text."""
        wait_until(lambda: text in self.text, 30, f"{text!r} on the stream")


def stream(site: Site, last_id: str = "0-1") -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
    connection.request("GET", "/api/v1/stream", headers={"Last-Event-ID": last_id})
    return connection, connection.getresponse()


def gap(name: str) -> CameraGap:
    return CameraGap(id=f"gap:{name}", camera="door", ts=1e9, start=1e9, end=1e9, cause="")


@contextlib.contextmanager
def administrator(site: Site) -> Iterator[httpx.Client]:
    """The first account, made by the one-time link, signed in."""
    secret = SetupSecret(site.paths.sockets)
    wait_until(lambda: secret.read() is not None, what="the setup link")
    with httpx.Client(base_url=site.url, timeout=60) as ada:
        first = {"name": "ada", "password": PASSWORD, "secret": secret.read()}
        ada.headers["X-CSRF-Token"] = ada.post("/api/v1/setup", json=first).json()["csrf"]
        yield ada


def ids(client: httpx.Client) -> list[str]:
    return [row["id"] for row in client.get("/api/v1/cameras").json()["cameras"]]


def at_rest(site: Site) -> bool:
    """Whether every change is in force: supervisord takes one update after the other."""
    return not any("config ask" in line for line in site.find_leftovers()) and all(site.get_pids().values())


def live(client: httpx.Client, name: str) -> bool:
    return client.get(f"/api/v1/cameras/{name}/snapshot.jpg").status_code == 200


def find_open_files(folder: Path) -> list[str]:
    """Files and folders below `folder` that other users could read if they got there."""
    paths = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink() and not path.is_socket()]
    return [str(path) for path in paths if path.exists() and path.stat().st_mode & 0o077]


def test_whatever_changes_nobody_who_looks_at_it_is_interrupted(tmp_path: Path) -> None:
    file = clip(tmp_path)
    cameras = [camera("lobby", file), camera("door", file)]
    with Site(tmp_path / "site", {"media_roots": [str(tmp_path)], "cameras": cameras}) as site:
        site.wait_for_web()
        wait_until(lambda: "/setup/#" in (site.folder / "run.out").read_text(), what="the link in the output of run")
        with administrator(site) as ada:
            wait_until(lambda: live(ada, "door"), 30, "pictures of the door")
            before = site.wait_for_pids()
            with Looking(site) as looking:
                # By the interface: there when the answer is.
                made = ada.post("/api/v1/cameras", json=camera("yard", file))
                assert made.status_code == 201, made.text
                assert made.json()["running"] is True
                assert {"capture-yard", "tracking-0"} <= set(made.json()["restarts"])
                assert not {"web", "inference", "capture-lobby", "redis"} & set(made.json()["restarts"])
                assert ids(ada) == ["lobby", "door", "yard"]
                wait_until(lambda: live(ada, "yard"), 30, "pictures of the new camera")

                saved = ada.post("/api/v1/cameras/door/lines", json=LINE)
                assert saved.status_code == 201, saved.text
                assert "web" not in saved.json()["restarts"]
                assert [row["id"] for row in ada.get("/api/v1/cameras/door").json()["lines"]] == ["way"]
                tag = ada.get("/api/v1/cameras/door").headers["etag"]
                assert tag == saved.headers["etag"], "what the next change is based on"
                area = {"id": "hall", "doors": [{"camera": "door", "line": "way"}]}
                saved = ada.post("/api/v1/areas", json=area)
                assert saved.status_code == 201, saved.text
                assert [row["id"] for row in ada.get("/api/v1/areas").json()["areas"]] == ["hall"]

                # By hand: nothing happens until it is asked for. The area's update may be under way still: it waits.
                document = json.loads((site.folder / "config.json").read_text())
                assert document["cameras"][1]["lines"] == [LINE]
                document["cameras"][0] = camera("gate", file)
                (site.folder / "config.json").write_text(json.dumps(document))
                assert ids(ada) == ["lobby", "door", "yard"]
                done = site.run_ctl("update")
                assert "Fault" not in done.stdout + done.stderr
                assert "web" not in done.stdout
                wait_until(lambda: site.get_pids().get("capture-gate"), what="the camera's program")
                wait_until(lambda: ids(ada) == ["gate", "door", "yard"], what="the file's cameras")
                assert ada.get("/api/v1/cameras/lobby").status_code == 404
                wait_until(lambda: live(ada, "gate"), 30, "pictures of the camera from the file")

                assert ada.delete("/api/v1/cameras/yard").status_code == 200
                assert ids(ada) == ["gate", "door"]
                site.redis().xadd("crowdperf:events", encode(EVENTS, gap("afterwards")))
                looking.wait_for(b"gap:afterwards")
                assert looking.text.count(b"event: configuration") >= 5
                assert not looking.ended
            assert looking.requests > 30
            assert looking.failures == []
            wait_until(lambda: at_rest(site), 30, "every program at the end")
            after = site.get_pids()
            for name in ("web", "inference", "capture-door", "redis", "worker-recorder-0"):
                assert after[name] == before[name], name

            system = ada.get("/api/v1/system").json()
            assert system["supervised"] is True
            assert {row["name"]: row["pid"] for row in system["processes"]} == after
            recorder = after["worker-recorder-0"]
            assert ada.post("/api/v1/system/processes/worker-recorder-0/restart").status_code == 202
            site.wait_for_pid("worker-recorder-0", recorder)
            assert ada.post("/api/v1/system/processes/nothing/restart").status_code == 404
        assert find_open_files(site.paths.data) == []
        logs = [log.read_text() for log in site.paths.logs.glob("*.log")]
        assert any("users setup-link" in text for text in logs)
        assert not any("/setup/#" in text for text in logs)


def test_web_restarts_for_own_settings_and_misses_no_event(tmp_path: Path) -> None:
    cameras = [camera("door", clip(tmp_path))]
    with Site(tmp_path / "site", {"media_roots": [str(tmp_path)], "cameras": cameras}) as site:
        site.wait_for_web()
        with administrator(site) as ada:
            before = site.wait_for_pids()
            seen = site.redis().xadd("crowdperf:events", encode(EVENTS, gap("before"))).decode()
            connection, messages = stream(site)
            assert messages.readline() == b"retry: 2000\n"
            site.config["site"] = {"name": "Riverside"}
            site.write_config()
            site.run_ctl("update")
            assert b"gap:before" in messages.read(), "the old process ends its streams in order"
            connection.close()
            site.redis().xadd("crowdperf:events", encode(EVENTS, gap("while away")))
            site.wait_for_pid("web", before["web"])
            site.wait_for_web()
            connection, messages = stream(site, seen)
            text = b""
            while b"gap:while away" not in text:
                text += messages.readline()
            assert b"gap:before" not in text
            connection.close()
            assert ada.get("/api/v1/session").json()["name"] == "ada", "sessions outlive the process"
            assert ada.get("/api/v1/cameras").json()["name"] == "Riverside"
