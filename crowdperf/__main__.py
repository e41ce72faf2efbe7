"""Dispatch `python -m crowdperf <command>` to the module of the command.

This module stays cheap to import: a command's module is imported only when the command runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from typing import NamedTuple

from crowdperf.primitives.redaction import redact
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation


class Command(NamedTuple):
    """One command: its entry takes the remaining words and the installation and returns the exit status.

    It may raise ConfigError, with a message for the user.
    """

    name: str
    entry: str
    """`module:function` below `crowdperf.cli`."""
    help: str
    aliases: tuple[str, ...] = ()
    """Former names, which keep working."""


COMMANDS = (
    Command("run", "run:main", "start the whole site in the foreground"),
    Command("check", "check:main", "validate the configuration, FFmpeg, Redis, models and shared memory"),
    Command("schema", "check:print_schema", "print the JSON Schema of config.json"),
    Command("ctl", "config:run_ctl", "control the running programs by kind or name"),
    Command("config", "config:main", "list, compare or roll back versions of the configuration"),
    Command("users", "users:main", "manage accounts, API tokens and the setup link"),
    Command("models", "models:main", "list, verify, add, export or compare models"),
    Command("demo", "demo:main", "render the demo site's cameras"),
    Command("ring", "rings:main", "show the live rings, as top shows processes"),
    Command("probe-source", "probe_source:main", "(web process) get one picture of a source or the error", ("look",)),
    Command("dead-letters", "dead_letters:main", "list, redrive or drop messages that could not be handled"),
    Command("export", "database:run_export", "export crossings of a time range as CSV or Parquet"),
    Command("import-sqlite", "database:run_import_sqlite", "import an older installation's events.db"),
    Command("migrate", "database:run_migrate", "bring PostgreSQL to this version's tables"),
    Command("replay", "replay:main", "count a recording with one configuration, or compare two"),
    Command("evaluate", "evaluate:main", "compare a recording's counts with its true crossings", ("audit",)),
    Command("capture", "supervised:run_capture", "(supervised) capture one camera or a group of them"),
    Command("inference", "supervised:run_inference", "(supervised) run the models"),
    Command("tracking", "supervised:run_tracking", "(supervised) track and count the cameras of one shard"),
    Command("worker", "supervised:run_worker", "(supervised) run one worker"),
    Command("web", "supervised:run_web", "(supervised) serve the REST API and the dashboard"),
    Command("redis", "supervised:run_redis", "(supervised) run the embedded Redis"),
    Command("guard", "supervised:run_guard", "(supervised) restart failed programs"),
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser that lists the commands; each command parses its own options."""
    parser = argparse.ArgumentParser(prog="crowdperf", description="Crowd management for sites with many cameras.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS:
        commands.add_parser(command.name, help=command.help, aliases=command.aliases)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; a ConfigError is one line on stderr and status 2."""
    words = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks becomes a question mark instead of an error.
        sys.stdout.reconfigure(errors="replace")
    entries = {name: command.entry for command in COMMANDS for name in (command.name, *command.aliases)}
    if not words or words[0] not in entries:
        build_parser().parse_args(words)
        return 2
    module, _, function = entries[words[0]].partition(":")
    try:
        return int(getattr(importlib.import_module(f"crowdperf.cli.{module}"), function)(words[1:], Installation()))
    except ConfigError as error:
        print(f"crowdperf: {redact(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
