"""`crowdperf config`: the one writer of the configuration file.

A change is applied to the file's own document, validated as a whole, kept as a version, put in force by an atomic
rename and rendered; then supervisord restarts the programs whose slice it changes, and no other. The web process asks
for it over a pipe and never sees a camera's password; the command outlives it, since the web process restarts as well.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import getpass
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from crowdperf.capture import source
from crowdperf.config import Config, parse
from crowdperf.counting.usable import ASPECT, problems
from crowdperf.settings.base import ConfigError
from crowdperf.settings.camera import Camera
from crowdperf.settings.environment import Environment, environment
from crowdperf.settings.paths import Paths
from crowdperf.slices import media_roots
from crowdperf.supervision import render
from crowdperf.supervision.control import Control
from crowdperf.supervision.edits import EditError, applied, revision, without_secrets
from crowdperf.supervision.groups import load as load_groups
from crowdperf.supervision.orders import Do, Order, Outcome
from crowdperf.supervision.programs import grouped, programs
from crowdperf.supervision.versions import Version, Versions, write

DOES: dict[str, Do] = {"history": "versions", "show": "show", "diff": "diff", "rollback": "rollback"}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FULL = "the configuration cannot be written and stays as it is"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="crowdperf config", description="Versions of the configuration.")
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("history", help="every version: number, time, who, what")
    show = commands.add_parser("show", help="one version, without secrets")
    show.add_argument("number", type=int)
    diff = commands.add_parser("diff", help="what changed from one version to another (default: to the present file)")
    diff.add_argument("number", type=int)
    diff.add_argument("other", type=int, nargs="?", default=0)
    rollback = commands.add_parser("rollback", help="put an old version in force again, as a new version")
    rollback.add_argument("number", type=int)
    commands.add_parser("ask", help="(the web process) one order as JSON on stdin, its outcome on stdout")
    return root


def main(words: list[str], config_file: Path, paths: Paths, root: Path) -> int:
    """Run one command."""
    arguments = parser().parse_args(words)
    office = Office(config_file, paths, root)
    if arguments.command == "ask":
        return _answer(office, msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    order = Order(
        do=DOES[arguments.command],
        number=getattr(arguments, "number", 0),
        other=getattr(arguments, "other", 0),
        who=getpass.getuser(),
    )
    outcome = office.carry_out(order)
    if outcome.status != 200:
        raise ConfigError(outcome.detail)
    for row in outcome.versions:
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(row.at))
        print(f"{row.number:>6}  {at}  {row.who:<16} {row.comment}")
    print(outcome.text, end="")
    if order.do == "rollback":
        print(f"version {outcome.version} is in force; restarts: {', '.join(outcome.restarts) or 'none'}")
        office.put_in_force(outcome)
    return 0


def _answer(office: Office, order: Order) -> int:
    """Answer first: the asker may be among the programs that are restarted then."""
    try:
        outcome = office.carry_out(order)
    except ConfigError as error:
        outcome = Outcome(status=400, detail=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))
    sys.stdout.flush()
    # The asker waits for the end of the output, not for the end of this process.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    office.put_in_force(outcome)
    return 0


class Office:
    """One installation's configuration file and its versions."""

    def __init__(self, config_file: Path, paths: Paths, root: Path) -> None:
        self._file = config_file
        self._paths = paths
        self._root = root
        self._versions = Versions(paths.data / "config")

    def carry_out(self, order: Order) -> Outcome:
        """Do what is asked. Nothing is restarted yet.

        Raises:
            ConfigError: the file cannot be read, or the new one would not be valid.
        """
        if order.do == "versions":
            return Outcome(versions=tuple(self._versions.all()))
        try:
            if order.do == "show":
                return Outcome(text=_shown(self._text_of(order.number)))
            if order.do == "diff":
                return Outcome(text=self._diff(order.number, order.other))
            with self._versions.locked("edit"):
                return self._change(order)
        except EditError as error:
            return Outcome(status=error.status, detail=str(error))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return Outcome(status=507, detail=f"{FULL}: {error.strerror}. Remedy: make room on its disk, then again.")

    def put_in_force(self, outcome: Outcome) -> None:
        """Have supervisord restart what the change concerns."""
        if outcome.restarts and outcome.running:
            with self._versions.locked("update"):
                self._control().update()

    def _text(self) -> bytes:
        try:
            return self._file.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {str(self._file)!r}: {error.strerror}.") from None

    def _text_of(self, number: int) -> bytes:
        """A version's file, the present one for 0.

        Raises:
            EditError: 404, there is no such version.
        """
        text = self._versions.text(number) if number else self._text()
        if text is None:
            raise EditError(404, f"there is no version {number}. Remedy: see the list of versions.")
        return text

    def _diff(self, number: int, other: int) -> str:
        before, after = _shown(self._text_of(number)), _shown(self._text_of(other))
        names = (f"version {number}", f"version {other}" if other else "present")
        return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names))

    def _change(self, order: Order) -> Outcome:
        """Edit or roll back, under the lock."""
        old_text = self._text()
        before = parse(old_text, str(self._file))
        for camera, expected in order.expect.items():
            present = next((revision(row) for row in before.cameras if row.id == camera), "")
            if present and present != expected:
                raise EditError(
                    412,
                    f"camera {camera!r} was changed by somebody else meanwhile. Remedy: load it anew, then change it.",
                )
        if order.do == "rollback":
            text = self._text_of(order.number)
        else:
            document = applied(_document(old_text), order.edits)
            text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        after = parse(text, "the new configuration")
        self._check(before, after, order)
        outcome = Outcome(
            revisions={row.id: revision(row) for row in after.cameras},
            cameras=_named(text, {edit.path[1] for edit in order.edits if len(edit.path) > 1}),
        )
        if after == before and order.do == "edit":
            current = self._versions.current(old_text)
            return replace(outcome, version=current.number if current else 0)
        version = self._keep(old_text, text, order)
        env = environment(render.recorded_environment(self._paths))
        restarts = self._restarts(before, after, env)
        write(self._file, text, self._file.stat().st_mode & 0o777)
        render.write(after, env, self._paths, self._root)
        return replace(outcome, version=version.number, restarts=restarts, running=self._running())

    def _check(self, before: Config, after: Config, order: Order) -> None:
        """What the file's own rules do not say: new sources may be opened, new lines and zones can count.

        Raises:
            EditError: 400.
        """
        if order.do == "rollback":
            return
        roots = media_roots(after, self._root)
        known = {camera.id: camera for camera in before.cameras}
        for camera in after.cameras:
            old = known.get(camera.id)
            if old is None or old.url != camera.url:
                try:
                    source.check(camera.url, roots, tuple(after.allowed_hosts))
                except source.SourceError as error:
                    raise EditError(400, f"camera {camera.id!r}: {error}") from None
            lines = [line for line in camera.lines if old is None or line not in old.lines]
            zones = [zone for zone in camera.zones if old is None or zone not in old.zones]
            fps = camera.target_fps or after.target_fps
            for problem in problems(lines, zones, fps, order.aspects.get(camera.id, ASPECT)):
                raise EditError(400, f"camera {camera.id!r}: {problem.text}")

    def _keep(self, old_text: bytes, text: bytes, order: Order) -> Version:
        """The version before, where an editor made it, and the new one."""
        now = time.time()
        if self._versions.current(old_text) is None:
            at = self._file.stat().st_mtime
            self._versions.add(old_text, at, "", "the file as it was found")
        return self._versions.add(text, now, order.who, order.comment or f"back to version {order.number}")

    def _restarts(self, before: Config, after: Config, env: Environment) -> tuple[str, ...]:
        groups = load_groups(self._paths)
        old, new = (
            {row.name: row.digest for row in programs(config, env, self._paths, self._root, grouped(config, groups))}
            for config in (before, after)
        )
        return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))

    def _control(self) -> Control:
        return Control(self._paths.supervisor_socket.absolute())

    def _running(self) -> bool:
        try:
            self._control().status()
        except ConfigError:
            return False
        return True


def _document(text: bytes) -> dict[str, Any]:
    return msgspec.json.decode(text, type=dict[str, Any])


def _named(text: bytes, names: set[str]) -> tuple[dict[str, Any], ...]:
    """The cameras of these ids with all their settings, URLs redacted."""
    rows = [msgspec.convert(row, Camera) for row in without_secrets(_document(text)).get("cameras", [])]
    return tuple(msgspec.to_builtins(row) for row in rows if row.id in names)


def _shown(text: bytes) -> str:
    """A version's file without secrets."""
    return msgspec.json.format(msgspec.json.encode(without_secrets(_document(text))), indent=2).decode() + "\n"
