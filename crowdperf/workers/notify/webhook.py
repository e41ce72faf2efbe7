"""Webhooks: a signed POST of JSON, to an address that was checked, redirects not followed."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import socket
import ssl
from urllib.parse import urlsplit

import msgspec

from crowdperf.settings.alerts import WebhookChannel, validate_webhook_url
from crowdperf.settings.base import ConfigError
from crowdperf.workers.notify.delivery import ChannelNotReadyError, DeliveryError
from crowdperf.workers.notify.guard import ForbiddenAddressError, WebhookTarget, resolve_target
from crowdperf.workers.notify.logic import Notification
from crowdperf.workers.notify.tls import build_connection_error, create_tls_context

RETRYABLE_STATUSES = (408, 425, 429)
"""Answers of the 4xx range that a later attempt may change."""


def compute_signature(secret: str, timestamp: str, body: bytes) -> str:
    """`sha256=<hex>` of HMAC-SHA256 over timestamp, a full stop and the body.

    The timestamp is signed too, so that a receiver who refuses old ones cannot be sent the same message again.
    """
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to the checked address; `host` stays the name for the Host header and the certificate."""

    def __init__(self, host: str, target: WebhookTarget, timeout_s: float, context: ssl.SSLContext | None) -> None:
        super().__init__(host, target.port, timeout=timeout_s)
        if context is not None:
            # Decides what the Host header looks like: the scheme's own port is left out.
            self.default_port = 443
        self._target = target
        self._context = context

    def connect(self) -> None:
        plain = socket.create_connection((self._target.host, self._target.port), self.timeout)
        self.sock = plain if self._context is None else self._context.wrap_socket(plain, server_hostname=self.host)


class WebhookSender:
    """Delivers to one webhook."""

    def __init__(self, channel: WebhookChannel, allow: list[str]) -> None:
        self._channel = channel
        self._allow = allow

    def send(self, notification: Notification, now: float) -> None:
        """POST it; only an answer of the 2xx range counts."""
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
            headers["X-Crowdperf-Signature"] = compute_signature(secret, timestamp, body)
        status, after_s = self._post(url, body, headers)
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise DeliveryError(f"it redirects (status {status}), which is not followed", permanent=True)
        raise DeliveryError(
            f"it answers with status {status}", 400 <= status < 500 and status not in RETRYABLE_STATUSES, after_s
        )

    def poll(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing is kept open."""

    def _load_secrets(self) -> tuple[str, str]:
        channel = self._channel
        for name in (channel.url_env, channel.secret_env):
            if name and not os.environ.get(name):
                raise ChannelNotReadyError(
                    f"environment variable {name} is not set. Remedy: set it, then start crowdperf anew."
                )
        url = os.environ[channel.url_env] if channel.url_env else channel.url
        try:
            validate_webhook_url(f"environment variable {channel.url_env}", url)
        except ConfigError as error:
            raise ChannelNotReadyError(str(error)) from None
        return url, os.environ[channel.secret_env] if channel.secret_env else ""

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, float]:
        """Status and Retry-After."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        try:
            target = resolve_target(host, parts.port or (443 if secure else 80), self._allow)
            context = create_tls_context(self._channel.ca_file) if secure else None
            connection = _PinnedConnection(host, target, self._channel.timeout_s, context)
            try:
                connection.request(
                    "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers
                )
                reply = connection.getresponse()
                return reply.status, _parse_retry_after(reply.headers.get("Retry-After"))
            finally:
                connection.close()
        except ForbiddenAddressError as error:
            raise DeliveryError(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise build_connection_error(host, error) from None


def _parse_retry_after(text: str | None) -> float:
    return float(text) if text and text.isdigit() and len(text) < 7 else 0.0
