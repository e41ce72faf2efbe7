"""Where webhooks may go: the name is resolved once, each address is checked, and the connection goes to that address.

Asking the resolver again when connecting would let a name answer with a public address first and an inner one then.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class WebhookTarget(NamedTuple):
    """An address that may be connected to."""

    family: socket.AddressFamily
    host: str
    port: int


class ForbiddenAddressError(Exception):
    """The host's addresses are private, or otherwise none of the public internet; the message names the remedy."""


def resolve_target(host: str, port: int, allow: Sequence[str]) -> WebhookTarget:
    """The address to connect to.

    Args:
        host: a name or an address.
        port: the TCP port.
        allow: host names and networks that are admitted although they are private (`alerts.allow_private`).

    Raises:
        ForbiddenError: every address of the host is refused.
        OSError: the name does not resolve.
    """
    rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refused = []
    for family, _, _, _, address in rows:
        text = str(address[0])
        if is_permitted(host, text, allow):
            return WebhookTarget(family, text, port)
        refused.append(text)
    raise ForbiddenAddressError(
        f"{host} is {' and '.join(dict.fromkeys(refused))}, which is no public address. Remedy: if it is meant, add "
        "the host or its network to alerts.allow_private."
    )


def is_permitted(host: str, address: str, allow: Sequence[str]) -> bool:
    """Whether a webhook to `host` may connect to `address`."""
    found = _unwrap_ipv4(ipaddress.ip_address(address.partition("%")[0]))
    if found.is_multicast or found.is_unspecified:
        return False
    if found.is_global:
        return True
    if any("/" in entry and found in ipaddress.ip_network(entry) for entry in allow):
        return True
    # A cloud's metadata service is reached by its network only, never because a name was admitted.
    return not found.is_link_local and host.lower() in [entry.lower() for entry in allow if "/" not in entry]


def _unwrap_ipv4(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
