"""Live updates: server-sent events, the WebSocket of pictures, and uvicorn started by hand."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import msgspec
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from crowdperf.settings.base import ConfigError
from crowdperf.settings.site import Web
from crowdperf.web import live_routes
from crowdperf.web.live import tiles
from crowdperf.web.serving.connections import open_listening_socket
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.ports import free_port
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, certify, serving, site_config


class Listener:
    """A client of /api/v1/stream that reads message by message."""

    def __init__(self, url: str, last_id: str = "") -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
        self._connection.request("GET", "/api/v1/stream", headers={"Last-Event-ID": last_id} if last_id else {})
        self.response = self._connection.getresponse()
        assert self.response.status == 200

    def next(self) -> dict:
        """Read the next message without comments."""
        message: dict = {}
        while raw := self.response.readline():
            line = raw.decode().rstrip("\n")
            if not line and "data" in message:
                return message | {"data": json.loads(message["data"])}
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                message[name] = value
        pytest.fail("the stream ended")

    def until(self, event: str) -> dict:
        """Read up to the next message of that name, for a limited time."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            message = self.next()
            if message["event"] == event:
                return message
        pytest.fail(f"no {event} came within {TIMEOUT_S:g} s")

    def close(self) -> None:
        self._connection.close()


def test_a_crossing_is_pushed_as_event_and_as_count(server: Served, site: SyntheticSite) -> None:
    site.publish_crossing("plaza", "gate", "in")
    listener = Listener(server.url)
    assert listener.next()["event"] == "status"
    whole = listener.until("counts")["data"]
    assert whole["whole"] is True
    crossing = site.publish_crossing("plaza", "gate", "in")
    event = listener.until("event")
    while event["data"]["id"] != crossing:
        event = listener.until("event")
    assert event["data"]["line"] == "gate"
    assert event["id"]
    listener.close()
    # Wherever the reader was when the client came: the count ends at two, neither crossing counts twice.
    late = Listener(server.url)
    counts = {row["camera"]: row["count"] for row in late.until("counts")["data"]["counts"]}
    while counts.get("plaza") != 2:
        counts = {row["camera"]: row["count"] for row in late.until("counts")["data"]["counts"]}
    late.close()


def test_a_returning_client_gets_exactly_what_it_missed(server: Served, site: SyntheticSite) -> None:
    listener = Listener(server.url)
    listener.until("occupancy")
    first = site.publish_crossing("plaza", "gate", "in")
    seen = listener.until("event")
    assert seen["data"]["id"] == first
    listener.close()
    missed = [site.publish_crossing("plaza", "gate", "out"), site.publish_crossing("lobby", "door", "in")]
    again = Listener(server.url, last_id=seen["id"])
    live = site.publish_crossing("plaza", "gate", "in")
    found = [again.until("event")["data"]["id"] for _ in range(3)]
    assert found == [*missed, live]
    again.close()


def test_a_client_away_for_too_long_is_told(server: Served, site: SyntheticSite) -> None:
    for _ in range(1005):
        site.publish_crossing("plaza", "gate", "in")
    listener = Listener(server.url, last_id="1-0")
    listener.until("lost")
    listener.close()


def test_a_slow_client_loses_its_oldest_is_told_and_slows_nobody(server: Served, site: SyntheticSite) -> None:
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    quick = Listener(server.url)
    quick.until("occupancy")
    last = ""
    received: list[str] = []
    pad = "x" * 20_000
    # 30 MB: more than the sockets' buffers and the queue can hold for a client that reads nothing.
    for number in range(1500):
        event = msgspec.structs.replace(_gap(number), cause=pad)
        site.publish(event)
        last = event.id
        # The quick client reads along, as a browser does.
        if number % 50 == 49:
            while not received or received[-1] != last:
                received.append(quick.until("event")["data"]["id"])
    assert len(received) == 1500, "the quick client got everything"

    def lost() -> float:
        return server.runtime.metrics.snapshot("web", 0).gauges.get("stream_messages_lost", {}).get("", 0)

    wait_until(lost, what="loss")
    text = b""
    slow.settimeout(TIMEOUT_S)
    while b"event: lost" not in text:
        chunk = slow.recv(1 << 20)
        assert chunk, "the slow client was cut off"
        text = text[-64:] + chunk
    slow.close()
    quick.close()


