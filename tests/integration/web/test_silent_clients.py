"""A client that takes nothing any more is let go by the kernel, whatever kind of answer it was getting."""

from __future__ import annotations

import errno
import socket

import pytest

from crowdperf.settings.site import Web
from crowdperf.web import config_client
from tests.conftest import wait_until
from tests.support.ports import free_port


def test_connections_end_when_their_client_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_client, "SEND_TIMEOUT_S", 1.0)
    port = free_port()
    listening = config_client.open_listening_socket(Web(host="127.0.0.1", port=port))
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
    listening = config_client.open_listening_socket(Web(host="127.0.0.1", port=port))
    with listening, socket.create_connection(("127.0.0.1", port)):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
