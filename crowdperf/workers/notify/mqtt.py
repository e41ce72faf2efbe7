"""Alerts, counts and occupancy to an MQTT broker, with discovery for Home Assistant."""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from crowdperf.settings.alerts import MqttChannel
from crowdperf.settings.worker_config import NotifyConfig
from crowdperf.workers.notify.delivery import ChannelNotReadyError, DeliveryError, Sender, load_secret
from crowdperf.workers.notify.logic import Notification
from crowdperf.workers.notify.mail import build_connection_error, create_tls_context
from crowdperf.workers.notify.mqtt_state import Reading, ReadingsRemoved

QOS = 1

log = logging.getLogger(__name__)


def readings_key(prefix: str = "") -> str:
    """Return the key of a hash: `<camera>/<zone|line>/<id>/<measure>` -> newest value."""
    return f"{prefix}crowdperf:notify:readings"


def stage_reading(pipe: Any, effect: Reading | ReadingsRemoved, client: Any, prefix: str = "") -> None:
    """Store a number, or remove those of a camera, in a transaction.

    Args:
        pipe: Redis pipeline of the transaction.
        effect: number to store, or camera to remove.
        client: Redis client, to list the numbers.
        prefix: prefix of every key.
    """
    if isinstance(effect, Reading):
        pipe.hset(readings_key(prefix), effect.path, effect.value)
        return
    for path in client.hkeys(readings_key(prefix)):
        if path.startswith(f"{effect.camera}/".encode()):
            pipe.hdel(readings_key(prefix), path)


