"""Control the running programs: `crowdperf ctl`. Unlike supervisorctl it takes kinds as well as names."""

from __future__ import annotations

import argparse

from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation
from crowdperf.supervision.config_versions import ConfigHistory
from crowdperf.supervision.control import SupervisorClient
from crowdperf.supervision.programs import load_groups, map_shared_programs, refresh


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `crowdperf ctl`."""
    parser = argparse.ArgumentParser(prog="crowdperf ctl", description="Control the running programs by kind or name.")
    parser.add_argument("action", choices=("status", "start", "stop", "restart", "update"))
    parser.add_argument("what", nargs="*", help="a kind (capture, tracking, worker, …) or a program (capture-lobby)")
    return parser


def main(words: list[str], installation: Installation) -> int:
    """Run one action."""
    arguments = build_parser().parse_args(words)
    client = SupervisorClient(installation.paths.supervisor_socket.absolute())
    if arguments.action == "status":
        for row in client.list_programs():
            print(f"{row['name']:<28} {row['statename']:<10} {row['description']}")
        return 0
    if arguments.action == "update":
        with ConfigHistory(installation.paths.data / "config").hold_lock("update"):
            refresh(installation.root)
            changes = client.update()
        for change, names in changes.items():
            print(f"{change}: {', '.join(names) or 'none'}")
        return 0
    if not arguments.what:
        raise ConfigError(f"ctl {arguments.action} needs a kind or a program. Remedy: see `crowdperf ctl status`.")
    shared = map_shared_programs(load_groups(installation.paths))
    names = list(dict.fromkeys(name for target in arguments.what for name in client.resolve_names(target, shared)))
    getattr(client, arguments.action)(names)
    print(f"{arguments.action}: {', '.join(names) or 'none'}")
    return 0
