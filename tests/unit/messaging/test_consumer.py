"""The pure parts of reading a stream: ids, replies, lost streams, and the back-off between two attempts."""

from __future__ import annotations

import pytest
import redis

from crowdperf.messaging.consumer import is_stream_lost, parse_entry_id, unpack_reply
from crowdperf.messaging.redis.client import JITTER, LOG_AT_FAILURE, MAX_WAIT_S, MIN_WAIT_S, Backoff

ROWS = [(b"1-0", {b"a": b"1"}), (b"1-1", {b"a": b"2"})]


def test_ids_have_the_order_of_the_stream() -> None:
    ids = [b"10-10", b"10-2", b"9-3", b"10"]
    assert sorted(ids, key=parse_entry_id) == [b"9-3", b"10", b"10-2", b"10-10"]


@pytest.mark.parametrize("reply", [[(b"s", ROWS)], [[b"s", ROWS]], {b"s": [ROWS]}], ids=["resp2", "list", "resp3"])
def test_both_protocols_give_the_same_entries(reply: object) -> None:
    assert unpack_reply(reply) == [(b"s", ROWS)]


@pytest.mark.parametrize("reply", [None, [], {}])
def test_no_reply_gives_no_entries(reply: object) -> None:
    assert unpack_reply(reply) == []


def test_a_stream_without_new_entries_has_no_rows() -> None:
    assert unpack_reply({b"s": [[]]}) == unpack_reply([(b"s", [])]) == [(b"s", [])]


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (redis.ResponseError("NOGROUP No such key 's' or consumer group 'g'"), True),
        (redis.ResponseError("The XGROUP subcommand requires the key to exist."), True),
        (redis.ResponseError("no such key"), True),
        (redis.ResponseError("WRONGTYPE Operation against a key"), False),
        (redis.ConnectionError("no such key"), False),
    ],
)
def test_a_lost_stream_is_recognised(error: Exception, lost: bool) -> None:
    assert is_stream_lost(error) is lost


def test_waits_double_and_an_outage_is_logged_once() -> None:
    backoff, error = Backoff(), redis.ConnectionError()
    logged, waits = [], []
    for _ in range(12):
        logged.append(backoff.should_log(error))
        waits.append(backoff.next())
    assert [number + 1 for number, value in enumerate(logged) if value] == [LOG_AT_FAILURE]
    nominal = [min(MAX_WAIT_S, MIN_WAIT_S * 2**number) for number in range(12)]
    assert all((1 - JITTER) * full <= wait <= full for wait, full in zip(waits, nominal))
    backoff.reset()
    assert backoff.next() <= MIN_WAIT_S
