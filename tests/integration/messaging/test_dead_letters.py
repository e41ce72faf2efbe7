"""Dead letters against a real Redis: seen, driven again for their consumer alone, dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowdperf.cli import dead_letters
from crowdperf.messaging.consumer import Consumer
from crowdperf.messaging.dead_letter_queue import DeadLetterQueue, DeadLetterStore
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AnyEvent, LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.settings.base import ConfigError
from crowdperf.web.live.counts import decode_event
from tests.conftest import RedisServer
from tests.support.installation import make_installation

CROSSING = LineCrossed(
    id="lobby:5:1:door:in:0", camera="lobby", ts=1.8e9, line="door", direction="in", class_name="person", track=1,
    epoch=5, sequence=1,
)  # fmt: skip


def reader(server: RedisServer, group: str) -> Consumer[AnyEvent]:
    consumer: Consumer[AnyEvent] = Consumer(server.client(), EVENTS, group, "x")
    consumer.start()
    return consumer


def make_store(server: RedisServer) -> DeadLetterStore:
    """One good event that could not be handled (delivered too often) and one that nobody can decode."""
    client = server.client()
    publisher: Publisher[AnyEvent] = Publisher(client, EVENTS)
    publisher.publish(CROSSING)
    client.xadd("crowdperf:events", {"type": "LineCrossed", "id": "x"})
    for _ in range(7):
        reader(server, "recorder").read(block_ms=1)
    return DeadLetterStore(client)


def test_list_and_show_name_the_reason(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installation = make_installation(tmp_path, redis_server.url)
    dead = make_store(redis_server)
    assert dead.list_queues() == [DeadLetterQueue("events:recorder", 2)]
    assert dead_letters.main(["list"], installation) == 0
    assert dead_letters.main(["show", "events:recorder"], installation) == 0
    out = capsys.readouterr().out
    assert "2  events:recorder" in out
    assert "delivered 5 times" in out
    assert "lobby:5:1:door:in:0" in out


def test_redriven_letter_reaches_only_its_consumer(redis_server: RedisServer) -> None:
    dead = make_store(redis_server)
    other = reader(redis_server, "other")
    assert [entry.message for entry in other.read()] == [CROSSING]
    handled = [letter.id for letter in dead.get_letters("events:recorder") if "delivered" in letter.reason]
    assert dead.redrive("events:recorder", handled) == 1
    again = reader(redis_server, "recorder")
    assert [entry.message for entry in again.read()] == [CROSSING]
    assert other.read(block_ms=1) == []
    assert redis_server.client().xpending("crowdperf:events", "other")["pending"] == 1
    shown = [decode_event(fields) for _, fields in redis_server.client().xrange("crowdperf:events")]
    assert [event for event in shown if event is not None] == [CROSSING]


def test_what_still_cannot_be_handled_comes_back(redis_server: RedisServer) -> None:
    dead = make_store(redis_server)
    broken = [letter.id for letter in dead.get_letters("events:recorder") if "delivered" not in letter.reason]
    dead.redrive("events:recorder", broken)
    reader(redis_server, "recorder").read(block_ms=1)
    assert dead.list_queues() == [DeadLetterQueue("events:recorder", 2)]


def test_drop_deletes_the_named_ones(redis_server: RedisServer) -> None:
    dead = make_store(redis_server)
    first = dead.get_letters("events:recorder")[0].id
    assert dead.drop("events:recorder", [first]) == 1
    assert [letter.id for letter in dead.get_letters("events:recorder")] != [first]
    assert dead.drop("events:recorder") == 1
    assert dead.list_queues() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "events:nobody"], "no dead letters called 'events:nobody'"),
        (["drop", "events:recorder", "1-1"], "no dead letter '1-1'"),
        (["drop", "events:recorder", "; rm"], "no dead letter '; rm'"),
        (["redrive", "detections:tracking"], "cannot be driven again"),
    ],
)
def test_one_clear_error(redis_server: RedisServer, tmp_path: Path, words: list[str], message: str) -> None:
    make_store(redis_server)
    redis_server.client().xadd("crowdperf:dead:detections:tracking", {"d": "x", "_why": "y"})
    with pytest.raises(ConfigError, match=message):
        dead_letters.main(words, make_installation(tmp_path, redis_server.url))


def test_redis_away_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Redis does not answer"):
        dead_letters.main(["list"], make_installation(tmp_path, f"unix://{tmp_path}/none.sock"))
