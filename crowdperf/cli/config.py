"""Change the configuration file (`crowdperf config`), and control the programs that read it (`crowdperf ctl`).

Nothing else writes the file. A change is applied to the file's document and validated as a whole. Then it is stored as
a version, written atomically and rendered. supervisord restarts only the programs whose settings changed. The web
process sends its changes over a pipe and never sees a camera's password. The command survives a restart of the web
process.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import getpass
import os
import pwd
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec.structs import replace

from crowdperf.accounts.audited_rollback import roll_back
from crowdperf.capture.network import url_policy
from crowdperf.counting.validation import DEFAULT_ASPECT, find_problems
from crowdperf.primitives.atomic_file import write_file
from crowdperf.primitives.redaction import redact_config
from crowdperf.settings.base import ConfigError
from crowdperf.settings.camera import Camera
from crowdperf.settings.config import Config, Deployment, Installation, parse
from crowdperf.settings.environment import read_environment
from crowdperf.supervision import config_patch, programs
from crowdperf.supervision.config_patch import ConfigAction, ConfigRequest, ConfigResponse, EditError
from crowdperf.supervision.config_versions import ConfigHistory, ConfigVersion
from crowdperf.supervision.control import SupervisorClient

ACTIONS_BY_COMMAND: dict[str, ConfigAction] = {
    "history": "versions",
    "show": "show",
    "diff": "diff",
    "rollback": "rollback",
}
NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NOT_REPLACEABLE_ERRNOS = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM)
"""A file that is a mount point of its own, as in a container, or in a folder of another user."""
BROKEN_NAME = "broken.json"
NOT_WRITTEN_MESSAGE = "the configuration cannot be written and stays as it is"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `crowdperf config`."""
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


def main(words: list[str], installation: Installation) -> int:
    """Run one command."""
    arguments = build_parser().parse_args(words)
    store = ConfigStore(installation)
    if arguments.command == "ask":
        return _handle_request(store, msgspec.json.decode(sys.stdin.buffer.read(), type=ConfigRequest))
    request = ConfigRequest(
        do=ACTIONS_BY_COMMAND[arguments.command],
        number=getattr(arguments, "number", 0),
        other=getattr(arguments, "other", 0),
        who=getpass.getuser(),
    )
    is_rollback = request.do == "rollback"
    outcome = roll_back(store.apply, request, store.find_deployment()) if is_rollback else store.apply(request)
    if outcome.status != 200:
        raise ConfigError(outcome.detail)
    for row in outcome.versions:
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(row.at))
        print(f"{row.number:>6}  {at}  {row.who:<16} {row.comment}")
    print(outcome.text, end="")
    if is_rollback:
        print(f"version {outcome.version} is in force; restarts: {', '.join(outcome.restarts) or 'none'}")
        store.restart_affected(outcome)
    return 0


def run_ctl(words: list[str], installation: Installation) -> int:
    """Run `crowdperf ctl`. Unlike supervisorctl it takes kinds as well as names."""
    parser = argparse.ArgumentParser(prog="crowdperf ctl", description="Control the running programs by kind or name.")
    parser.add_argument("action", choices=("status", "start", "stop", "restart", "update"))
    parser.add_argument("what", nargs="*", help="a kind (capture, tracking, worker, …) or a program (capture-lobby)")
    arguments = parser.parse_args(words)
    client = SupervisorClient(installation.paths.supervisor_socket.absolute())
    if arguments.action == "status":
        for row in client.list_programs():
            print(f"{row['name']:<28} {row['statename']:<10} {row['description']}")
        return 0
    if arguments.action == "update":
        with ConfigHistory(installation.paths.data / "config").hold_lock("update"):
            programs.refresh(installation.root)
            changes = client.update()
        for change, names in changes.items():
            print(f"{change}: {', '.join(names) or 'none'}")
        return 0
    if not arguments.what:
        raise ConfigError(f"ctl {arguments.action} needs a kind or a program. Remedy: see `crowdperf ctl status`.")
    shared = programs.map_shared_programs(programs.load_groups(installation.paths))
    names = list(dict.fromkeys(name for target in arguments.what for name in client.resolve_names(target, shared)))
    getattr(client, arguments.action)(names)
    print(f"{arguments.action}: {', '.join(names) or 'none'}")
    return 0


def _handle_request(store: ConfigStore, request: ConfigRequest) -> int:
    """Answer before the restarts: the web process, which asks, may be among the restarted programs."""
    try:
        response = store.apply(request)
    except ConfigError as error:
        response = ConfigResponse(status=400, detail=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(response))
    sys.stdout.flush()
    # The web process waits for the end of the output, not for the end of this process.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    store.restart_affected(response)
    return 0


