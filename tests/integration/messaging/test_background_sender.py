"""Detections on their way from a thread of their own: nobody waits for Redis, and nothing is lost meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
import redis

from crowdperf.messaging.outbox import BackgroundSender
from crowdperf.messaging.streams import DETECTIONS, stream_key
from tests.conftest import RedisServer, wait_until
from tests.integration.messaging.test_bus import detections

LOBBY = stream_key(DETECTIONS, "lobby")


@pytest.fixture
def sender(redis_server: RedisServer) -> Iterator[BackgroundSender]:
    client = redis_server.client()
    # Far longer than any test waits: who waits for a frozen server is then late for sure.
    client.connection_pool.connection_kwargs["socket_timeout"] = 600.0
    made = BackgroundSender(client)
    yield made
    made.close()


def send(sender: BackgroundSender, *sequences: int) -> None:
    for sequence in sequences:
        sender.put(detections(9, sequence))
        sender.request_flush()


def test_frozen_redis_blocks_no_sender_and_keeps_order(sender: BackgroundSender, redis_server: RedisServer) -> None:
    send(sender, 1)
    wait_until(lambda: not len(sender), what="the first is stored")
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        sending = threading.Thread(target=send, args=(sender, *range(2, 602)), daemon=True)
        sending.start()
        wait_until(lambda: not sending.is_alive(), what="the end of the sends, while the server is frozen")
        assert len(sender) >= 600 - 256, "they wait in memory"
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    wait_until(lambda: not len(sender), 30, "all is sent")
    stored = [row.decode() for row, _ in redis_server.client().xrange(LOBBY)]
    assert stored == [f"9-{n}" for n in range(1, 602)]
    assert sender.lost == 0


def test_what_redis_refuses_for_good_ends_who_fills_it(sender: BackgroundSender, redis_server: RedisServer) -> None:
    redis_server.client().set(LOBBY, "no stream")

    def refused() -> bool:
        try:
            send(sender, 1)
        except redis.ResponseError as error:
            return "WRONGTYPE" in str(error)
        return False

    wait_until(refused, what="the defect is seen by the loop")


def test_the_last_messages_are_sent_at_the_end(redis_server: RedisServer) -> None:
    sender = BackgroundSender(redis_server.client())
    for sequence in (1, 2, 3):
        sender.put(detections(9, sequence))
    sender.close()
    assert redis_server.client().xlen(LOBBY) == 3
    assert sender.take_send_time_s() > 0
