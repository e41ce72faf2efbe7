"""Connections of the web server: how many, how many of one client, and how long a request may take to arrive.

uvicorn bounds none of these. Connections that send nothing would use up the process's files, and nobody else gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from crowdperf.accounts.credentials import get_network
from crowdperf.settings.base import ConfigError
from crowdperf.settings.site import Web

SEND_TIMEOUT_S = 30.0
"""The kernel ends a connection whose client takes nothing that was sent for this long."""
KEEP_ALIVE_IDLE_S = 60
"""The kernel asks a client whose connection is idle for this long whether it is still there."""
REQUEST_TIMEOUT_S = 20.0
"""A request must have arrived this long after its connection was made, or after the answer before it."""
MAX_CONNECTIONS = 2000
MAX_CLIENT_CONNECTIONS = 256
"""Connections of one IPv4 address or one IPv6 /64: 40 browsers. This machine and trusted proxies have no such limit."""
MAX_REFUSALS = 200
"""Connections that are refused at a time: a flood of them must not hold up the event loop."""
LOG_INTERVAL_S = 60.0
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)

log = logging.getLogger(__name__)


class _Connection(socket.socket):
    """An accepted connection that reports its end."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        super().close()
        if self.on_close is not None:
            self.on_close()
            self.on_close = None


class ListeningSocket(socket.socket):
    """A listening socket that closes the connections beyond the limits at once.

    Attributes:
        max_connections: Connections at a time, in all.
        trusted_proxies: Addresses and networks that stand for many clients.
    """

    max_connections = MAX_CONNECTIONS
    trusted_proxies: Sequence[str] = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._counts: Counter[str] = Counter()
        self._logged_at = -LOG_INTERVAL_S
        self._refused_count = 0
        # Given up for a moment where no file is left, to close the connection that waits. Else it waits for ever.
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept the next connection within the limits.

        Raises:
            BlockingIOError: There is none. Or so many were refused that the event loop has its turn first.
        """
        for _ in range(MAX_REFUSALS):
            try:
                accepted, address = super().accept()
            except OSError as error:
                if error.errno not in OUT_OF_FILES:
                    raise
                self._close_next_connection()
                self._log_refusal("no file is left for another connection")
                continue
            client = get_network(str(address[0]))
            reason = self._find_reason(str(address[0]))
            if reason:
                accepted.close()
                self._log_refusal(reason)
                continue
            connection = _Connection(self.family, self.type, self.proto, fileno=accepted.detach())
            self._counts[client] += 1
            connection.on_close = partial(self._remove, client)
            return connection, address
        raise BlockingIOError(errno.EAGAIN, "other work has its turn")

    def close(self) -> None:
        """Close the socket, and not its connections."""
        super().close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _find_reason(self, address: str) -> str:
        """Return why a client may not have one more connection; empty if it may."""
        if self._counts.total() >= self.max_connections:
            return f"{self.max_connections} connections are open"
        if self._counts[get_network(address)] >= MAX_CLIENT_CONNECTIONS and not self._stands_for_many(address):
            return (
                f"{address} has {MAX_CLIENT_CONNECTIONS} connections. Remedy: a proxy belongs into web.trusted_proxies"
            )
        return ""

    def _stands_for_many(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return parsed.is_loopback or any(_is_in(parsed, proxy) for proxy in self.trusted_proxies)

    def _remove(self, client: str) -> None:
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]

    def _close_next_connection(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1  # Where none comes back, its number may soon be that of another file.
        try:
            super().accept()[0].close()
        finally:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _log_refusal(self, reason: str) -> None:
        """Log refused connections at most once a minute."""
        self._refused_count += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_INTERVAL_S:
            log.warning("refused %d connections since the last such line: %s", self._refused_count, reason)
            self._logged_at, self._refused_count = now, 0


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    """Check whether `network` (an address, a network, or * for all) has that address."""
    try:
        return network == "*" or address in ipaddress.ip_network(network, strict=False)
    except ValueError:  # A name.
        return False


def open_listening_socket(web: Web) -> ListeningSocket:
    """Open a socket that listens at the configured address.

    Raises:
        ConfigError: The address is in use, not this machine's, or not permitted.
    """
    listening: ListeningSocket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        # asyncio sets TCP_NODELAY only where the protocol is named. Without it, every response of several segments
        # waits 40 ms for the client's delayed acknowledgement.
        listening = ListeningSocket(family, kind, protocol)
        # The other half of the files is for rings, Redis and what the dashboard reads.
        listening.max_connections = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        listening.trusted_proxies = web.trusted_proxies
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it. uvicorn waits for ever for a client that takes nothing any more.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(SEND_TIMEOUT_S * 1e3))
        # So do they these: a client that has gone while nothing is sent would never be noticed.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE_S)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"cannot listen on {web.host} port {web.port}: {error.strerror or error}. "
            f"Remedy: stop what uses port {web.port}, or set web.host and web.port in the configuration."
        ) from None
    return listening


def limit_handshakes(loop: asyncio.AbstractEventLoop) -> None:
    """Give the TLS handshakes of a loop's servers the deadline of a request; uvicorn leaves it at 60 s."""
    create_server = loop.create_server

    def create(*arguments: Any, ssl: Any = None, **options: Any) -> Any:
        if ssl is not None:
            options["ssl_handshake_timeout"] = REQUEST_TIMEOUT_S
        return create_server(*arguments, ssl=ssl, **options)

    loop.create_server = create  # type: ignore[method-assign]


if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _HttpProtocol
else:
    _HttpProtocol = AutoHTTPProtocol


class DeadlineProtocol(_HttpProtocol):
    """uvicorn's protocol, with a deadline for the arrival of a request.

    uvicorn ends a connection that is silent after an answer. It waits for ever for the first request, and for the rest
    of one that has begun.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the deadline of the first request."""
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the deadline."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin the deadline of the next request."""
        super().on_response_complete()
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self._end_if_waiting)

    def _end_if_waiting(self) -> None:
        # A WebSocket has another protocol. An answer that takes long, such as a stream, is no reason to end.
        is_waiting = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        if is_waiting and self.transport.get_protocol() is self:
            self.transport.close()
