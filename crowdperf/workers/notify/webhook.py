"""Webhooks: a signed POST of JSON to a checked address, without redirects.

The name is resolved once, each address is checked, and the connection goes to that address. A second lookup could
return an internal address.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from string import punctuation
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from crowdperf.primitives.redaction import redact_path
from crowdperf.settings.alerts import WebhookChannel, validate_webhook_url
from crowdperf.settings.base import ConfigError
from crowdperf.workers.notify.delivery import ChannelNotReadyError, DeliveryError, Sender, load_secret
from crowdperf.workers.notify.logic import Notification
from crowdperf.workers.notify.mail import build_connection_error, create_tls_context

RETRYABLE_STATUSES = (408, 425, 429)
"""Status codes 4xx that a later attempt may change."""


def _compute_signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return `sha256=<hex>` of HMAC-SHA256 over timestamp, a full stop and the body.

    The timestamp is signed too, so that a receiver can refuse replayed messages.
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to the checked address; `host` stays the name for Host header and certificate."""

    def __init__(self, host: str, target: WebhookTarget, timeout_s: float, context: ssl.SSLContext | None) -> None:
        super().__init__(host, target.port, timeout=timeout_s)
        if context is not None:
            # Omits the scheme's default port from the Host header.
            self.default_port = 443
        self._target = target
        self._context = context

    def connect(self) -> None:
        plain = socket.create_connection((self._target.host, self._target.port), self.timeout)
        self.sock = plain if self._context is None else self._context.wrap_socket(plain, server_hostname=self.host)


class WebhookSender(Sender):
    """Delivers to one webhook."""

    def __init__(self, channel: WebhookChannel, allow: list[str]) -> None:
        self._channel = channel
        self._allow = allow

    def send(self, notification: Notification, now: float) -> None:
        """Send the POST; only a status of 2xx is a success."""
        url, secret = self._load_secrets()
        body = msgspec.json.encode(notification)
        timestamp = str(int(now))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "crowdperf",
            "X-Crowdperf-Id": notification.id.encode("ascii", "replace").decode(),
            "X-Crowdperf-Timestamp": timestamp,
        }
        if secret:
            headers["X-Crowdperf-Signature"] = _compute_signature(secret, timestamp, body)
        status, after_s = self._post(url, body, headers)
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise DeliveryError(f"it redirects (status {status}), which is not followed", permanent=True)
        raise DeliveryError(
            f"it answers with status {status}", 400 <= status < 500 and status not in RETRYABLE_STATUSES, after_s
        )

    def _load_secrets(self) -> tuple[str, str]:
        channel = self._channel
        url = load_secret(channel.url_env) or channel.url
        try:
            validate_webhook_url(f"environment variable {channel.url_env}", url)
        except ConfigError as error:
            raise ChannelNotReadyError(str(error)) from None
        return url, load_secret(channel.secret_env)

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
        """Return status and Retry-After."""
        parts = urlsplit(url)
        # As browsers do: letters beyond ASCII are escaped, and what is escaped already stays.
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=punctuation)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        try:
            target = resolve_target(host, parts.port or (443 if secure else 80), self._allow)
            context = create_tls_context(self._channel.ca_file) if secure else None
            connection = _PinnedConnection(host, target, self._channel.timeout_s, context)
            try:
                connection.request("POST", path, body, headers)
                reply = connection.getresponse()
                return reply.status, _parse_retry_after(reply.headers.get("Retry-After"))
            finally:
                connection.close()
        except ForbiddenAddressError as error:
            raise DeliveryError(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            # A server that answers with what it was sent has the path in the error's text: chat services' token.
            raise DeliveryError(redact_path(str(build_connection_error(host, error)), url)) from None


def _parse_retry_after(text: str | None) -> float:
    return float(text) if text and text.isdigit() and len(text) < 7 else 0.0


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class WebhookTarget(NamedTuple):
    """A permitted address."""

    family: socket.AddressFamily
    host: str
    port: int


class ForbiddenAddressError(Exception):
    """The host has no permitted address; the message names the remedy."""


def resolve_target(host: str, port: int, allow: Sequence[str]) -> WebhookTarget:
    """Resolve a host to a permitted address.

    Args:
        host: a name or an address.
        port: the TCP port.
        allow: permitted private host names and networks (`alerts.allow_private`).

    Returns:
        The address to connect to.

    Raises:
        ForbiddenAddressError: every address of the host is refused.
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
    """Return whether a webhook may connect to an address.

    Args:
        host: name of the host.
        address: one of its addresses.
        allow: permitted private host names and networks.

    Returns:
        True for a public or explicitly permitted address.
    """
    found = _unwrap_ipv4(ipaddress.ip_address(address.partition("%")[0]))
    if found.is_multicast or found.is_unspecified:
        return False
    if found.is_global:
        return True
    if any("/" in entry and found in ipaddress.ip_network(entry) for entry in allow):
        return True
    # A link-local address (cloud metadata service) needs its network in `allow`; a name is not enough.
    return not found.is_link_local and host.lower() in [entry.lower() for entry in allow if "/" not in entry]


def _unwrap_ipv4(address: Address) -> Address:
    """Return the IPv4 address that is embedded in an IPv6 address, if any."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
