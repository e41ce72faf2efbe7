"""The notify worker with a real Redis and real receivers."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crowdperf.messaging.dead_letter_queue import DeadLetterStore
from crowdperf.messaging.delivery_queue import DeliveryQueue, stage_item
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AlertChanged, AlertRaised, Event
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.alerts import Channel, EmailChannel, MqttChannel, WebhookChannel
from crowdperf.storage.alerts import index_key
from crowdperf.web.live.counts import decode_event
from crowdperf.workers.notify.delivery import ChannelDelivery, DeliveryError, Sender
from crowdperf.workers.notify.logic import Notification
from crowdperf.workers.notify.mail import MailSender
from crowdperf.workers.notify.mqtt import MqttSender, readings_key, stage_reading
from crowdperf.workers.notify.mqtt_state import ReadingsRemoved
from crowdperf.workers.notify.process import ChannelDeliveries, main
from crowdperf.workers.notify.webhook import WebhookSender
from tests.conftest import RedisServer, wait_until
from tests.support.alerting import NOTIFICATION, NOW, crossing, make_config, zone
from tests.support.ports import free_port
from tests.support.receivers import Hook, broker, hook, mailbox

CROWD = {"id": "crowd", "name": "Too many", "event": "ZoneChanged", "channels": ["hook"], "dedupe_s": 0}


@contextlib.contextmanager
def running(
    server: RedisServer, alerts: dict[str, Any], instance: int = 0, instances: int = 1
) -> Iterator[ProcessRuntime]:
    """The worker's own main, in a thread."""
    runtime = ProcessRuntime(f"worker-notify-{instance}", 0)
    config = make_config({"max_age_s": 86_400, **alerts}, server.url, instance, instances)
    thread = threading.Thread(target=main, args=(config, runtime), daemon=True)
    thread.start()
    try:
        yield runtime
    finally:
        runtime.stop()
        thread.join(60)
        assert not thread.is_alive()


def publish(server: RedisServer, *events: Event) -> None:
    publisher: Publisher[Event] = Publisher(server.client(), EVENTS)
    for event in events:
        publisher.publish(event)


def now() -> float:
    return time.time()


def webhook(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "webhook", "id": "hook", "url": url, "timeout_s": 5, **more}


def read_events(server: RedisServer) -> list[Event]:
    events = [decode_event(fields) for _, fields in server.client().xrange("crowdperf:events")]
    return [event for event in events if isinstance(event, (AlertRaised, AlertChanged))]