class ConfigStore:
    """One installation's configuration file and its versions."""

    def __init__(self, installation: Installation) -> None:
        self._file = installation.config_file
        self._paths = installation.paths
        self._root = installation.root
        self._history = ConfigHistory(installation.paths.data / "config")

    def apply(self, request: ConfigRequest) -> ConfigResponse:
        """Apply a request without restarting anything.

        Raises:
            ConfigError: the file cannot be read, or the new one would be invalid.
        """
        if request.do == "versions":
            return ConfigResponse(versions=tuple(self._history.list_versions()))
        try:
            if request.do == "show":
                return ConfigResponse(text=_redact_text(self._read_version(request.number)))
            if request.do == "diff":
                return ConfigResponse(text=self._diff(request.number, request.other))
            with self._history.hold_lock("edit"):
                return self._apply_change(request)
        except EditError as error:
            return ConfigResponse(status=error.status, detail=str(error))
        except PermissionError as error:
            return ConfigResponse(status=409, detail=f"{NOT_WRITTEN_MESSAGE}: {explain_permission(error, self._file)}")
        except OSError as error:
            if error.errno not in NO_SPACE_ERRNOS:
                raise
            remedy = "mount it writable" if error.errno == errno.EROFS else "make room on its disk, then again"
            return ConfigResponse(status=507, detail=f"{NOT_WRITTEN_MESSAGE}: {error.strerror}. Remedy: {remedy}.")

    def restart_affected(self, response: ConfigResponse) -> None:
        """Have supervisord restart the programs that the change affects."""
        if response.restarts and response.running:
            with self._history.hold_lock("update"):
                self._connect_supervisor().update()

    def find_deployment(self) -> Deployment:
        """Return the present deployment; of a broken file, that of the newest valid version, else of none."""
        try:
            config = self._load_newest()
        except EditError:
            config = Config()
        return Deployment(config, self._paths, root=self._root)

    def _load_newest(self) -> Config:
        """Return the present configuration, or the newest version that is valid (EditError 404: none)."""
        with contextlib.suppress(ConfigError):
            return parse(self._read_file(), str(self._file))
        for version in reversed(self._history.list_versions()):
            with contextlib.suppress(ConfigError):
                return parse(self._history.read_file(version.number) or b"")
        raise EditError(404, "there is no version that is valid. Remedy: correct the configuration by hand.")

    def _read_file(self) -> bytes:
        try:
            return self._file.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {str(self._file)!r}: {error.strerror}.") from None

    def _read_version(self, number: int) -> bytes:
        """Read a version's file, the present one for 0. EditError 404: there is no such version."""
        text = self._history.read_file(number) if number else self._read_file()
        if text is None:
            raise EditError(404, f"there is no version {number}. Remedy: see the list of versions.")
        return text

    def _diff(self, number: int, other: int) -> str:
        before, after = _redact_text(self._read_version(number)), _redact_text(self._read_version(other))
        names = (f"version {number}", f"version {other}" if other else "present")
        return "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names))

    def _apply_change(self, request: ConfigRequest) -> ConfigResponse:
        """Edit or roll back; the caller holds the lock."""
        old_text, before = self._read_before(request)
        for camera, expected in request.expect.items():
            present = next((config_patch.compute_revision(row) for row in before.cameras if row.id == camera), "")
            if present and present != expected:
                raise EditError(
                    412,
                    f"camera {camera!r} was changed by somebody else meanwhile. Remedy: load it again, then change it.",
                )
        if request.do == "rollback":
            text = self._read_version(request.number)
        else:
            document = config_patch.apply_edits(_decode_document(old_text), request.edits)
            text = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        after = parse(text, "the new configuration")
        self._validate_change(before, after, request)
        outcome = ConfigResponse(
            revisions={row.id: config_patch.compute_revision(row) for row in after.cameras},
            cameras=_select_cameras(text, {edit.path[1] for edit in request.edits if len(edit.path) > 1}),
        )
        if after == before and request.do == "edit":
            current = self._history.find_current(old_text)
            return replace(outcome, version=current.number if current else 0)
        version = self._add_version(old_text, text, request)
        env = read_environment(programs.load_recorded_environment(self._paths))
        deployment = Deployment(after, self._paths, env, self._root)
        restarts = self._find_restarts(replace(deployment, config=before), deployment)
        try:
            replace_content(self._file, old_text, text)
            try:
                programs.write_include_file(deployment)
            except OSError:
                # The answer says that nothing was changed.
                replace_content(self._file, text, old_text)
                raise
        except OSError:
            self._history.remove(version.number)
            raise
        return replace(outcome, version=version.number, restarts=restarts, running=self._is_running())

    def _read_before(self, request: ConfigRequest) -> tuple[bytes, Config]:
        """Read the present file. For a rollback of a broken one the newest valid version is compared."""
        try:
            text = self._read_file()
            return text, parse(text, str(self._file))
        except ConfigError:
            if request.do != "rollback":
                raise
        newest = self._load_newest()
        return self._keep_broken(), newest

    def _keep_broken(self) -> bytes:
        """Copy the broken file beside the versions: it never was in force, but is somebody's work."""
        text = self._file.read_bytes() if self._file.exists() else b""
        if text:
            write_file(self._paths.data / "config" / BROKEN_NAME, text, mode=0o600)
        return text

    def _validate_change(self, before: Config, after: Config, request: ConfigRequest) -> None:
        """Check that new sources are allowed and that new lines and zones can count (EditError 400)."""
        if request.do == "rollback":
            return
        roots = Deployment(after, self._paths, root=self._root).media_roots
        known = {camera.id: camera for camera in before.cameras}
        for camera in after.cameras:
            old = known.get(camera.id)
            if old is None or old.url != camera.url:
                try:
                    url_policy.check_url(camera.url, roots, tuple(after.allowed_hosts))
                except url_policy.SourceError as error:
                    raise EditError(400, f"camera {camera.id!r}: {error}") from None
            lines = [line for line in camera.lines if old is None or line not in old.lines]
            zones = [zone for zone in camera.zones if old is None or zone not in old.zones]
            fps = camera.target_fps or after.target_fps
            for problem in find_problems(lines, zones, fps, request.aspects.get(camera.id, DEFAULT_ASPECT)):
                raise EditError(400, f"camera {camera.id!r}: {problem.text}")

    def _add_version(self, old_text: bytes, text: bytes, request: ConfigRequest) -> ConfigVersion:
        """Add the new version, and before it the old file where an editor had changed it."""
        now = time.time()
        if self._history.find_current(old_text) is None and _is_valid(old_text):
            at = self._file.stat().st_mtime
            self._history.add(old_text, at, "", "the file as it was found")
        return self._history.add(text, now, request.who, request.comment or f"back to version {request.number}")

    def _find_restarts(self, before: Deployment, after: Deployment) -> tuple[str, ...]:
        groups = programs.load_groups(self._paths)
        old, new = (
            {row.name: row.digest for row in programs.build_programs(deployment, groups)}
            for deployment in (before, after)
        )
        return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))

    def _connect_supervisor(self) -> SupervisorClient:
        return SupervisorClient(self._paths.supervisor_socket.absolute())

    def _is_running(self) -> bool:
        try:
            self._connect_supervisor().list_programs()
        except ConfigError:
            return False
        return True


