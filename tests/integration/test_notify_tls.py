"""Webhook and mail over TLS: the own authority is trusted, anybody else is not told anything."""

from __future__ import annotations

import ssl
import zoneinfo
from pathlib import Path

import pytest

from crowdperf.settings.alerts import EmailChannel, WebhookChannel
from crowdperf.storage.alerts import AlertDoc
from crowdperf.workers.notify.delivery import UndeliveredError
from crowdperf.workers.notify.logic import Notification
from crowdperf.workers.notify.mail import MailSender
from crowdperf.workers.notify.webhook import WebhookSender
from tests.integration.test_web_live import certify
from tests.support.receivers import hook, mailbox

NOW = 1_795_600_000.0
ALERT = AlertDoc(
    id="crowd:1", rule="crowd", severity="warning", camera="plaza", subject="square", title="Too many",
    detail="Plaza: 5 in Square, more than 4", event="1", raised_at=NOW, last_at=NOW, count=1,
)  # fmt: skip
NOTIFICATION = Notification(
    id="crowd:1:0", channel="hook", due=NOW, stage=0, alert=ALERT, site="Riverside", camera_title="Plaza"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    return certify(tmp_path_factory.mktemp("tls"))


def server_side(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("trusted", [True, False])
def test_webhook(certificate: tuple[Path, Path], host: str, trusted: bool) -> None:
    with hook(server_side(certificate)) as receiver:
        ca_file = str(certificate[0]) if trusted else ""
        channel = WebhookChannel(id="hook", url=f"https://{host}:{receiver.port}/", timeout_s=5, ca_file=ca_file)
        sender = WebhookSender(channel, ["127.0.0.0/8", "::1/128"])
        if trusted and host == "localhost":
            sender.send(NOTIFICATION, NOW)
            assert len(receiver.requests) == 1
            assert receiver.requests[0][1]["Host"] == f"localhost:{receiver.port}"
            return
        # Another name than the certificate's, or an authority that nobody trusts.
        with pytest.raises(UndeliveredError, match="certificate verify failed"):
            sender.send(NOTIFICATION, NOW)
        assert receiver.requests == []


@pytest.mark.parametrize("trusted", [True, False])
def test_mail_by_starttls(certificate: tuple[Path, Path], trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "right")
    with mailbox("right", server_side(certificate)) as box:
        channel = EmailChannel(
            id="office",
            host="localhost",
            port=box.port,
            sender="crowdperf@site.example",
            to=["office@site.example"],
            user="crowdperf",
            password_env="MAIL_PASSWORD",
            ca_file=str(certificate[0]) if trusted else "",
        )
        sender = MailSender(channel, zoneinfo.ZoneInfo("Europe/Berlin"), None)
        if trusted:
            sender.send(NOTIFICATION, NOW)
            sender.send(NOTIFICATION, NOW)
            assert len(box.letters) == 2
            assert len({letter["Message-ID"] for letter in box.letters}) == 1
            return
        with pytest.raises(UndeliveredError, match="certificate verify failed"):
            sender.send(NOTIFICATION, NOW)
        assert box.letters == []
