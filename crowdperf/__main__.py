"""`python -m crowdperf <command>`: the only place that loads the configuration and hands out slices."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from crowdperf import slices
from crowdperf.config import Config, load, schema
from crowdperf.events import metrics
from crowdperf.processes import PROCESSES, process
from crowdperf.rule_slices import slice_of_worker
from crowdperf.runtime import Runtime, log_to_stderr, redact
from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Environment, environment
from crowdperf.settings.paths import Paths
from crowdperf.settings.postgres import resolve_dsn
from crowdperf.settings.site import base

log = logging.getLogger("crowdperf")


class Installation:
    """The files and settings this command works on: `CROWDPERF_CONFIG`, `CROWDPERF_DATA` and the working folder."""

    def __init__(self) -> None:
        self.root = Path.cwd()
        self.paths = Paths(self.root / os.environ.get("CROWDPERF_DATA", "var"))
        self.config_file = self.root / os.environ.get("CROWDPERF_CONFIG", "config.json")

    def load(self) -> tuple[Config, Environment]:
        """The configuration and the documented environment variables.

        Raises:
            ConfigError: one of them is invalid.
        """
        return load(self.config_file), environment(os.environ)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="crowdperf", description="Crowd management for sites with many cameras.")
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="start the whole site in the foreground")
    commands.add_parser("check", help="validate the configuration, FFmpeg, Redis, models and shared memory")
    commands.add_parser("schema", help="print the JSON Schema of config.json")
    ctl = commands.add_parser("ctl", help="control the running programs by kind or name")
    ctl.add_argument("action", choices=("status", "start", "stop", "restart", "update"))
    ctl.add_argument("what", nargs="*", help="a kind (capture, tracking, worker, …) or a program (capture-lobby)")
    for name, text in (("demo", "render the demo site's cameras"), ("models", "list, verify or export models")):
        commands.add_parser(name, help=text, add_help=False)
    commands.add_parser("users", help="accounts, API tokens, the setup link", add_help=False)
    commands.add_parser("config", help="versions of the configuration: history, diff, rollback", add_help=False)
    commands.add_parser("look", help="(the web process) one picture of a source, or why there is none")
    commands.add_parser("ring", help="show the live rings, as top shows processes", add_help=False)
    commands.add_parser("dead-letters", help="messages that could not be handled: list, redrive, drop", add_help=False)
    commands.add_parser("export", help="crossings of a range as CSV or Parquet", add_help=False)
    commands.add_parser("import-sqlite", help="import an older installation's events.db", add_help=False)
    commands.add_parser("migrate", help="bring PostgreSQL to this version's tables", add_help=False)
    commands.add_parser("replay", help="count a recording with one configuration, or compare two", add_help=False)
    commands.add_parser("audit", help="judge a recording's counts by its true crossings", add_help=False)
    capture = commands.add_parser("capture", help="(supervised) one camera, or a group of them")
    capture.add_argument("cameras", nargs="+", metavar="camera")
    capture.add_argument("--name", default="", help="the group's name; default: capture-<camera>")
    commands.add_parser("inference", help="(supervised) the model")
    tracking = commands.add_parser("tracking", help="(supervised) one shard of tracking and counting")
    tracking.add_argument("shard", type=int)
    worker = commands.add_parser("worker", help="(supervised) one worker")
    worker.add_argument("role", choices=[row.kind[7:] for row in PROCESSES if row.kind.startswith("worker-")])
    worker.add_argument("instance", type=int, nargs="?", default=0)
    commands.add_parser("web", help="(supervised) REST API and dashboard")
    commands.add_parser("redis", help="(supervised) the embedded Redis")
    commands.add_parser("guard", help="(supervised) starts failed programs again")
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command; a ConfigError is one line on stderr and status 2."""
    words = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal's encoding lacks is a question mark there, not the end of the command.
        sys.stdout.reconfigure(errors="replace")
    try:
        if words and words[0] == "demo":
            return int(importlib.import_module("crowdperf.demo.cli").main(words[1:]))
        if words and words[0] == "models":
            # Counting on clips needs more than the models.
            module = "crowdperf.replay.compare" if words[1:2] == ["compare"] else "crowdperf.inference.models_cli"
            return int(importlib.import_module(module).main(words[1:]))
        if words and words[0] == "users":
            return _users(words[1:], Installation())
        if words and words[0] in ("replay", "audit"):
            return _recorded(words[0], words[1:], Installation())
        if words and words[0] == "config":
            here = Installation()
            office = importlib.import_module("crowdperf.reconfigure")
            return int(office.main(words[1:], here.config_file, here.paths, here.root))
        if words and words[0] == "ring":
            return _rings(words[1:], Installation())
        if words and words[0] == "dead-letters":
            return _dead_letters(words[1:], Installation())
        if words and words[0] == "export":
            return _export(words[1:], Installation())
        if words and words[0] == "import-sqlite":
            return _import_sqlite(words[1:], Installation())
        if words and words[0] == "migrate":
            return _migrate(words[1:], Installation())
        return _dispatch(parser().parse_args(words), Installation())
    except ConfigError as error:
        print(f"crowdperf: {redact(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


def _rings(words: list[str], here: Installation) -> int:
    """`crowdperf ring`."""
    config, _ = here.load()
    url, prefix = slices.redis_url(config, here.paths), str(here.paths.ring(""))
    return int(importlib.import_module("crowdperf.capture.rings_cli").main(words, prefix, url, config.key_prefix))


def _recorded(command: str, words: list[str], here: Installation) -> int:
    """`crowdperf replay` and `crowdperf audit`."""
    cli = importlib.import_module(f"crowdperf.{command}.cli")
    return int(cli.main(words, here.config_file, here.paths, here.root))


def _dead_letters(words: list[str], here: Installation) -> int:
    """`crowdperf dead-letters`."""
    config, _ = here.load()
    url = slices.redis_url(config, here.paths)
    return int(importlib.import_module("crowdperf.events.dead_letters").main(words, url, config.key_prefix))


def _users(words: list[str], here: Installation) -> int:
    """`crowdperf users`."""
    config, _ = here.load()
    setup = importlib.import_module("crowdperf.accounts.setup").SetupSecret(here.paths.sockets)
    url, cli = slices.redis_url(config, here.paths), importlib.import_module("crowdperf.accounts.cli")
    return int(cli.main(words, url, config.key_prefix, base(config.web), setup))


def _export(words: list[str], here: Installation) -> int:
    """`crowdperf export`."""
    config, _ = here.load()
    exporting = importlib.import_module("crowdperf.storage.export_cli")
    url, prefix = slices.redis_url(config, here.paths), config.key_prefix
    return int(exporting.main(words, exporting.Source(url, prefix, config.site.timezone)))


def _import_sqlite(words: list[str], here: Installation) -> int:
    """`crowdperf import-sqlite`."""
    config, _ = here.load()
    importing = importlib.import_module("crowdperf.storage.sqlite_import")
    url, prefix = slices.redis_url(config, here.paths), config.key_prefix
    return int(importing.main(words, importing.Target(url, prefix, config.site.timezone, config.retention)))


def _migrate(words: list[str], here: Installation) -> int:
    """`crowdperf migrate`."""
    dsn = resolve_dsn(slices.postgres_dsn(*here.load()), here.root)
    return int(importlib.import_module("crowdperf.storage.migrations").main(words, dsn))


def _dispatch(arguments: argparse.Namespace, here: Installation) -> int:
    command = arguments.command
    if command == "schema":
        print(json.dumps(schema(), indent=2))
        return 0
    if command == "ctl":
        return _control(arguments, here)
    if command == "guard":
        log_to_stderr("guard")
        importlib.import_module("crowdperf.supervision.guard").main(here.paths)
        return 0
    if command == "check":
        return int(importlib.import_module("crowdperf.check").main(here.config_file, here.paths, here.root))
    config, env = here.load()
    if command == "look":
        roots = slices.media_roots(config, here.root)
        return int(importlib.import_module("crowdperf.capture.look").main(config, roots))
    if command == "run":
        return int(importlib.import_module("crowdperf.launch").run(config, env, here.paths, here.root))
    if command == "redis":
        importlib.import_module("crowdperf.supervision.redis").replace_process(
            here.paths.redis_socket.absolute(), here.paths.data.absolute() / "redis", config.redis.memory_mb
        )
    return _supervised(arguments, config, env, here)


def _control(arguments: argparse.Namespace, here: Installation) -> int:
    """`crowdperf ctl`: the programs of a kind at once, which supervisorctl cannot."""
    control = importlib.import_module("crowdperf.supervision.control").Control(here.paths.supervisor_socket.absolute())
    if arguments.action == "status":
        for row in control.status():
            print(f"{row['name']:<28} {row['statename']:<10} {row['description']}")
        return 0
    if arguments.action == "update":
        versions = importlib.import_module("crowdperf.supervision.versions").Versions(here.paths.data / "config")
        with versions.locked("update"):
            importlib.import_module("crowdperf.supervision.render").refresh(here.root)
            changes = control.update()
        for what, names in changes.items():
            print(f"{what}: {', '.join(names) or 'none'}")
        return 0
    if not arguments.what:
        raise ConfigError(f"ctl {arguments.action} needs a kind or a program. Remedy: see `crowdperf ctl status`.")
    groups = importlib.import_module("crowdperf.supervision.groups")
    shared = groups.shared(groups.load(here.paths))
    names = list(dict.fromkeys(name for what in arguments.what for name in control.names(what, shared)))
    getattr(control, arguments.action)(names)
    print(f"{arguments.action}: {', '.join(names) or 'none'}")
    return 0


def _supervised(arguments: argparse.Namespace, config: Config, env: Environment, here: Installation) -> int:
    """One process of the table: its slice, its runtime, its entry."""
    slice_: Any
    if arguments.command == "capture":
        kind, name = "capture", arguments.name or f"capture-{arguments.cameras[0]}"
        slice_ = slices.capture_group(config, env, here.paths, here.root, name, arguments.cameras)
        if not slice_.cameras:
            # Names it, and those that there are.
            config.camera(arguments.cameras[0])
    elif arguments.command == "tracking":
        kind, name = "tracking", f"tracking-{arguments.shard}"
        slice_ = slices.tracking_slice(config, env, here.paths, arguments.shard)
    elif arguments.command == "worker":
        kind = f"worker-{arguments.role}"
        name = f"{kind}-{arguments.instance}" if process(kind).instances == "worker" else kind
        slice_ = slice_of_worker(config, env, here.paths, arguments.role, arguments.instance)
    elif arguments.command == "inference":
        kind = name = "inference"
        slice_ = slices.inference_slice(config, env, here.paths)
    else:
        kind = name = "web"
        slice_ = slices.web_slice(config, here.paths)
    row = process(kind)
    # Before anything else is imported: a restarting web process must not take the frames' time.
    os.nice(row.nice)
    log_to_stderr(name)
    here.paths.sockets.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(name, row.max_silence_s)
    runtime.install()
    metrics.start(runtime, slice_.redis_url, slice_.key_prefix)
    log.info("started, pid %d", os.getpid())
    module, _, function = row.entry.partition(":")
    getattr(importlib.import_module(module), function)(slice_, runtime)
    runtime.finish()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
