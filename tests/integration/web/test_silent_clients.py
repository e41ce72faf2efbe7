"""Clients that take nothing, send nothing, or come in numbers: none of them keeps the others out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from crowdperf.settings.site import Web
from crowdperf.web.serving import connections
from crowdperf.web.serving.connections import DeadlineProtocol, ListeningSocket
from tests.conftest import RedisServer, wait_until
from tests.support.ports import free_port
from tests.support.webserver import CONFIG, certify, serving


def test_connections_end_when_their_client_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_TIMEOUT_S", 1.0)
    port = free_port()
    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=port))
    with listening, socket.create_connection(("127.0.0.1", port)):
        connection, _ = listening.accept()
        with connection:
            connection.setblocking(False)
            found: list[int] = []

            def has_ended() -> bool:
                try:
                    while True:
                        connection.send(b"x" * 65536)
                except BlockingIOError:
                    return False
                except OSError as error:
                    found.append(error.errno or 0)
                    return True

            wait_until(has_ended, 30, "the end of the connection")
            assert found == [errno.ETIMEDOUT]


def test_connections_have_the_deadline() -> None:
    port = free_port()
    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=port))
    with listening, socket.create_connection(("127.0.0.1", port)):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


DEADLINE_S = 0.5


async def answer_slowly(
    _scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer a request once it has arrived, later than its deadline."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(3 * DEADLINE_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"late"})


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Half", b""),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"late"),
    ],
    ids=["nothing", "half a head", "half a body", "a request whose answer takes long"],
)
def test_a_request_that_never_arrives_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, expected: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", DEADLINE_S)
    port = free_port()

    async def ask() -> bytes:
        config = uvicorn.Config(answer_slowly, http=DeadlineProtocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        listening = connections.open_listening_socket(Web(host="127.0.0.1", port=port))
        serving = asyncio.create_task(server._serve([listening]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        reply = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        server.should_exit = True
        await serving
        return reply

    reply = asyncio.run(ask())
    assert reply.endswith(expected)
    assert bool(reply) == bool(expected)


def test_a_handshake_that_never_ends_ends_its_connection(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_S", DEADLINE_S)
    certificate, key = map(str, certify(tmp_path))
    base = {**CONFIG, "web": {"ssl_certfile": certificate, "ssl_keyfile": key}}
    with serving(redis_server.url, tmp_path, base) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        trust = ssl.create_default_context(cafile=certificate)
        assert httpx.get(server.url.replace("http://127.0.0.1", "https://localhost") + "/healthz", verify=trust)


def connect_many(listening: ListeningSocket, number: int) -> list[socket.socket]:
    listening.setblocking(False)
    return [socket.create_connection(listening.getsockname()) for _ in range(number)]


def accept_all(listening: ListeningSocket) -> list[socket.socket]:
    accepted = []
    while True:
        try:
            accepted.append(listening.accept()[0])
        except BlockingIOError:
            return accepted


@pytest.mark.parametrize("limit", ["in all", "of one client"])
def test_connections_beyond_a_limit_are_closed_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=free_port()))
    if limit == "in all":
        listening.max_connections = 2
    else:
        monkeypatch.setattr(connections, "MAX_CLIENT_CONNECTIONS", 2)
        monkeypatch.setattr(ListeningSocket, "_stands_for_many", lambda *_: False)
    with listening:
        clients = connect_many(listening, 4)
        accepted = accept_all(listening)
        assert len(accepted) == 2
        assert [client.recv(1) for client in clients[2:]] == [b"", b""]
        assert [record.levelno for record in caplog.records] == [logging.WARNING], "logged once"
        accepted.pop().close()
        clients += connect_many(listening, 1)
        accepted += accept_all(listening)
        assert len(accepted) == 2, "an ended connection makes room"
        for one in clients + accepted:
            one.close()


def test_this_machine_and_trusted_proxies_stand_for_many_clients() -> None:
    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=free_port()))
    with listening:
        listening.trusted_proxies = ["proxy", "192.0.2.7", "198.51.100.0/24", "2001:db8::1"]
        many = ("127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.7", "::ffff:192.0.2.7", "198.51.100.9", "2001:db8::1")
        assert [address for address in many if not listening._stands_for_many(address)] == []
        assert [address for address in ("192.0.2.8", "2001:db8::2") if listening._stands_for_many(address)] == []


def test_a_connection_without_a_file_is_closed_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = socket.socket.accept
    outcomes = [False, True, False, True]
    """No file, then the spare one, twice."""

    def accept(listening: socket.socket) -> tuple[socket.socket, Any]:
        if outcomes and not outcomes.pop(0):
            raise OSError(errno.EMFILE, "too many open files")
        return real(listening)

    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=free_port()))
    with listening:
        clients = connect_many(listening, 3)
        monkeypatch.setattr(socket.socket, "accept", accept)
        accepted = accept_all(listening)
        assert len(accepted) == 1
        assert len(caplog.records) == 1
        for one in clients + accepted:
            one.close()


def test_a_spare_file_that_was_lost_is_not_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is another file's by then, of Redis for example."""
    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=free_port()))
    lost = listening._spare
    with listening:
        clients = connect_many(listening, 1)
        with monkeypatch.context() as without_files:
            without_files.setattr(os, "open", refuse_file)
            without_files.setattr(socket.socket, "accept", refuse_file)
            with pytest.raises(OSError, match="too many"):
                listening.accept()
            assert os.dup2(listening.fileno(), lost) == lost, "another file gets its number"
            with pytest.raises(OSError, match="too many"):
                listening.accept()
        os.fstat(lost)
        for one in clients + accept_all(listening):
            one.close()
    os.close(lost)


def refuse_file(*_arguments: Any) -> Any:
    raise OSError(errno.EMFILE, "too many open files")


def test_a_flood_of_refused_connections_leaves_the_loop_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_REFUSALS", 2)
    listening = connections.open_listening_socket(Web(host="127.0.0.1", port=free_port()))
    listening.max_connections = 0
    with listening:
        clients = connect_many(listening, 3)
        for waiting in (1, 0):
            assert accept_all(listening) == []
            assert bool(select.select([listening], [], [], 0)[0]) == bool(waiting)
        for one in clients:
            one.close()


def test_file_limit_is_raised() -> None:
    code = (
        "import resource\n"
        "from crowdperf.runtime.process_runtime import raise_file_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 900))\n"
        "raise_file_limit()\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["900", "900"]
