"""worker-notify: alert rules over the events stream, and the only sender to the outside."""

from __future__ import annotations

import time
import zoneinfo
from typing import Any

import msgspec
from msgspec import Struct

from crowdperf.events.connection import connect
from crowdperf.events.queue import DeliveryQueue, stage_item
from crowdperf.rule_slices import NotifySlice
from crowdperf.runtime import Runtime
from crowdperf.settings.alerts import Channel, EmailChannel, WebhookChannel
from crowdperf.slices import shard_of
from crowdperf.storage import alerts
from crowdperf.workers.base import Member
from crowdperf.workers.leases import Leases
from crowdperf.workers.loop import work
from crowdperf.workers.notify.delivery import Delivery, DeliveryThread, Sender
from crowdperf.workers.notify.logic import AlertLogic, Notification
from crowdperf.workers.notify.mail import MailSender
from crowdperf.workers.notify.mqtt import MqttSender, stage_reading
from crowdperf.workers.notify.readings import Reading, ReadingsGone
from crowdperf.workers.notify.webhook import WebhookSender

WORKER = "notify"
STOP_S = 3.0


def main(slice_: NotifySlice, runtime: Runtime) -> None:
    """Work until told to stop."""
    prefix = slice_.key_prefix
    client: Any = connect(slice_.redis_url)

    def stage(pipe: Any, effect: Struct) -> None:
        if isinstance(effect, Notification):
            stage_item(pipe, effect.channel, effect.id, msgspec.json.encode(effect), effect.due, prefix)
        elif isinstance(effect, alerts.AlertSet):
            alerts.stage(pipe, effect, prefix)
        elif isinstance(effect, (Reading, ReadingsGone)):
            stage_reading(pipe, effect, client, prefix)

    leases = Leases(client, WORKER, slice_.instance, slice_.instances, runtime.name, prefix)
    member = Member(
        client, AlertLogic(slice_), leases, runtime.metrics, time.monotonic, time.time, stage=stage, prefix=prefix
    )
    endpoints = Endpoints(slice_, runtime)
    work(member, runtime, lambda: endpoints.assign(member.shares))
    endpoints.stop()
    member.stop()


class Endpoints:
    """The delivery threads of the channels that belong to this instance's shares."""

    def __init__(self, slice_: NotifySlice, runtime: Runtime) -> None:
        self._slice = slice_
        self._runtime = runtime
        self._threads: dict[str, DeliveryThread] = {}

    def assign(self, shares: set[int]) -> None:
        """Begin and end threads as shares come and go.

        Raises:
            RuntimeError: a thread has ended by a defect; its traceback is in the log.
        """
        for channel in self._slice.alerts.channels:
            mine = shard_of(channel.id, self._slice.instances) in shares
            if mine and channel.id not in self._threads:
                delivery = Delivery(channel, self._queue(channel), self._sender(channel), self._runtime.metrics)
                self._threads[channel.id] = DeliveryThread(delivery)
            elif not mine and channel.id in self._threads:
                self._threads.pop(channel.id).stop()
        for name, thread in self._threads.items():
            if thread.broken:
                raise RuntimeError(f"the delivery of channel {name} has ended")

    def stop(self) -> None:
        """The orderly end: what is under way may finish."""
        for thread in self._threads.values():
            thread.stop()
        for thread in self._threads.values():
            thread.join(STOP_S)

    def _queue(self, channel: Channel) -> DeliveryQueue:
        return DeliveryQueue(connect(self._slice.redis_url), channel.id, self._slice.key_prefix)

    def _sender(self, channel: Channel) -> Sender:
        if isinstance(channel, WebhookChannel):
            return WebhookSender(channel, self._slice.alerts.allow_private)
        client = connect(self._slice.redis_url)
        if isinstance(channel, EmailChannel):
            return MailSender(channel, zoneinfo.ZoneInfo(self._slice.site.timezone), client, self._slice.key_prefix)
        return MqttSender(channel, self._slice, client)
