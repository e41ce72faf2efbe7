"""HTTP proxy inside this process that checks every address FFmpeg connects to for an http source.

A web server may redirect, a playlist may name other servers, and a name may resolve to any address. The check of the
configured URL cannot see that. This proxy can: FFmpeg's http, tls and playlists all go through it. It refuses metadata
addresses, however FFmpeg was led there.
"""

from __future__ import annotations

import contextlib
import logging
import re
import select
import socket
import threading
from urllib.parse import urlsplit

from crowdperf.capture.network.url_policy import SourceError, resolve_addresses
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.tasks import TaskGuard, start_thread

MAX_HEAD_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 10.0
CHUNK_BYTES = 1 << 16
RETRY_S = 1.0
"""Pause after a connection that could not be accepted."""
THREAD_NAME = "egress-proxy"
_PROXY_HEADERS = re.compile(rb"^(?:proxy-[a-z]+|connection):[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)

log = logging.getLogger(__name__)


class EgressProxy:
    """Proxy of one camera, on a port of 127.0.0.1.

    Args:
        allowed_hosts: Hosts that are allowed in any case.
        metrics: Counts the failures.
    """

    def __init__(self, allowed_hosts: tuple[str, ...], metrics: Metrics) -> None:
        self._allowed_hosts = allowed_hosts
        self._guard = TaskGuard(metrics)
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open_sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        start_thread(THREAD_NAME, self._serve, metrics, self._closed.wait)

    def close(self) -> None:
        """Close the listener and every connection."""
        self._closed.set()
        # Closing alone does not wake a thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for open_socket in self._open_sockets:
                with contextlib.suppress(OSError):
                    open_socket.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        """Accept until the proxy is closed. No file or thread may be left for a while."""
        while not self._closed.is_set():
            if not self._guard.run(THREAD_NAME, self._accept_client):
                self._closed.wait(RETRY_S)

    def _accept_client(self) -> bool:
        """Start a thread for the next connection; False once the proxy is closed."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            if self._closed.is_set():
                return False
            raise
        with contextlib.ExitStack() as unless_started:
            unless_started.enter_context(client)
            threading.Thread(target=self._handle_client, args=(client,), name=THREAD_NAME, daemon=True).start()
            unless_started.pop_all()
        return True

    def _handle_client(self, client: socket.socket) -> None:
        """Serve one connection of FFmpeg: read the request's head, then relay bytes both ways."""
        with client, contextlib.suppress(OSError, ValueError):
            with self._lock:
                self._open_sockets.add(client)
            try:
                head, rest = _read_head(client)
                method, _, target = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
                target = target.rpartition(" ")[0]
                try:
                    server = self._connect(*_parse_target(method, target))
                except (SourceError, OSError) as error:
                    log.warning("refused a connection that the source led to: %s", error)
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                with server:
                    if method == "CONNECT":
                        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    else:
                        # One request per connection: the next one may name another server.
                        server.sendall(_rewrite_request(method, target, head))
                    server.sendall(rest)
                    _relay(client, server)
            finally:
                with self._lock:
                    self._open_sockets.discard(client)

    def _connect(self, host: str, port: int) -> socket.socket:
        """Connect to an allowed address of the host, without resolving the name again."""
        failure: OSError = OSError(f"{host!r} has no address")
        for family, address in resolve_addresses(host, port, self._allowed_hosts):
            server = socket.socket(family, socket.SOCK_STREAM)
            server.settimeout(CONNECT_TIMEOUT_S)
            try:
                server.connect(address)
            except OSError as error:
                server.close()
                failure = error
            else:
                server.settimeout(None)
                return server
        raise failure


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """Read the request's head with its empty line, and the bytes that already follow it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(CHUNK_BYTES)
        if not part or len(data) > MAX_HEAD_BYTES:
            raise ValueError("no request")
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


def _parse_target(method: str, target: str) -> tuple[str, int]:
    """Parse host and port of a request's target: an authority (CONNECT) or an absolute http URL."""
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    if method != "CONNECT" and parts.scheme != "http":
        raise SourceError(f"the scheme {parts.scheme!r} is not allowed")
    return parts.hostname or "", parts.port or 80


def _rewrite_request(method: str, target: str, head: bytes) -> bytes:
    """Rewrite the request's head from proxy form to the form that the server expects."""
    parts = urlsplit(target)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    _, _, fields = head.partition(b"\r\n")
    fields = _PROXY_HEADERS.sub(b"", fields)
    return f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode("latin-1") + fields


def _relay(client: socket.socket, server: socket.socket) -> None:
    """Copy bytes both ways until one side ends."""
    other = {client: server, server: client}
    while True:
        ready, _, _ = select.select([client, server], [], [])
        for source in ready:
            data = source.recv(CHUNK_BYTES)
            if not data:
                return
            other[source].sendall(data)
