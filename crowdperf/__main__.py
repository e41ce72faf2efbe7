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

from crowdperf.messaging import process_metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.runtime.redaction import log_to_stderr, redact
from crowdperf.settings import process_config
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Config, build_json_schema, load
from crowdperf.settings.environment import Environment, Paths, read_environment
from crowdperf.settings.site import build_dashboard_url, resolve_dsn
from crowdperf.settings.worker_config import build_config_for_role
from crowdperf.supervision.processes import PROCESSES, get_process

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
        return load(self.config_file), read_environment(os.environ)


def build_parser() -> argparse.ArgumentParser:
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
            return int(importlib.import_module("crowdperf.cli.demo").main(words[1:]))
        if words and words[0] == "models":
            # Counting on clips needs more than the models.
            module = "crowdperf.evaluation.comparison" if words[1:2] == ["compare"] else "crowdperf.cli.models"
            return int(importlib.import_module(module).main(words[1:]))
        if words and words[0] == "users":
            return _run_users(words[1:], Installation())
        if words and words[0] in ("replay", "audit"):
            return _run_recorded(words[0], words[1:], Installation())
        if words and words[0] == "config":
            here = Installation()
            office = importlib.import_module("crowdperf.cli.config")
            return int(office.main(words[1:], here.config_file, here.paths, here.root))
        if words and words[0] == "ring":
            return _run_ring(words[1:], Installation())
        if words and words[0] == "dead-letters":
            return _run_dead_letters(words[1:], Installation())
        if words and words[0] == "export":
            return _run_export(words[1:], Installation())
        if words and words[0] == "import-sqlite":
            return _run_import_sqlite(words[1:], Installation())
        if words and words[0] == "migrate":
            return _run_migrate(words[1:], Installation())
        return _dispatch(build_parser().parse_args(words), Installation())
    except ConfigError as error:
        print(f"crowdperf: {redact(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1


def _run_ring(words: list[str], installation: Installation) -> int:
    """`crowdperf ring`."""
    config, _ = installation.load()
    url, prefix = process_config.get_redis_url(config, installation.paths), str(installation.paths.get_ring_path(""))
    return int(importlib.import_module("crowdperf.cli.rings").main(words, prefix, url, config.key_prefix))


def _run_recorded(command: str, words: list[str], installation: Installation) -> int:
    """`crowdperf replay` and `crowdperf audit`."""
    cli = importlib.import_module({"replay": "crowdperf.cli.replay", "audit": "crowdperf.cli.evaluate"}[command])
    return int(cli.main(words, installation.config_file, installation.paths, installation.root))


def _run_dead_letters(words: list[str], installation: Installation) -> int:
    """`crowdperf dead-letters`."""
    config, _ = installation.load()
    url = process_config.get_redis_url(config, installation.paths)
    return int(importlib.import_module("crowdperf.messaging.dead_letter_queue").main(words, url, config.key_prefix))


def _run_users(words: list[str], installation: Installation) -> int:
    """`crowdperf users`."""
    config, _ = installation.load()
    setup = importlib.import_module("crowdperf.accounts.credentials").SetupSecret(installation.paths.sockets)
    url, cli = process_config.get_redis_url(config, installation.paths), importlib.import_module("crowdperf.cli.users")
    return int(cli.main(words, url, config.key_prefix, build_dashboard_url(config.web), setup))


def _run_export(words: list[str], installation: Installation) -> int:
    """`crowdperf export`."""
    config, _ = installation.load()
    exporting = importlib.import_module("crowdperf.cli.export")
    url, prefix = process_config.get_redis_url(config, installation.paths), config.key_prefix
    return int(exporting.main(words, exporting.ExportSource(url, prefix, config.site.timezone)))


def _run_import_sqlite(words: list[str], installation: Installation) -> int:
    """`crowdperf import-sqlite`."""
    config, _ = installation.load()
    importing = importlib.import_module("crowdperf.storage.transfer.sqlite_import")
    url, prefix = process_config.get_redis_url(config, installation.paths), config.key_prefix
    return int(importing.main(words, importing.ImportTarget(url, prefix, config.site.timezone, config.retention)))


def _run_migrate(words: list[str], installation: Installation) -> int:
    """`crowdperf migrate`."""
    dsn = resolve_dsn(process_config.get_postgres_dsn(*installation.load()), installation.root)
    return int(importlib.import_module("crowdperf.storage.postgres.migrations").main(words, dsn))


def _dispatch(arguments: argparse.Namespace, installation: Installation) -> int:
    command = arguments.command
    if command == "schema":
        print(json.dumps(build_json_schema(), indent=2))
        return 0
    if command == "ctl":
        return _run_ctl(arguments, installation)
    if command == "guard":
        log_to_stderr("guard")
        importlib.import_module("crowdperf.supervision.fatal_restarter").main(installation.paths)
        return 0
    if command == "check":
        return int(
            importlib.import_module("crowdperf.cli.check").main(
                installation.config_file, installation.paths, installation.root
            )
        )
    config, env = installation.load()
    if command == "look":
        roots = process_config.resolve_media_roots(config, installation.root)
        return int(importlib.import_module("crowdperf.cli.probe_source").main(config, roots))
    if command == "run":
        return int(importlib.import_module("crowdperf.cli.run").run(config, env, installation.paths, installation.root))
    if command == "redis":
        importlib.import_module("crowdperf.supervision.embedded_redis").replace_process(
            installation.paths.redis_socket.absolute(),
            installation.paths.data.absolute() / "redis",
            config.redis.memory_mb,
        )
    return _run_process(arguments, config, env, installation)


def _run_ctl(arguments: argparse.Namespace, installation: Installation) -> int:
    """`crowdperf ctl`: the programs of a kind at once, which supervisorctl cannot."""
    control = importlib.import_module("crowdperf.supervision.control").SupervisorClient(
        installation.paths.supervisor_socket.absolute()
    )
    if arguments.action == "status":
        for row in control.list_programs():
            print(f"{row['name']:<28} {row['statename']:<10} {row['description']}")
        return 0
    if arguments.action == "update":
        versions = importlib.import_module("crowdperf.supervision.config_versions").ConfigHistory(
            installation.paths.data / "config"
        )
        with versions.hold_lock("update"):
            importlib.import_module("crowdperf.supervision.programs").refresh(installation.root)
            changes = control.update()
        for what, names in changes.items():
            print(f"{what}: {', '.join(names) or 'none'}")
        return 0
    if not arguments.what:
        raise ConfigError(f"ctl {arguments.action} needs a kind or a program. Remedy: see `crowdperf ctl status`.")
    groups = importlib.import_module("crowdperf.supervision.programs")
    shared = groups.map_shared_programs(groups.load_groups(installation.paths))
    names = list(dict.fromkeys(name for what in arguments.what for name in control.resolve_names(what, shared)))
    getattr(control, arguments.action)(names)
    print(f"{arguments.action}: {', '.join(names) or 'none'}")
    return 0


def _run_process(arguments: argparse.Namespace, config: Config, env: Environment, installation: Installation) -> int:
    """One process of the table: its slice, its runtime, its entry."""
    slice_: Any
    if arguments.command == "capture":
        kind, name = "capture", arguments.name or f"capture-{arguments.cameras[0]}"
        slice_ = process_config.build_capture_group_config(
            config, env, installation.paths, installation.root, name, arguments.cameras
        )
        if not slice_.cameras:
            # Names it, and those that there are.
            config.get_camera(arguments.cameras[0])
    elif arguments.command == "tracking":
        kind, name = "tracking", f"tracking-{arguments.shard}"
        slice_ = process_config.build_tracking_config(config, env, installation.paths, arguments.shard)
    elif arguments.command == "worker":
        kind = f"worker-{arguments.role}"
        name = f"{kind}-{arguments.instance}" if get_process(kind).instances == "worker" else kind
        slice_ = build_config_for_role(config, env, installation.paths, arguments.role, arguments.instance)
    elif arguments.command == "inference":
        kind = name = "inference"
        slice_ = process_config.build_inference_config(config, env, installation.paths)
    else:
        kind = name = "web"
        slice_ = process_config.build_web_config(config, installation.paths)
    row = get_process(kind)
    # Before anything else is imported: a restarting web process must not take the frames' time.
    os.nice(row.nice)
    log_to_stderr(name)
    installation.paths.sockets.mkdir(parents=True, exist_ok=True)
    runtime = ProcessRuntime(name, row.max_silence_s)
    runtime.install()
    process_metrics.start_publishing(runtime, slice_.redis_url, slice_.key_prefix)
    log.info("started, pid %d", os.getpid())
    module, _, function = row.entry.partition(":")
    getattr(importlib.import_module(module), function)(slice_, runtime)
    runtime.finish()
    log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