def test_a_webhook_is_signed_and_comes_once(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "s3cret-key")
    with hook() as receiver:
        channel = webhook(receiver.url, secret_env="HOOK_SECRET")
        alerts = {"rules": [CROWD], "channels": [channel], "allow_private": ["127.0.0.0/8"]}
        with running(redis_server, alerts) as runtime:
            publish(redis_server, zone(1, 5, now()))
            wait_until(lambda: receiver.requests, what="the webhook")
            wait_until(lambda: runtime.metrics.get_counter("notifications_sent", "hook"), what="the receipt")
            publish(redis_server, zone(2, 6, now()), zone(3, 1, now()))
            wait_until(lambda: [event for event in read_events(redis_server) if isinstance(event, AlertChanged)])
    ((path, headers, body),) = receiver.requests
    assert path == "/hook"
    stamp = headers["X-Crowdperf-Timestamp"]
    expected = hmac.new(b"s3cret-key", stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Crowdperf-Signature"] == f"sha256={expected}"
    message = json.loads(body)
    assert message["alert"]["detail"] == "Plaza: 5 in Square, more than 4"
    assert headers["X-Crowdperf-Id"] == message["id"]
    assert b"s3cret-key" not in body
    stored = redis_server.client().hgetall(f"crowdperf:alert:{message['alert']['id']}")
    assert stored[b"state"] == b"closed"
    assert redis_server.client().zcard(index_key()) == 1


def test_nothing_reaches_this_machine_unless_it_is_allowed(redis_server: RedisServer) -> None:
    with hook() as receiver, running(redis_server, {"rules": [CROWD], "channels": [webhook(receiver.url)]}) as runtime:
        publish(redis_server, zone(1, 5, now()))
        wait_until(lambda: runtime.metrics.get_counter("notifications_failed", "hook"), what="the refusal")
        problem = runtime.metrics.snapshot("x", 0).texts["channel_problem"]["hook"]
    assert "allow_private" in problem
    assert receiver.requests == []


def test_dead_endpoint_blocks_no_other_and_restart_loses_nothing(redis_server: RedisServer) -> None:
    port = free_port()
    dead = {**webhook(f"http://127.0.0.1:{port}/"), "id": "dead"}
    rule = {**CROWD, "channels": ["dead", "hook"]}
    with hook() as receiver:
        alerts = {
            "rules": [rule],
            "channels": [dead, webhook(receiver.url)],
            "allow_private": ["127.0.0.1/32"],
        }
        with running(redis_server, alerts):
            publish(redis_server, zone(1, 5, now()), zone(2, 1, now()), zone(3, 5, now() + 1))
            wait_until(lambda: len(receiver.requests) == 2, what="the living endpoint")
        client = redis_server.client()
        assert len(DeliveryQueue(client, "dead")) == 2
        with hook() as revived:
            alerts["channels"] = [{**dead, "url": revived.url}, webhook(receiver.url)]
            with running(redis_server, alerts):
                wait_until(lambda: len(revived.requests) == 2, what="what was waiting")
        ids = [json.loads(body)["id"] for _, _, body in revived.requests]
        assert sorted(ids) == sorted(json.loads(body)["id"] for _, _, body in receiver.requests)
        assert len(receiver.requests) == 2


def queued(server: RedisServer, receiver: Hook, **more: Any) -> tuple[ChannelDelivery, Metrics]:
    """A delivery with one notification waiting, driven by hand."""
    alerts = {"rules": [CROWD], "channels": [webhook(receiver.url)], "allow_private": ["127.0.0.0/8"]}
    with running(server, {**alerts, "channels": [webhook(f"http://127.0.0.1:{free_port()}/")]}):
        publish(server, zone(1, 5, now()))
        queue = DeliveryQueue(server.client(), "hook")
        wait_until(lambda: len(queue) == 1, what="the notification")
    server.client().delete("crowdperf:notify:attempts:hook")
    metrics = Metrics()
    channel = WebhookChannel(id="hook", url=receiver.url, **more)
    return ChannelDelivery(channel, queue, WebhookSender(channel, ["127.0.0.0/8"]), metrics), metrics


def test_failures_are_retried_put_aside_and_redriven(
    redis_server: RedisServer,
) -> None:
    with hook() as receiver:
        delivery, metrics = queued(redis_server, receiver, attempts=3)
        receiver.answers = [(500, {}), (429, {"Retry-After": "7"}), (503, {})]
        t = now() + 1000
        assert delivery.step(t)
        assert not delivery.step(t + 0.9), "the pause after the first failure is a second"
        assert delivery.step(t + 1.1)
        assert not delivery.step(t + 8), "the endpoint asked for seven seconds"
        assert delivery.step(t + 8.2)
        assert [len(receiver.requests), metrics.get_counter("channel_dead_letters", "hook")] == [3, 1]
        assert len({headers["X-Crowdperf-Id"] for _, headers, _ in receiver.requests}) == 1
        dead = DeadLetterStore(redis_server.client())
        assert [(box.name, box.count) for box in dead.list_queues()] == [("notify:hook", 1)]
        assert "503" in dead.get_letters("notify:hook")[0].reason
        assert dead.redrive("notify:hook") == 1
        assert delivery.step(t + 400)
        assert len(receiver.requests) == 4
        assert dead.list_queues() == []
        assert not delivery.step(t + 500)


@pytest.mark.parametrize(("status", "headers"), [(302, {"Location": "http://127.0.0.1/elsewhere"}), (404, {})])
def test_redirects_are_not_followed_and_refusals_not_repeated(
    redis_server: RedisServer, status: int, headers: dict[str, str]
) -> None:
    with hook() as receiver:
        delivery, _ = queued(redis_server, receiver)
        receiver.answers = [(status, headers)]
        delivery.step(now() + 1000)
        assert len(receiver.requests) == 1
        assert str(status) in DeadLetterStore(redis_server.client()).get_letters("notify:hook")[0].reason


def test_an_umlaut_in_the_path_is_escaped(redis_server: RedisServer) -> None:
    with hook() as receiver:
        delivery, _ = queued(redis_server, receiver)
        delivery = make_delivery(
            redis_server, WebhookChannel(id="hook", url=f"{receiver.url}/T%C3%BCr/Tür?t=ü"), Metrics()
        )
        assert delivery.step(now() + 1000)
        assert [path for path, _, _ in receiver.requests] == ["/hook/T%C3%BCr/T%C3%BCr?t=%C3%BC"]


def make_delivery(server: RedisServer, channel: Channel, metrics: Metrics) -> ChannelDelivery:
    """A delivery whose sender is the one that the worker itself creates for the channel."""
    config = make_config({"allow_private": ["127.0.0.0/8"]}, server.url)
    sender = ChannelDeliveries(config, ProcessRuntime("worker-notify-0", 0)).create_sender(channel)
    return ChannelDelivery(channel, DeliveryQueue(server.client(), channel.id), sender, metrics)


@pytest.mark.parametrize("leap", [10 * 365 * 86_400.0])
def test_what_waits_is_sent_after_a_clock_that_was_ahead(redis_server: RedisServer, leap: float) -> None:
    class Refusing(Sender):
        refuses = True

        def send(self, notification: Notification, now: float) -> None:
            if self.refuses:
                raise DeliveryError("the endpoint does not answer")

    sender, channel = Refusing(), WebhookChannel(id="hook", url="http://127.0.0.1/")
    queue = DeliveryQueue(redis_server.client(), "hook")
    delivery = ChannelDelivery(channel, queue, sender, Metrics())
    stage_item(redis_server.client(), "hook", "crowd:1:0", msgspec.json.encode(NOTIFICATION), NOW)
    assert delivery.step(NOW + leap)
    sender.refuses = False
    assert not delivery.step(NOW + leap), "it pauses"
    assert delivery.step(NOW + 60.0)
    assert len(queue) == 0


REFUSED_BY_LIBRARY: dict[type[Sender], Channel] = {
    WebhookSender: WebhookChannel(id="bad", url="http://127.0.0.1/", secret_env="HOOK_SECRET", attempts=2),
    MailSender: EmailChannel(id="bad", host="127.0.0.1", sender=".a@b.example", to=["c@d.example"], attempts=2),
    MqttSender: MqttChannel(id="bad", host="127.0.0.1", user="u", password_env="HOOK_SECRET", attempts=2),
}
"""A channel for each sender that raises an error which the sender itself does not expect."""


@pytest.mark.parametrize("kind", Sender.__subclasses__())
def test_what_a_library_refuses_is_a_failed_attempt(
    redis_server: RedisServer, kind: type[Sender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "\udcfc")
    metrics = Metrics()
    delivery = make_delivery(redis_server, REFUSED_BY_LIBRARY[kind], metrics)
    client = redis_server.client()
    for number in (1, 2):
        stage_item(client, "bad", f"crowd:{number}:0", msgspec.json.encode(NOTIFICATION), now())
    t = now()
    for _ in range(20):
        t += 40
        delivery.step(t)
    letters = DeadLetterStore(client).get_letters("notify:bad")
    assert len(letters) == 2
    assert all("attempt 2" in letter.reason and "Remedy" in letter.reason for letter in letters)
    assert "\udcfc" not in metrics.snapshot("x", 0).texts["channel_problem"]["bad"]


def test_a_sender_whose_poll_fails_still_delivers(redis_server: RedisServer) -> None:
    class Poll(Sender):
        polls = 0

        def send(self, notification: Notification, now: float) -> None:
            pass

        def poll(self) -> None:
            self.polls += 1
            raise ValueError("a number that the library refuses")

    sender, metrics = Poll(), Metrics()
    channel = WebhookChannel(id="hook", url="http://127.0.0.1/")
    delivery = ChannelDelivery(channel, DeliveryQueue(redis_server.client(), "hook"), sender, metrics)
    stage_item(redis_server.client(), "hook", "crowd:1:0", msgspec.json.encode(NOTIFICATION), NOW)
    assert delivery.step(NOW)
    assert not delivery.step(NOW + 1)
    assert [sender.polls, metrics.get_counter("notifications_sent", "hook")] == [1, 1]


def test_the_channels_rate_limit_makes_wait_not_lose(redis_server: RedisServer) -> None:
    with hook() as receiver:
        delivery, _ = queued(redis_server, receiver, max_per_minute=1)
        t = now() + 1000
        assert delivery.step(t)
        redis_server.client().hset("crowdperf:notify:items:hook", "second", receiver.requests[0][2])
        redis_server.client().zadd("crowdperf:notify:due:hook", {"second": t})
        assert not delivery.step(t + 59)
        assert delivery.step(t + 61)


def test_a_missing_secret_makes_wait_and_names_the_variable(redis_server: RedisServer) -> None:
    with hook() as receiver:
        delivery, metrics = queued(redis_server, receiver, secret_env="NOT_SET_ANYWHERE")
        delivery.step(now() + 1000)
        assert "NOT_SET_ANYWHERE" in metrics.snapshot("x", 0).texts["channel_problem"]["hook"]
        assert receiver.requests == []
        assert len(DeliveryQueue(redis_server.client(), "hook")) == 1


@pytest.mark.parametrize("password", ["right", "wrong"])
def test_mail(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", password)
    with mailbox("right") as box:
        channel = {
            "type": "email",
            "id": "hook",
            "host": "127.0.0.1",
            "port": box.port,
            "security": "none",
            "sender": "crowdperf@site.example",
            "to": ["guard@site.example"],
            "user": "crowdperf",
            "password_env": "MAIL_PASSWORD",
        }
        rule = {**CROWD, "name": "Too\nmany"}
        with running(redis_server, {"rules": [rule], "channels": [channel]}) as runtime:
            publish(redis_server, zone(1, 5, now()))
            if password == "wrong":
                wait_until(lambda: runtime.metrics.get_counter("notifications_failed", "hook"), what="the refusal")
                assert "wrong" not in str(runtime.metrics.snapshot("x", 0).texts)
                assert box.letters == []
                return
            wait_until(lambda: box.letters, what="the mail")
    letter = box.letters[0]
    assert letter["Subject"] == "[warning] Too many: Plaza"
    assert letter["From"] == "Riverside <crowdperf@site.example>"
    assert "5 in Square" in str(letter.get_payload())


def test_mqtt_alerts_readings_and_discovery_outlive_the_broker(redis_server: RedisServer, tmp_path: Path) -> None:
    with broker(tmp_path) as outside:
        channel = {"type": "mqtt", "id": "hook", "host": "127.0.0.1", "port": outside.port, "timeout_s": 5}
        with running(redis_server, {"rules": [CROWD], "channels": [channel]}):
            publish(redis_server, zone(1, 5, now()), crossing(2, now()))
            discovery = "homeassistant/sensor/crowdperf_crowdperf_plaza_zone_square_occupancy/config"
            wait_until(lambda: {"crowdperf/alerts/crowd", discovery} <= outside.topics.keys(), what="the alert")
            wait_until(lambda: outside.topics.get("crowdperf/plaza/line/door/in") == b"1", what="the count")
            wait_until(lambda: outside.topics.get("crowdperf/plaza/zone/square/occupancy") == b"5", what="occupancy")
            wait_until(lambda: outside.topics.get("crowdperf/status") == b"online", what="the greeting")
            found = json.loads(outside.topics[discovery])
            assert found["state_topic"] == "crowdperf/plaza/zone/square/occupancy"
            assert found["device"]["name"] == "Riverside Plaza"
            outside.kill()
            outside.topics.clear()
            publish(redis_server, zone(3, 2, now()), crossing(4, now()))
            outside.start()
            wait_until(lambda: outside.topics.get("crowdperf/plaza/line/door/in") == b"2", 40, "the new count")
            wait_until(lambda: outside.topics.get("crowdperf/plaza/zone/square/occupancy") == b"2", what="occupancy")
        wait_until(lambda: outside.topics.get("crowdperf/status") == b"offline", what="the farewell")
        # A camera and a line that have left the configuration since: their retained numbers and descriptions go.
        client, stored = redis_server.client(), readings_key()
        client.hset(stored, mapping={"plaza/line/old/in": "3", "yard/zone/hall/occupancy": "2"})
        described = "homeassistant/sensor/crowdperf_crowdperf_yard_zone_hall_occupancy/config"
        outside.topics.update({described: b"{}", "crowdperf/plaza/line/old/in": b"3"})
        with running(redis_server, {"rules": [CROWD], "channels": [channel]}):
            wait_until(lambda: outside.topics.get("crowdperf/plaza/line/old/in") == b"", what="the line's end")
            wait_until(lambda: outside.topics.get(described) == b"", what="the camera's end")
            assert outside.topics["crowdperf/plaza/line/door/in"] == b"2"
        stage_reading(client, ReadingsRemoved("yard"), client)
        assert sorted(client.hkeys(stored)) == [
            *(b"plaza/line/door/in", b"plaza/line/old/in", b"plaza/zone/square/occupancy")
        ]


def test_two_instances_alert_and_notify_like_one(redis_server: RedisServer) -> None:
    begin = now()
    events = [
        zone(n, 5 if n % 2 else 1, begin + n / 100, camera) for n in range(1, 9) for camera in ("plaza", "gate", "yard")
    ]
    rule = {**CROWD, "above": 4}
    outcomes = []
    for instances in (1, 2):
        redis_server.client().flushall()
        with hook() as receiver:
            alerts = {"rules": [rule], "channels": [webhook(receiver.url)], "allow_private": ["127.0.0.0/8"]}
            with contextlib.ExitStack() as stack:
                for n in range(instances):
                    stack.enter_context(running(redis_server, alerts, n, instances))
                publish(redis_server, *events)
                wait_until(lambda: len(read_events(redis_server)) == 24, what="all alerts, raised and closed")
                wait_until(lambda: len(receiver.requests) >= 12, what="all notifications")
                wait_until(lambda: len(DeliveryQueue(redis_server.client(), "hook")) == 0, what="an empty queue")
            sent = sorted(json.loads(body)["id"] for _, _, body in receiver.requests)
            assert len(set(sent)) == len(sent)
        outcomes.append(sorted(event.id for event in read_events(redis_server)))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 24
