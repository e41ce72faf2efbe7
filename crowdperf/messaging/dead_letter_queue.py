"""List, show, redrive and drop dead letters: messages that a consumer could not handle.

A dead letter is the message with `_why`, `_id` (its stream id) and `_from` (the key of its stream). Redriving appends
it to its stream again with `_for` = its consumer, so that no other consumer handles it twice.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

from crowdperf.messaging import delivery_queue
from crowdperf.messaging.codec import dead_key
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.settings.base import ConfigError

PAGE_SIZE = 200
ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


class DeadLetterQueue(Struct, frozen=True):
    """Number of dead letters of one consumer of one stream."""

    name: str
    """`<stream>:<consumer>`."""
    count: int


class DeadLetter(Struct, frozen=True):
    """One dead letter."""

    id: str
    reason: str
    stream: str
    """Key of the stream that it was read from."""
    fields: dict[str, str]


class DeadLetterStore:
    """All dead letters of one installation; the caller reports an outage of Redis."""

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def list_queues(self) -> list[DeadLetterQueue]:
        """List the consumers that have dead letters."""
        start = dead_key("", "", self._prefix)[:-1]
        names = sorted(name.decode() for name in self._client.scan_iter(match=f"{start}*", count=1000))
        queues = [DeadLetterQueue(name[len(start) :], self._client.xlen(name)) for name in names]
        return [queue for queue in queues if queue.count]

    def get_letters(self, queue_name: str, ids: list[str] | None = None) -> list[DeadLetter]:
        """Return the letters of `<stream>:<consumer>`, oldest first; only those of `ids` where given.

        Raises:
            ConfigError: there is no such queue, or no letter with that id.
        """
        name = self._find_key(queue_name)
        if ids is None:
            rows, low = [], "-"
            while page := self._client.xrange(name, low, "+", count=PAGE_SIZE):
                rows += page
                low = f"({page[-1][0].decode()}"
        else:
            rows = [row for entry in ids for row in self._find_rows(name, queue_name, entry)]
        return [_parse_letter(entry_id, fields) for entry_id, fields in rows]

    def _find_rows(self, name: str, queue_name: str, entry_id: str) -> list[Any]:
        rows = self._client.xrange(name, entry_id, entry_id) if ENTRY_ID.fullmatch(entry_id) else []
        if not rows:
            raise ConfigError(
                f"{queue_name} has no dead letter {entry_id!r}. Remedy: see `crowdperf dead-letters show {queue_name}`."
            )
        return list(rows)

    def redrive(self, queue_name: str, ids: list[str] | None = None) -> int:
        """Return letters to their consumer, each in one transaction, and count them.

        Raises:
            ConfigError: there is no such letter, or the stream's entries cannot be repeated.
        """
        stream, _, consumer = queue_name.partition(":")
        if stream not in (EVENTS.name, delivery_queue.DEAD_LETTER_STREAM):
            raise ConfigError(
                f"the dead letters of {queue_name} cannot be driven again: later messages are handled already. "
                f"Remedy: look at them (`show {queue_name}`), then `crowdperf dead-letters drop {queue_name}`."
            )
        letters = self.get_letters(queue_name, ids)
        for letter in letters:
            with self._client.pipeline(transaction=True) as pipe:
                if stream == EVENTS.name:
                    pipe.xadd(stream_key(EVENTS, prefix=self._prefix), {**letter.fields, "_for": consumer})
                else:
                    item, body = letter.fields["id"], letter.fields["body"].encode()
                    delivery_queue.stage_item(pipe, consumer, item, body, 0.0, self._prefix)
                pipe.xdel(self._find_key(queue_name), letter.id)
                pipe.execute()
        return len(letters)

    def drop(self, queue_name: str, ids: list[str] | None = None) -> int:
        """Delete letters and count them.

        Raises:
            ConfigError: there is no such letter.
        """
        letters = self.get_letters(queue_name, ids)
        return int(self._client.xdel(self._find_key(queue_name), *(letter.id for letter in letters))) if letters else 0

    def _find_key(self, queue_name: str) -> str:
        stream, colon, consumer = queue_name.partition(":")
        name = dead_key(stream, consumer, self._prefix)
        if not colon or not self._client.exists(name):
            known = ", ".join(row.name for row in self.list_queues()) or "none"
            raise ConfigError(f"there are no dead letters called {queue_name!r}. Remedy: use one of these: {known}.")
        return name


def _parse_letter(entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    why, stream = text.pop("_why", ""), text.pop("_from", "")
    return DeadLetter(entry_id.decode(), why, stream, {name: value for name, value in text.items() if name[:1] != "_"})
