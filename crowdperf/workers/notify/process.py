"""worker-notify: applies the alert rules to the event stream, and alone sends notifications."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.messaging.delivery_queue import DeliveryQueue, stage_item
from crowdperf.messaging.redis.client import connect
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.alerts import Channel, EmailChannel, WebhookChannel
from crowdperf.settings.process_config import get_shard
from crowdperf.settings.worker_config import NotifyConfig
from crowdperf.storage import alerts
from crowdperf.workers.notify.delivery import ChannelDelivery, DeliveryThread, Sender
from crowdperf.workers.notify.logic import AlertLogic, Notification
from crowdperf.workers.notify.mail import MailSender
from crowdperf.workers.notify.mqtt import MqttSender, stage_reading
from crowdperf.workers.notify.mqtt_state import Reading, ReadingsRemoved
from crowdperf.workers.notify.webhook import WebhookSender
from crowdperf.workers.sharded_consumer import ShardedConsumer, run_worker

WORKER = "notify"
STOP_S = 3.0


def main(config: NotifyConfig, runtime: ProcessRuntime) -> None:
    """Run until a stop is requested."""
    prefix = config.key_prefix
    client: Any = connect(config.redis_url)

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, Notification):
            stage_item(pipe, effect.channel, effect.id, msgspec.json.encode(effect), effect.due, prefix)
        elif isinstance(effect, alerts.AlertUpdate):
            alerts.stage(pipe, effect, prefix)
        elif isinstance(effect, (Reading, ReadingsRemoved)):
            stage_reading(pipe, effect, client, prefix)

    endpoints = ChannelDeliveries(config, runtime)

    def assign(consumer: ShardedConsumer) -> None:
        endpoints.assign(consumer.shards)

    def load() -> Iterator[alerts.AlertView]:
        return (view for view in alerts.DOCUMENTS.iter_views(client, prefix) if view.state != "closed")

    logic, end = AlertLogic(config), endpoints.stop
    run_worker(WORKER, logic, config, runtime, client, stage, after_step=assign, at_end=end, load_documents=load)


class ChannelDeliveries:
    """The delivery threads of the channels in this instance's shards."""

    def __init__(self, config: NotifyConfig, runtime: ProcessRuntime) -> None:
        self._config = config
        self._runtime = runtime
        self._threads: dict[str, DeliveryThread] = {}

    def assign(self, shards: set[int]) -> None:
        """Start and stop threads as shards come and go.

        Raises:
            RuntimeError: a thread has crashed; its traceback is in the log.
        """
        for channel in self._config.alerts.channels:
            mine = get_shard(channel.id, self._config.instances) in shards
            if mine and channel.id not in self._threads:
                queue = DeliveryQueue(connect(self._config.redis_url), channel.id, self._config.key_prefix)
                delivery = ChannelDelivery(channel, queue, self.create_sender(channel), self._runtime.metrics)
                self._threads[channel.id] = DeliveryThread(delivery)
            elif not mine and channel.id in self._threads:
                self._threads.pop(channel.id).stop()
        for name, thread in self._threads.items():
            if thread.has_crashed:
                raise RuntimeError(f"the delivery of channel {name} has ended")

    def stop(self) -> None:
        """Stop all threads; present deliveries may finish."""
        for thread in self._threads.values():
            thread.stop()
        for thread in self._threads.values():
            thread.join(STOP_S)

    def create_sender(self, channel: Channel) -> Sender:
        """Create the transport of a channel."""
        if isinstance(channel, WebhookChannel):
            return WebhookSender(channel, self._config.alerts.allow_private)
        client = connect(self._config.redis_url)
        if isinstance(channel, EmailChannel):
            return MailSender(channel, zoneinfo.ZoneInfo(self._config.site.timezone), client, self._config.key_prefix)
        return MqttSender(channel, self._config, client)
