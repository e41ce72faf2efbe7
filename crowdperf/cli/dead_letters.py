"""List, show, redrive or drop messages that a consumer could not handle: `crowdperf dead-letters`."""

from __future__ import annotations

import argparse

from crowdperf.messaging.dead_letter_queue import DeadLetterStore
from crowdperf.messaging.redis.client import OUTAGE, connect, describe_outage
from crowdperf.primitives.redaction import redact
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation


def main(words: list[str], installation: Installation) -> int:
    """Run one action."""
    parser = argparse.ArgumentParser(prog="crowdperf dead-letters", description="Messages that could not be handled.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="action")
    actions.add_parser("list", help="which consumers have some, and how many")
    for name, text in (
        ("show", "print them with the reason"),
        ("redrive", "give them to their consumer again"),
        ("drop", "delete them"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("box", metavar="<stream>:<consumer>", help="as `list` prints it, such as events:recorder")
        action.add_argument("ids", nargs="*", help="only these, by id; default: all of them")
    arguments = parser.parse_args(words)
    deployment = installation.load()
    store = DeadLetterStore(connect(deployment.redis_url), deployment.config.key_prefix)
    try:
        _run(arguments, store)
    except OUTAGE as error:
        raise ConfigError(describe_outage(error, "start crowdperf, or the Redis it uses.")) from None
    return 0


def _run(arguments: argparse.Namespace, store: DeadLetterStore) -> None:
    if arguments.action == "list":
        queues = store.list_queues()
        for queue in queues:
            print(f"{queue.count:>8}  {queue.name}")
        if not queues:
            print("no dead letters")
        return
    ids = arguments.ids or None
    if arguments.action == "show":
        for letter in store.get_letters(arguments.box, ids):
            print(f"{letter.id}  {redact(letter.reason)}")
            print("    " + redact(" ".join(f"{name}={value}" for name, value in letter.fields.items())))
        return
    count = getattr(store, arguments.action)(arguments.box, ids)
    print(f"{arguments.action}: {count}")