def _is_valid(text: bytes) -> bool:
    try:
        parse(text)
    except ConfigError:
        return False
    return True


def _decode_document(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"config.json is not valid JSON: {error}. Remedy: correct it, or put a version in force again with "
            "`crowdperf config rollback`."
        ) from None


def replace_content(file: Path, old_text: bytes, text: bytes) -> None:
    """Replace the content of the configuration file, or raise OSError and leave the old content.

    Args:
        file: the file.
        old_text: its present content.
        text: the new content.
    """
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        write_file(file, text, mode=mode, sync=True)
    except OSError as error:
        if error.errno not in NOT_REPLACEABLE_ERRNOS:
            raise
        # Its name cannot be taken by a new file, but the file may be writable.
        with file.open("r+b", buffering=0) as opened:
            try:
                _overwrite(opened, text)
            except OSError:
                _overwrite(opened, old_text)
                raise


def _overwrite(opened: BinaryIO, text: bytes) -> None:
    opened.seek(0)
    opened.write(text)
    opened.truncate(len(text))
    os.fsync(opened.fileno())


def explain_permission(error: PermissionError, file: Path) -> str:
    """Name the owner of what could not be written, and the remedy."""
    path = Path(error.filename or file)
    path = path if path.exists() else path.parent
    owner, user = _get_user_name(path.stat().st_uid), _get_user_name(os.geteuid())
    return (
        f"{path} belongs to {owner}, and crowdperf runs as {user}. "
        f"Remedy: chown it to that user, or edit {file.name} by hand."
    )


def _get_user_name(uid: int) -> str:
    """Return the name of a user; in a container it may have none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _select_cameras(text: bytes, names: set[str]) -> tuple[dict[str, Any], ...]:
    """Return the cameras of these ids with all settings, URLs redacted."""
    rows = [msgspec.convert(row, Camera) for row in redact_config(_decode_document(text)).get("cameras", [])]
    return tuple(msgspec.to_builtins(row) for row in rows if row.id in names)


def _redact_text(text: bytes) -> str:
    """Format a version's file without secrets."""
    return msgspec.json.format(msgspec.json.encode(redact_config(_decode_document(text))), indent=2).decode() + "\n"