def _gap(number: int):
    from crowdperf.messaging.schema import CameraGap

    return CameraGap(id=f"gap{number}", camera="plaza", ts=1e9, start=1e9, end=1e9, cause="")


def test_the_stream_survives_an_outage_of_redis(server: Served, site: SyntheticSite, redis_server: RedisServer) -> None:
    listener = Listener(server.url)
    listener.until("occupancy")
    site.publish_crossing("plaza", "gate", "in")
    listener.until("event")
    redis_server.kill()
    while listener.until("status")["data"]["redis"] != "down":
        pass
    redis_server.start()
    while listener.until("status")["data"]["redis"] != "up":
        pass
    after = site.publish_crossing("plaza", "gate", "out")
    assert listener.until("event")["data"]["id"] == after
    listener.close()


def test_occupancy_is_pushed(server: Served, site: SyntheticSite) -> None:
    listener = Listener(server.url)
    listener.until("occupancy")
    site.write_frame("plaza", 0.0)
    inside = None
    while inside != 3:
        rows = listener.until("occupancy")["data"]["zones"]
        inside = next((row["occupancy"] for row in rows if row["zone"] == "stage"), None)
    listener.close()


def unpack(message: bytes) -> tuple[dict, bytes]:
    """Header and JPEG of a live message."""
    (length,) = struct.unpack(">I", message[:4])
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def live_url(server: Served) -> str:
    return f"ws://127.0.0.1:{server.port}/api/v1/live"


async def binary(socket) -> tuple[dict, bytes]:
    """Receive the next picture message."""
    while True:
        message = await asyncio.wait_for(socket.recv(), TIMEOUT_S)
        if isinstance(message, bytes):
            return unpack(message)


def test_one_socket_carries_the_pictures_of_several_cameras(server: Served, site: SyntheticSite) -> None:
    site.start()

    async def watch() -> dict[str, list[tuple[dict, bytes]]]:
        found: dict[str, list[tuple[dict, bytes]]] = {"plaza": [], "lobby": []}
        async with connect(live_url(server)) as socket:
            # The client offers permessage-deflate; a JPEG would become larger.
            assert socket.protocol.extensions == []
            await socket.send(json.dumps({"subscribe": ["plaza", "lobby", "nobody", "dock"]}))
            reply = json.loads(await socket.recv())
            assert reply == {"subscribed": ["lobby", "plaza"], "unknown": ["dock", "nobody"]}
            while min(len([1 for head, _ in rows if head.get("boxes")]) for rows in found.values()) < 3:
                head, jpeg = await binary(socket)
                found[head["camera"]].append((head, jpeg))
        return found

    for rows in asyncio.run(watch()).values():
        live = [(head, jpeg) for head, jpeg in rows if head["state"] == "live"]
        sequences = [head["sequence"] for head, _ in live]
        assert sequences == sorted(set(sequences)), "no picture comes twice, none goes back"
        head, jpeg = next(row for row in live if row[0]["boxes"])
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (head["height"], head["width"], 3) == (360, 640, 3)
        assert len(head["boxes"]) == len(head["tracks"]) == len(head["classes"]) == 6
        assert head["classes"][-1] == "car"
        assert all(head["boxes_sequence"] <= head["sequence"] for head, _ in live if head["boxes"])


def test_a_camera_that_freezes_is_down_and_comes_back(server: Served, site: SyntheticSite) -> None:
    async def watch() -> None:
        async with connect(live_url(server)) as socket:
            await socket.send(json.dumps({"subscribe": ["plaza"]}))
            head, jpeg = await binary(socket)
            assert (head["state"], jpeg) == ("down", b"")
            for moment in (1.0, 2.0):
                while head["state"] != "live":
                    # Again while it is down: on a busy machine a picture may be too old before anybody looks at it.
                    site.write_frame("plaza", moment)
                    head, jpeg = await binary(socket)
                # No more frames: what follows is no picture, and never the old one again.
                seen = []
                while head["state"] == "live":
                    assert jpeg
                    seen.append(head["sequence"])
                    head, jpeg = await binary(socket)
                assert seen == sorted(set(seen))
                assert (head["state"], jpeg) == ("down", b"")

    asyncio.run(watch())


