"""The typed streams against a real Redis."""

from __future__ import annotations

import msgspec
import pytest

from crowdperf.messaging import consumer as bus
from crowdperf.messaging.consumer import MAX_DELIVERIES, Consumer, PositionConsumer
from crowdperf.messaging.outbox import Outbox
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AnyEvent, FrameDetections, LineCrossed
from crowdperf.messaging.streams import DETECTIONS, EVENTS, stream_key
from tests.conftest import RedisServer
from tests.support.stub_bus import StubBus


def crossing(n: int) -> LineCrossed:
    return LineCrossed(
        id=f"lobby:1:{n}:door:in:0",
        camera="lobby",
        ts=1_700_000_000.123456 + n,
        line="door",
        direction="in",
        class_name="person",
        track=n,
        epoch=1,
        sequence=n,
    )


def detections(epoch: int, sequence: int) -> FrameDetections:
    return FrameDetections("lobby", epoch, sequence, 5, b"", b"", b"", 64, 36)


def consumer(server: RedisServer) -> Consumer[AnyEvent]:
    reader: Consumer[AnyEvent] = Consumer(server.client(), EVENTS, "recorder", "recorder-0")
    reader.start()
    return reader


def test_events_arrive_typed_in_order_and_once(redis_server: RedisServer) -> None:
    publisher: Publisher[AnyEvent] = Publisher(redis_server.client(), EVENTS)
    sent = [crossing(n) for n in range(5)]
    for event in sent:
        publisher.publish(event)
    reader = consumer(redis_server)
    first = reader.read(count=3)
    second = reader.read(count=3)
    assert [entry.message for entry in first + second] == sent
    reader.ack(first + second)
    assert consumer(redis_server).read(block_ms=10) == []


def test_an_event_is_readable_in_redis_cli(redis_server: RedisServer) -> None:
    Publisher(redis_server.client(), EVENTS).publish(crossing(1))
    fields = redis_server.client().xrange("crowdperf:events")[0][1]
    assert fields[b"type"] == b"LineCrossed"
    assert fields[b"line"] == b"door"
    assert fields[b"ts"] == b"1700000001.123456"


def test_a_restarted_consumer_gets_what_it_never_acknowledged(redis_server: RedisServer) -> None:
    publisher: Publisher[AnyEvent] = Publisher(redis_server.client(), EVENTS)
    for n in range(6):
        publisher.publish(crossing(n))
    reader = consumer(redis_server)
    entries = reader.read(count=4)
    reader.ack(entries[:2])
    again = consumer(redis_server)
    seen = [entry.message.id for entry in again.read(count=10)] + [entry.message.id for entry in again.read(count=10)]
    assert seen == [crossing(n).id for n in range(2, 6)]


def test_undecodable_entry_is_dead_letter_and_reading_goes_on(redis_server: RedisServer) -> None:
    client = redis_server.client()
    client.xadd("crowdperf:events", {"type": "LineCrossed", "id": "broken"})
    Publisher(client, EVENTS).publish(crossing(1))
    reader = consumer(redis_server)
    assert [entry.message for entry in reader.read()] == [crossing(1)]
    assert reader.dead_letters == 1
    assert client.xrange("crowdperf:dead:events:recorder")[0][1][b"id"] == b"broken"


def test_entry_that_kills_its_reader_becomes_a_dead_letter(redis_server: RedisServer) -> None:
    Publisher(redis_server.client(), EVENTS).publish(crossing(1))
    reads = 0
    while (entries := consumer(redis_server).read(block_ms=10)) and reads < 20:
        reads += 1
        assert entries[0].message == crossing(1)
    assert reads == MAX_DELIVERIES
    assert redis_server.client().xlen("crowdperf:dead:events:recorder") == 1


