"""The address that the web process listens on."""

from __future__ import annotations

import socket

from crowdperf.settings.base import ConfigError
from crowdperf.settings.site import Web


def open_listening_socket(web: Web) -> socket.socket:
    """A socket that listens at the configured address.

    Raises:
        ConfigError: it is in use, or not this machine's, or not permitted.
    """
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        # asyncio sends at once (TCP_NODELAY) only where the protocol is named: else every answer of more than one
        # segment waits 40 ms for the client's delayed acknowledgement.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