@pytest.mark.parametrize(
    "text",
    [
        *("no json", "[]", "{}", '{"subscribe": 5}', '{"subscribe": [], "more": 1}', '{"seen": 1}', '{"seen": -1}'),
        '{"subscribe": ["plaza"], "widths": {"plaza": 0}}',
    ],
)
def test_a_live_client_that_talks_nonsense_is_sent_away(server: Served, text: str) -> None:
    async def talk() -> int:
        async with connect(live_url(server)) as socket:
            await socket.send(text)
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), TIMEOUT_S)
            return closed.value.rcvd.code

    assert asyncio.run(talk()) == 1008


def test_a_viewer_that_never_answers_is_let_go(
    server: Served, site: SyntheticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "MAX_SILENCE_S", 0.2)
    monkeypatch.setattr(live_routes, "SILENCE_CHECK_S", 0.05)
    site.start()

    async def watch() -> tuple[int | None, str | None]:
        async with connect(live_url(server), max_queue=None) as socket:
            await socket.send(json.dumps({"subscribe": ["plaza"]}))
            await socket.wait_closed()
            return socket.close_code, socket.close_reason

    code, reason = asyncio.run(watch())
    assert code == 1008
    assert "seen" in (reason or "")
    gauges = server.runtime.metrics
    wait_until(lambda: gauges.snapshot("web", 0.0).get_gauge("live_cameras_watched") == 0, what="the camera is left")


def test_a_foreign_page_cannot_watch(server: Served) -> None:
    async def talk() -> None:
        async with connect(live_url(server), origin="https://elsewhere.example"):
            pass

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(talk())
    assert refused.value.response.status_code == 403


def test_stopping_does_not_wait_for_open_streams(redis_server: RedisServer, tmp_path: Path) -> None:
    with serving(redis_server.url, tmp_path) as server:
        listener = Listener(server.url)
        listener.next()
        server.stop()
        listener.close()


def test_a_port_in_use_is_one_clear_error(server: Served) -> None:
    with pytest.raises(ConfigError, match=rf"port {server.port}: Address already in use\. Remedy: stop what uses"):
        open_listening_socket(Web(host="127.0.0.1", port=server.port))


@pytest.mark.parametrize("tls", [False, True])
def test_uvicorn_by_hand_serves_and_ends_on_ctrl_c(redis_server: RedisServer, tmp_path: Path, tls: bool) -> None:
    port = free_port()
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(site_config(redis_server.url, port, CONFIG)))
    command = [sys.executable, "-m", "uvicorn", "crowdperf.web.app:app", "--port", str(port)]
    context = None
    if tls:
        certificate, key = certify(tmp_path)
        command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
        context = ssl.create_default_context(cafile=str(certificate))
    environment = {
        **os.environ,
        "CROWDPERF_CONFIG": str(tmp_path / "config.json"),
        "CROWDPERF_DATA": str(tmp_path / "var"),
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    address = f"{'https' if tls else 'http'}://localhost:{port}"

    def cameras() -> list:
        try:
            with urllib.request.urlopen(f"{address}/api/v1/cameras", context=context, timeout=TIMEOUT_S) as reply:
                return json.load(reply)["cameras"]
        except OSError:
            return []

    try:
        wait_until(cameras, timeout_s=30, what="uvicorn by hand")
        stream = urllib.request.urlopen(f"{address}/api/v1/stream", context=context, timeout=TIMEOUT_S)
        assert stream.readline() == b"retry: 2000\n"
        process.send_signal(signal.SIGINT)
        # A browser reads on, which is also how TLS takes its leave.
        stream.read()
        process.wait(TIMEOUT_S)
        stream.close()
    finally:
        process.kill()
        _, errors = process.communicate()
    assert b"Traceback" not in errors, errors.decode()
