"""What the MQTT channel publishes of the stored readings."""

from __future__ import annotations

from typing import Any

import pytest

from crowdperf.settings.alerts import Alerts, MqttChannel
from crowdperf.settings.site import Site
from crowdperf.settings.worker_config import NotifiedCamera, NotifyConfig
from crowdperf.workers.notify.mqtt import MqttSender

CAMERA = NotifiedCamera(camera_id="lobby", title="Lobby", lines={}, zones={"hall": "Hall"}, limits={})
CONFIG = NotifyConfig(
    site=Site(), alerts=Alerts(), cameras=(CAMERA,), instance=0, instances=1, redis_url="", key_prefix=""
)


class Readings:
    """A Redis that holds a reading with a broken name before a sound one."""

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return dict.fromkeys((b"lobby", b"\xff/zone/hall/occupancy", b"lobby/zone/hall/occupancy"), b"3")


def test_a_malformed_reading_does_not_stop_those_after_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    published: dict[str, bytes] = {}

    def publish(topic: str, payload: bytes, retain: bool) -> None:
        published[topic] = payload

    client: Any = Readings()
    sender = MqttSender(MqttChannel(id="house", host="broker.example"), CONFIG, client)
    monkeypatch.setattr(sender, "_publish", publish)
    monkeypatch.setattr(sender, "_connect", lambda: None)
    for _ in range(2):
        sender.poll()
    assert published == {"crowdperf/lobby/zone/hall/occupancy": b"3"}
    assert len([record for record in caplog.records if "cannot be published" in record.message]) == 2
