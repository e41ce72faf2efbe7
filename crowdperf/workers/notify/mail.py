"""Alerts by mail, and TLS contexts for all channels."""

from __future__ import annotations

import smtplib
import ssl
import zoneinfo
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any

from crowdperf.settings.alerts import EmailChannel
from crowdperf.visitors.visit import Person, Visit
from crowdperf.visitors.visit_store import VisitKeys, from_hash_fields
from crowdperf.workers.notify.delivery import ChannelNotReadyError, DeliveryError, Sender, load_secret
from crowdperf.workers.notify.logic import Notification


class MailSender(Sender):
    """Delivers to one SMTP server.

    Args:
        channel: settings of the channel.
        timezone: time zone of the site.
        client: Redis client, for the hosts of visits.
        prefix: prefix of every key.
    """

    def __init__(self, channel: EmailChannel, timezone: zoneinfo.ZoneInfo, client: Any, prefix: str = "") -> None:
        self._channel = channel
        self._timezone = timezone
        self._redis = client
        self._keys = VisitKeys(prefix)

    def send(self, notification: Notification, now: float) -> None:
        """Send one mail on a new connection: alerts are rare, and an idle connection may be dead."""
        channel = self._channel
        password = load_secret(channel.password_env)
        message = _build_mail(notification, channel, self._timezone, now)
        self._add_host(message, notification)
        if not message["To"]:
            # No recipient: the visit has no host with an address, or its data was erased.
            return
        try:
            with self._open_connection() as server:
                if channel.user:
                    server.login(channel.user, password)
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            raise DeliveryError(f"the server refuses the recipients: {sorted(codes)}", min(codes) >= 500) from None
        except smtplib.SMTPAuthenticationError as error:
            # The server's reply may repeat the password.
            raise DeliveryError(f"the server refuses user and password (code {error.smtp_code})") from None
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(f"the server answers with code {error.smtp_code}", error.smtp_code >= 550) from None
        except (smtplib.SMTPException, OSError) as error:
            raise build_connection_error(channel.host, error) from None

    def _add_host(self, message: EmailMessage, notification: Notification) -> None:
        """Add the visit's host as a recipient, and the visitor's name, which no event contains."""
        kind, _, rest = notification.alert.subject.partition(":")
        if not self._channel.to_host or kind != "visit":
            return
        visit = from_hash_fields(self._redis.hgetall(self._keys.visit(rest.partition(":")[0])), Visit)
        if visit is None or not visit.host_email:
            return
        person = from_hash_fields(self._redis.hgetall(self._keys.person(visit.person)), Person)
        del message["To"]
        message["To"] = ", ".join(dict.fromkeys([*self._channel.to, visit.host_email]))
        if person is not None:
            message.set_content(f"Visitor: {person.name} {person.company}\n\n{message.get_content()}")

    def _open_connection(self) -> smtplib.SMTP:
        channel = self._channel
        context = create_tls_context(channel.ca_file)
        if channel.security == "tls":
            return smtplib.SMTP_SSL(channel.host, channel.port, timeout=channel.timeout_s, context=context)
        server = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_s)
        if channel.security == "starttls":
            server.starttls(context=context)
        return server


def _build_mail(
    notification: Notification, channel: EmailChannel, timezone: zoneinfo.ZoneInfo, now: float
) -> EmailMessage:
    """Build the mail. Its Message-ID is the same at each attempt, so mail programs show it once."""
    alert = notification.alert
    when = datetime.fromtimestamp(alert.raised_at, timezone)
    message = EmailMessage()
    message["From"] = Address(_to_one_line(notification.site), addr_spec=channel.sender)
    if channel.to:
        message["To"] = ", ".join(channel.to)
    message["Subject"] = _to_one_line(f"[{alert.severity}] {alert.title}: {notification.camera_title}")
    message["Date"] = datetime.fromtimestamp(now, timezone)
    domain = channel.sender.rpartition("@")[2]
    message["Message-ID"] = f"<{notification.id.encode().hex()}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [
        alert.detail,
        "",
        f"Rule:      {alert.title} ({alert.severity})",
        f"Camera:    {notification.camera_title} ({alert.camera})",
        f"Time:      {when:%Y-%m-%d %H:%M:%S %Z}",
        f"Alert:     {alert.id}",
    ]
    message.set_content("\n".join([*lines, *(["", notification.note] if notification.note else [])]) + "\n")
    return message


def _to_one_line(text: str) -> str:
    """Remove line breaks, so that a name cannot inject a header."""
    return " ".join(text.split())


def create_tls_context(ca_file: str) -> ssl.SSLContext:
    """Create a context that always verifies the server's certificate and name.

    Args:
        ca_file: certificates to trust instead of the system's; empty for the system's.

    Raises:
        ChannelNotReadyError: the file is unusable. Notifications wait until it is usable.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ChannelNotReadyError(
            f"ca_file {ca_file} cannot be used: {error.strerror or error}. Remedy: name a readable file of PEM "
            "certificates."
        ) from None


def build_connection_error(host: str, error: Exception) -> DeliveryError:
    """Build the error of a failed connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return DeliveryError(
            f"the certificate of {host} is not trusted ({error.verify_message.rstrip('.')}); nothing was sent. Remedy: "
            "name the authority that signed it in ca_file, and the host as the certificate does."
        )
    return DeliveryError(f"{host} does not answer: {error or type(error).__name__}")
