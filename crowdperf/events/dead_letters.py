"""Dead letters: messages that a consumer could not handle. `crowdperf dead-letters` lists, shows, drives again, drops.

A dead letter is the message as it was, with `_why`, `_id` (its stream id) and `_from` (the key of its stream). Driven
again, it is appended to its stream once more with `_for` = its consumer, so that nobody else handles it twice.
"""

from __future__ import annotations

import argparse
import re
from typing import Any

from msgspec import Struct

from crowdperf.events import queue
from crowdperf.events.burial import dead_key
from crowdperf.events.connection import OUTAGE, connect, told
from crowdperf.events.streams import EVENTS, key
from crowdperf.runtime import redact
from crowdperf.settings.base import ConfigError

PAGE = 200
ENTRY_ID = re.compile(r"\d{1,20}-\d{1,20}")


class Box(Struct, frozen=True):
    """The dead letters of one consumer of one stream."""

    name: str
    """`<stream>:<consumer>`."""
    letters: int


class Letter(Struct, frozen=True):
    """One dead letter."""

    id: str
    why: str
    stream: str
    """The key it was read from."""
    fields: dict[str, str]


class DeadLetters:
    """All dead letters of one installation. An outage of Redis is the caller's to report."""

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix

    def boxes(self) -> list[Box]:
        """Every consumer that has some."""
        start = dead_key("", "", self._prefix)[:-1]
        names = sorted(name.decode() for name in self._client.scan_iter(match=f"{start}*", count=1000))
        found = [Box(name[len(start) :], self._client.xlen(name)) for name in names]
        return [box for box in found if box.letters]

    def letters(self, box: str, ids: list[str] | None = None) -> list[Letter]:
        """The letters of `<stream>:<consumer>`, oldest first; only those of `ids` where they are given.

        Raises:
            ConfigError: there is no such box, or none of that id in it.
        """
        name = self._key(box)
        if ids is None:
            rows, low = [], "-"
            while page := self._client.xrange(name, low, "+", count=PAGE):
                rows += page
                low = f"({page[-1][0].decode()}"
        else:
            rows = [row for entry in ids for row in self._one(name, box, entry)]
        return [_letter(entry_id, fields) for entry_id, fields in rows]

    def _one(self, name: str, box: str, entry: str) -> list[Any]:
        rows = self._client.xrange(name, entry, entry) if ENTRY_ID.fullmatch(entry) else []
        if not rows:
            raise ConfigError(f"{box} has no dead letter {entry!r}. Remedy: see `crowdperf dead-letters show {box}`.")
        return list(rows)

    def redrive(self, box: str, ids: list[str] | None = None) -> int:
        """Give letters to their consumer again; returns how many. Each is moved in one transaction.

        Raises:
            ConfigError: no such letter, or a stream whose entries cannot be repeated.
        """
        stream, _, consumer = box.partition(":")
        if stream not in (EVENTS.name, queue.STREAM):
            raise ConfigError(
                f"the dead letters of {box} cannot be driven again: their time is past, what came after them is done. "
                f"Remedy: look at them (`show {box}`), then `crowdperf dead-letters drop {box}`."
            )
        found = self.letters(box, ids)
        for letter in found:
            with self._client.pipeline(transaction=True) as pipe:
                if stream == EVENTS.name:
                    pipe.xadd(key(EVENTS, prefix=self._prefix), {**letter.fields, "_for": consumer})
                else:
                    item, body = letter.fields["id"], letter.fields["body"].encode()
                    queue.stage_item(pipe, consumer, item, body, 0.0, self._prefix)
                pipe.xdel(self._key(box), letter.id)
                pipe.execute()
        return len(found)

    def drop(self, box: str, ids: list[str] | None = None) -> int:
        """Delete letters; returns how many.

        Raises:
            ConfigError: there is no such letter.
        """
        found = self.letters(box, ids)
        return int(self._client.xdel(self._key(box), *(letter.id for letter in found))) if found else 0

    def _key(self, box: str) -> str:
        stream, colon, consumer = box.partition(":")
        name = dead_key(stream, consumer, self._prefix)
        if not colon or not self._client.exists(name):
            known = ", ".join(row.name for row in self.boxes()) or "none"
            raise ConfigError(f"there are no dead letters called {box!r}. Remedy: use one of those there are: {known}.")
        return name


def _letter(entry_id: bytes, fields: dict[bytes, bytes]) -> Letter:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    why, stream = text.pop("_why", ""), text.pop("_from", "")
    return Letter(entry_id.decode(), why, stream, {name: value for name, value in text.items() if name[:1] != "_"})


def parser() -> argparse.ArgumentParser:
    """The command line of `crowdperf dead-letters`."""
    root = argparse.ArgumentParser(prog="crowdperf dead-letters", description="Messages that could not be handled.")
    actions = root.add_subparsers(dest="action", required=True, metavar="action")
    actions.add_parser("list", help="which consumers have some, and how many")
    for name, text in (
        ("show", "print them with the reason"),
        ("redrive", "give them to their consumer again"),
        ("drop", "delete them"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("box", metavar="<stream>:<consumer>", help="as `list` prints it, such as events:recorder")
        action.add_argument("ids", nargs="*", help="only these, by id; default: all of them")
    return root


def main(words: list[str], url: str, prefix: str) -> int:
    """Run one action.

    Raises:
        ConfigError: Redis does not answer, or there is no such letter.
    """
    arguments = parser().parse_args(words)
    dead = DeadLetters(connect(url), prefix)
    try:
        _run(arguments, dead)
    except OUTAGE as error:
        raise ConfigError(told(error, "start crowdperf, or the Redis it uses.")) from None
    return 0


def _run(arguments: argparse.Namespace, dead: DeadLetters) -> None:
    if arguments.action == "list":
        boxes = dead.boxes()
        for box in boxes:
            print(f"{box.letters:>8}  {box.name}")
        if not boxes:
            print("no dead letters")
        return
    ids = arguments.ids or None
    if arguments.action == "show":
        for letter in dead.letters(arguments.box, ids):
            print(f"{letter.id}  {redact(letter.why)}")
            print("    " + redact(" ".join(f"{name}={value}" for name, value in letter.fields.items())))
        return
    count = getattr(dead, arguments.action)(arguments.box, ids)
    print(f"{arguments.action}: {count}")
