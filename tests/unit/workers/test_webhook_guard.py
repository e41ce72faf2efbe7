"""Where webhooks may go."""

from __future__ import annotations

import http.client

import pytest

from crowdperf.settings.alerts import WebhookChannel
from crowdperf.workers.notify import webhook
from crowdperf.workers.notify.delivery import DeliveryError
from crowdperf.workers.notify.webhook import ForbiddenAddressError, is_permitted, resolve_target


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_what_is_no_public_address_is_refused(address: str) -> None:
    assert not is_permitted("hooks.example", address, [])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_public_addresses_are_admitted(address: str) -> None:
    assert is_permitted("hooks.example", address, [])


def test_the_allow_list_admits_networks_and_names() -> None:
    assert is_permitted("x", "10.1.2.3", ["10.1.2.0/24"])
    assert not is_permitted("x", "10.1.3.3", ["10.1.2.0/24"])
    assert is_permitted("Inner.Example", "10.1.2.3", ["inner.example"])
    assert is_permitted("x", "::ffff:10.1.2.3", ["10.1.2.0/24"])


def test_a_name_on_the_list_never_opens_the_metadata_service() -> None:
    assert not is_permitted("inner.example", "169.254.169.254", ["inner.example"])
    assert is_permitted("inner.example", "169.254.169.254", ["169.254.169.254/32"])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "[::1]"])
def test_spellings_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises((ForbiddenAddressError, OSError)):
        resolve_target(host, 80, [])


def test_the_refusal_names_the_remedy() -> None:
    with pytest.raises(ForbiddenAddressError, match="allow_private"):
        resolve_target("127.0.0.1", 80, [])


def test_a_server_that_answers_with_the_request_reveals_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def echo(_connection: object, method: str, path: str, *_rest: object) -> None:
        raise http.client.BadStatusLine(f"{method} {path} HTTP/1.1")

    monkeypatch.setattr(webhook._PinnedConnection, "request", echo)
    channel = WebhookChannel(id="hook", url="http://127.0.0.1/services/T0K3N Ümlaut?key=s3cret")
    with pytest.raises(DeliveryError) as raised:
        webhook.WebhookSender(channel, ["127.0.0.0/8"])._post(channel.url, b"", {})
    assert "127.0.0.1 does not answer" in str(raised.value)
    assert not [part for part in ("T0K3N", "mlaut", "s3cret", "services") if part in str(raised.value)]