class MqttSender(Sender):
    """Delivers to one broker and updates its retained numbers.

    Args:
        channel: settings of the channel.
        config: cameras, lines and zones to publish.
        client: Redis client.
    """

    def __init__(self, channel: MqttChannel, config: NotifyConfig, client: Any) -> None:
        self._channel = channel
        self._config = config
        self._redis = client
        self._mqtt: mqtt.Client | None = None
        self._published: dict[bytes, bytes] = {}
        self._refused: set[bytes] = set()
        """Readings that are logged as impossible to publish."""
        self._polls_until_retry = 0

    def send(self, notification: Notification, now: float) -> None:
        """Publish to `<topic>/alerts/<rule>` and wait for the broker's acknowledgement."""
        self._publish(
            f"{self._channel.topic}/alerts/{notification.alert.rule}", msgspec.json.encode(notification), retain=False
        )

    def poll(self) -> None:
        """Publish changed numbers. An unreachable broker is retried after some polls."""
        if self._polls_until_retry:
            self._polls_until_retry -= 1
            return
        try:
            for path, value in self._redis.hgetall(readings_key(self._config.key_prefix)).items():
                self._publish_reading(path, value)
            if self._mqtt is None:
                self._connect()
        except (DeliveryError, ChannelNotReadyError):
            self._polls_until_retry = 20

    def _publish_reading(self, path: bytes, value: bytes) -> None:
        """Publish a number that has changed. One that has no topic must not stop those after it."""
        try:
            # An empty message deletes a retained one: the camera, line or zone was removed.
            payload = value if self._is_configured(path.decode()) else b""
            if self._published.get(path) != payload:
                self._publish(f"{self._channel.topic}/{path.decode()}", payload, retain=True)
                if not payload and self._channel.discovery:
                    self._publish(_describe_sensor(self._channel, *path.decode().split("/", 1))[1], b"", retain=True)
                self._published[path] = payload
        except ValueError as error:
            if path not in self._refused:
                log.error("channel %s: the reading %r cannot be published: %s", self._channel.id, path, error)
            self._refused.add(path)

    def _is_configured(self, path: str) -> bool:
        """Return whether the line or zone of a number is configured."""
        camera, kind, name, _ = path.split("/")
        for camera_config in self._config.cameras:
            if camera_config.camera_id == camera:
                return name in (camera_config.lines if kind == "line" else camera_config.zones)
        return False

    def close(self) -> None:
        """Publish `offline` and disconnect."""
        if self._mqtt is not None:
            self._mqtt.publish(self._availability_topic, b"offline", QOS, retain=True)
            self._mqtt.disconnect()
            self._mqtt.loop_stop()
            self._mqtt = None

    @property
    def _availability_topic(self) -> str:
        return f"{self._channel.topic}/status"

    def _connect(self) -> mqtt.Client:
        """Return the connection. A new one publishes all retained messages again."""
        if self._mqtt is not None and self._mqtt.is_connected():
            return self._mqtt
        channel = self._channel
        password = load_secret(channel.password_env)
        if self._mqtt is not None:
            self._mqtt.loop_stop()
            self._mqtt = None
        self._published = {}
        # Unique per instance: a broker disconnects a client when another one uses the same name.
        name = f"crowdperf-{channel.id}-{self._config.instance}-{os.getpid()}"
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=False)
        client.connect_timeout = channel.timeout_s
        answered, refusals = threading.Event(), list[str]()

        def on_answer(_client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
            if code.is_failure:
                refusals.append(str(code))
            answered.set()

        client.on_connect = on_answer
        client.will_set(self._availability_topic, b"offline", QOS, retain=True)
        if channel.user:
            client.username_pw_set(channel.user, password or None)
        try:
            if channel.tls:
                client.tls_set_context(create_tls_context(channel.ca_file))
            client.connect(channel.host, channel.port)
            client.loop_start()
        except (OSError, ValueError) as error:
            raise build_connection_error(channel.host, error) from None
        self._mqtt = client
        if not answered.wait(channel.timeout_s):
            raise self._drop_connection("no answer")
        if refusals:
            raise self._drop_connection(f"{refusals[0]} (user, password)")
        self._wait_for_ack(client.publish(self._availability_topic, b"online", QOS, retain=True))
        for topic, payload in build_discovery(channel, self._config):
            self._wait_for_ack(client.publish(topic, payload, QOS, retain=True))
        return client

    def _publish(self, topic: str, payload: bytes, retain: bool) -> None:
        self._wait_for_ack(self._connect().publish(topic, payload, QOS, retain=retain))

    def _wait_for_ack(self, message: mqtt.MQTTMessageInfo) -> None:
        """Wait for the broker's PUBACK: what is only written to the socket may be lost."""
        try:
            message.wait_for_publish(self._channel.timeout_s)
        except (ValueError, RuntimeError) as error:
            raise self._drop_connection(str(error)) from None
        if not message.is_published():
            raise self._drop_connection("no acknowledgement")

    def _drop_connection(self, reason: str) -> DeliveryError:
        if self._mqtt is not None:
            self._mqtt.loop_stop()
            self._mqtt = None
        return DeliveryError(f"the broker at {self._channel.host} did not accept the message: {reason}")


def build_discovery(channel: MqttChannel, config: NotifyConfig) -> list[tuple[str, bytes]]:
    """Build the (topic, payload) pairs for Home Assistant: occupancy of zones, counts of lines."""
    if not channel.discovery:
        return []
    rows = []
    for camera in config.cameras:
        sensors = [
            (f"zone/{zone}/occupancy", f"{name} occupancy", "measurement") for zone, name in camera.zones.items()
        ]
        for line, name in camera.lines.items():
            sensors += [(f"line/{line}/{way}", f"{name} {way} today", "total_increasing") for way in ("in", "out")]
        for path, name, kind in sensors:
            unique, topic = _describe_sensor(channel, camera.camera_id, path)
            payload = {
                "name": name,
                "unique_id": unique,
                "state_topic": f"{channel.topic}/{camera.camera_id}/{path}",
                "state_class": kind,
                "unit_of_measurement": "people" if kind == "measurement" else "crossings",
                "availability_topic": f"{channel.topic}/status",
                "device": {
                    "identifiers": [f"crowdperf_{channel.topic}_{camera.camera_id}"],
                    "name": f"{config.site.name} {camera.title}",
                    "manufacturer": "crowdperf",
                },
            }
            rows.append((topic, msgspec.json.encode(payload)))
    return rows


def _describe_sensor(channel: MqttChannel, camera: str, path: str) -> tuple[str, str]:
    """Return the id of a number and its discovery topic; `path` excludes the camera."""
    unique = re.sub(r"[^a-z0-9_]", "_", f"crowdperf_{channel.topic}_{camera}_{path}".lower())
    return unique, f"{channel.discovery}/sensor/{unique}/config"
