"""Who sits at this machine: the owner of a connection's other end."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Any

import pytest
from litestar.connection import ASGIConnection

from crowdperf.settings.site import Web
from crowdperf.web import auth
from crowdperf.web.auth import find_socket_owner, is_anonymous_access_allowed, is_person


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_owner_of_a_connection_is_found(family: socket.AddressFamily) -> None:
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.socket(family) as listening:
        try:
            listening.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listening.listen()
        port = listening.getsockname()[1]
        with socket.create_connection((host, port)) as client:
            assert find_socket_owner(client.getsockname()[1], port) == os.geteuid()
    assert find_socket_owner(1, 1) is None


def test_the_owner_is_looked_up_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    monkeypatch.setattr(auth, "find_socket_owner", lambda *_: threads.append(threading.current_thread()))
    local = ("127.0.0.1", 8080)
    scope: Any = {"type": "http", "headers": [(b"host", b"localhost")], "server": local, "client": local}
    request: ASGIConnection[Any, Any, Any, Any] = ASGIConnection(scope)
    assert asyncio.run(is_anonymous_access_allowed(request, Web())) is False
    assert threads != [threading.main_thread()]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        *((user, True) for user in (0, os.geteuid(), 1000, 60_000, 200_001)),
        *((user, False) for user in (33, 61_184, 65_519, 65_534, None)),
    ],
)
def test_a_server_is_no_person(user: int | None, expected: bool) -> None:
    assert is_person(user) is expected