def test_an_outage_of_any_length_is_no_delivery(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for n in range(4):
        Publisher(client, EVENTS).publish(crossing(n))
    reader = consumer(redis_server)
    for _ in range(3 * MAX_DELIVERIES):
        # Redis refuses the effects of the batch, for instance without memory.
        assert [entry.message for entry in reader.read(block_ms=10)] == [crossing(n) for n in range(4)]
        reader.start()
    again = consumer(redis_server)
    assert len(again.read(block_ms=10)) == 4
    assert client.exists("crowdperf:dead:events:recorder") == 0


def test_only_the_entry_that_fails_alone_is_poison(redis_server: RedisServer) -> None:
    client = redis_server.client()
    for n in range(5):
        Publisher(client, EVENTS).publish(crossing(n))
    handled = []
    for _ in range(20):
        reader = consumer(redis_server)
        while entries := reader.read(block_ms=10):
            if crossing(2) in [entry.message for entry in entries]:
                # It ends the process.
                break
            handled += [entry.message for entry in entries]
            reader.ack(entries)
    assert handled == [crossing(n) for n in (0, 1, 3, 4)]
    assert [fields[b"id"].decode() for _, fields in client.xrange("crowdperf:dead:events:recorder")] == [crossing(2).id]


@pytest.mark.parametrize("busy", [True, False])
def test_a_reader_by_position_creates_lost_groups_at_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """The group of one camera is lost, also while another camera keeps the reader busy."""
    monkeypatch.setattr(bus, "GROUPS_INTERVAL_S", 0.0)
    client = redis_server.client()
    reader: PositionConsumer[FrameDetections] = PositionConsumer(client, DETECTIONS, "g", ("lobby", "gate"))
    reader.start()
    client.config_set("maxmemory", 1)
    assert reader.read(10, block_ms=1) == [], "a full server is no reason to stop reading"
    client.config_set("maxmemory", 0)
    if busy:
        client.xadd(stream_key(DETECTIONS, "lobby"), {"n": 1})
    client.xgroup_destroy(stream_key(DETECTIONS, "gate"), "g")
    assert len(reader.read(10, block_ms=1)) == busy
    assert [row["name"] for row in client.xinfo_groups(stream_key(DETECTIONS, "gate"))] == [b"g"]


def test_detections_sent_twice_are_stored_once(redis_server: RedisServer) -> None:
    for _ in range(2):
        outbox = Outbox(redis_server.client())
        for sequence in (1, 2):
            outbox.put(detections(9, sequence))
        assert outbox.flush(0.0) == 2
    assert [row[0] for row in redis_server.client().xrange(stream_key(DETECTIONS, "lobby"))] == [b"9-1", b"9-2"]


def test_detections_wait_while_redis_is_away(redis_server: RedisServer) -> None:
    outbox = Outbox(redis_server.client(), max_messages=3)
    redis_server.kill()
    for sequence in range(1, 6):
        outbox.put(detections(9, sequence))
        assert outbox.flush(float(sequence)) == 0
    redis_server.start()
    assert outbox.flush(100.0) == 3
    assert outbox.lost == 2
    assert [row[0] for row in redis_server.client().xrange(stream_key(DETECTIONS, "lobby"))] == [b"9-3", b"9-4", b"9-5"]


def test_an_older_epoch_is_accepted_and_not_silently_lost(redis_server: RedisServer) -> None:
    outbox = Outbox(redis_server.client())
    outbox.put(detections(9, 7))
    outbox.flush(0.0)
    outbox.put(detections(8, 1))
    assert outbox.flush(1.0) == 1
    assert [row[0] for row in redis_server.client().xrange(stream_key(DETECTIONS, "lobby"))] == [b"8-1"]


@pytest.mark.parametrize("stream", [EVENTS, DETECTIONS])
def test_the_stub_bus_redelivers_like_redis(stream: object) -> None:
    message: msgspec.Struct = crossing(1) if stream is EVENTS else detections(1, 1)
    bus: StubBus[msgspec.Struct] = StubBus(stream)  # type: ignore[arg-type]
    bus.publish(message)
    bus.publish(message)
    first = bus.read()
    bus.ack(first[:1])
    bus.restart()
    assert [entry.message for entry in bus.read()] == [message]
