"""Webhook, mail and MQTT over TLS: only servers of the own authority get a message."""

from __future__ import annotations

import ssl
import zoneinfo
from pathlib import Path
from typing import Any

import pytest

from crowdperf.settings.alerts import EmailChannel, MqttChannel, WebhookChannel
from crowdperf.workers.notify.delivery import ChannelNotReadyError, DeliveryError
from crowdperf.workers.notify.mail import MailSender
from crowdperf.workers.notify.mqtt import MqttSender
from crowdperf.workers.notify.webhook import WebhookSender
from tests.conftest import RedisServer, wait_until
from tests.support.alerting import NOTIFICATION, NOW, make_config
from tests.support.receivers import Broker, broker, hook, mailbox
from tests.support.webserver import certify

NOT_TRUSTED = r"the certificate of [\w.]+ is not trusted \(.*\); nothing was sent\. Remedy"


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
        with pytest.raises(DeliveryError, match=NOT_TRUSTED):
            sender.send(NOTIFICATION, NOW)
        assert receiver.requests == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("trusted", [True, False])
def test_mail(certificate: tuple[Path, Path], trusted: bool, security: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "right")
    with mailbox("right", server_side(certificate), at_once=security == "tls") as box:
        channel = EmailChannel(
            id="office",
            host="localhost",
            port=box.port,
            security=security,
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
        with pytest.raises(DeliveryError, match=NOT_TRUSTED):
            sender.send(NOTIFICATION, NOW)
        assert box.letters == []


def mqtt_sender(broker: Broker, server: RedisServer, **more: Any) -> MqttSender:
    channel = MqttChannel(
        id="house", port=broker.port, user="crowdperf", password_env="BROKER_PASSWORD", timeout_s=5, **more
    )
    return MqttSender(channel, make_config({}), server.client())


def test_mqtt(
    certificate: tuple[Path, Path], redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"tls": True, "ca_file": str(certificate[0])}
    with broker(tmp_path, certificate, "right") as outside:
        monkeypatch.setenv("BROKER_PASSWORD", "right")
        # Another name than the certificate's, an authority that nobody trusts, no TLS where it is asked for.
        for host, how in (("127.0.0.1", own), ("localhost", {"tls": True})):
            sender = mqtt_sender(outside, redis_server, host=host, **how)
            with pytest.raises(DeliveryError, match=NOT_TRUSTED):
                sender.send(NOTIFICATION, NOW)
        with pytest.raises(DeliveryError, match="the broker at localhost did not accept the message"):
            mqtt_sender(outside, redis_server, host="localhost").send(NOTIFICATION, NOW)
        monkeypatch.setenv("BROKER_PASSWORD", "wr0ng")
        with pytest.raises(
            DeliveryError, match=r"localhost did not accept the message: Not authorized \(user, password\)"
        ) as no:
            mqtt_sender(outside, redis_server, host="localhost", **own).send(NOTIFICATION, NOW)
        assert "wr0ng" not in str(no.value)
        assert outside.topics == {}
        monkeypatch.setenv("BROKER_PASSWORD", "right")
        sender = mqtt_sender(outside, redis_server, host="localhost", **own)
        sender.send(NOTIFICATION, NOW)
        wait_until(lambda: "crowdperf/alerts/crowd" in outside.topics, what="the alert")
        sender.close()


def test_a_missing_file_of_certificates_makes_notifications_wait(
    certificate: tuple[Path, Path], redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "right")
    with broker(tmp_path, certificate) as outside:
        sender = mqtt_sender(outside, redis_server, host="localhost", tls=True, ca_file=str(tmp_path / "none.pem"))
        with pytest.raises(ChannelNotReadyError, match=r"none\.pem cannot be used: No such file or directory\. Remedy"):
            sender.send(NOTIFICATION, NOW)
