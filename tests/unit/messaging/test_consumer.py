"""The pure parts of reading a stream: ids, replies and lost streams."""

from __future__ import annotations

import pytest
import redis

from crowdperf.messaging.consumer import is_stream_lost, parse_entry_id, unpack_reply

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
