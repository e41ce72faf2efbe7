"""The proxy and the connect filter of a camera go on after a failure, which is logged once and counted."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from crowdperf.capture.network import egress_proxy
from crowdperf.capture.network.connect_filter import ConnectFilter, ConnectFilterUnavailable
from crowdperf.capture.network.egress_proxy import EgressProxy
from crowdperf.runtime.metrics import Metrics
from tests.conftest import missing

NO_FILES = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
FAILURES = 2


class FailingListener(socket.socket):
    """A listening socket whose first connections cannot be accepted."""

    failures = FAILURES

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise NO_FILES
        return super().accept()


def test_the_proxy_serves_again_after_failures(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listener, metrics = FailingListener(), Metrics()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    monkeypatch.setattr(socket, "create_server", lambda _: listener)
    monkeypatch.setattr(egress_proxy, "RETRY_S", 0.01)
    proxy = EgressProxy((), metrics)
    with socket.create_connection(listener.getsockname(), 60) as client:
        client.sendall(b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 403")
    proxy.close()
    assert metrics.get_counter("task_failures", "egress-proxy") == FAILURES
    assert caplog.text.count("the task egress-proxy failed") == 1


def test_the_filter_refuses_what_it_cannot_check(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, failures = Metrics(), [NO_FILES] * FAILURES

    def check(*_: Any) -> bool:
        if failures:
            raise failures.pop()
        return False

    monkeypatch.setattr(ConnectFilter, "_is_refused", check)
    try:
        connect_filter = ConnectFilter((), metrics)
    except ConnectFilterUnavailable as reason:
        missing(f"connections cannot be filtered here: {reason}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(FAILURES):
            with pytest.raises(PermissionError):
                connect_filter.run(lambda: socket.create_connection(server.getsockname(), 60))
        connect_filter.run(lambda: socket.create_connection(server.getsockname(), 60)).close()
    connect_filter.close()
    assert metrics.get_counter("task_failures", "connect-filter") == FAILURES
    assert caplog.text.count("the task connect-filter failed") == 1
