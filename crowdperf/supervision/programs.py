"""Expand the process table for one configuration and render supervisord's include file.

Cameras may share a capture process (`cameras_per_process`). A camera keeps its group, so an edit moves few cameras. A
new one goes into the first group with room, else into a new group. Only another `cameras_per_process` moves cameras:
the smallest groups are dissolved first.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from crowdperf.primitives.atomic_file import write_file
from crowdperf.primitives.digest import compute_digest
from crowdperf.settings import process_config, reload
from crowdperf.settings.config import Config, load
from crowdperf.settings.engine import get_selection, without_selection
from crowdperf.settings.environment import POSTGRES_DSN, Environment, Paths, read_environment
from crowdperf.settings.process_config import build_web_config, get_reloadable
from crowdperf.settings.worker_config import build_config_for_role
from crowdperf.supervision.processes import PROCESSES, ProcessSpec


class Program(Struct, frozen=True, kw_only=True):
    """One program of supervisord."""

    name: str
    arguments: tuple[str, ...]
    """What follows `python -m crowdperf`."""
    process: ProcessSpec
    digest: str
    """Hash of the settings that the program reads; it restarts when the hash changes."""


def build_programs(
    config: Config, env: Environment, paths: Paths, root: Path, groups: GroupAssignment | None = None
) -> tuple[Program, ...]:
    """List every program of this configuration, without the event listeners of supervisord.conf.

    Args:
        config: the configuration.
        env: the documented environment variables.
        paths: the installation's data folder.
        root: folder that relative files are resolved against.
        groups: which cameras share a process; None assigns them from scratch.

    Returns:
        The programs in the order of the process table.
    """
    if groups is None:
        groups = group_cameras(config, GroupAssignment())
    return tuple(
        Program(
            name=name,
            arguments=arguments,
            process=row,
            digest=_compute_digest(_build_process_config(row, name, arguments, config, env, paths, root)),
        )
        for row in PROCESSES
        for name, arguments in _list_instances(row, config, env, groups)
    )


def group_cameras(config: Config, previous: GroupAssignment) -> GroupAssignment:
    """Assign the enabled cameras to groups and move as few as possible."""
    return assign_groups(
        [camera.id for camera in config.cameras if camera.enabled], config.cameras_per_process, previous
    )


def _list_instances(
    row: ProcessSpec, config: Config, env: Environment, groups: GroupAssignment
) -> list[tuple[str, tuple[str, ...]]]:
    """List names and arguments of one row's programs."""
    command, _, role = row.kind.partition("-")
    if row.instances == "embedded":
        return [] if config.redis.url else [(row.kind, (command,))]
    if row.instances == "camera" and config.cameras_per_process > 1:
        return [
            (f"{row.kind}-group-{number}", (command, "--name", f"{row.kind}-group-{number}", *members))
            for number, members in groups.members.items()
        ]
    if row.instances == "camera":
        return [(f"{row.kind}-{camera.id}", (command, camera.id)) for camera in config.cameras if camera.enabled]
    if row.instances == "shard":
        return [(f"{row.kind}-{shard}", (command, str(shard))) for shard in range(config.tracking.shards)]
    if row.instances == "worker":
        return [(f"{row.kind}-{n}", (command, role, str(n))) for n in range(getattr(config.workers, role))]
    if row.instances == "one" or (row.instances == "postgres" and process_config.get_postgres_dsn(config, env)):
        return [(row.kind, (command, role) if role else (command,))]
    return []


def _build_process_config(
    row: ProcessSpec, name: str, arguments: tuple[str, ...], config: Config, env: Environment, paths: Paths, root: Path
) -> object:
    """Build the part of the configuration that the program reads."""
    last = name.rpartition(f"{row.kind}-")[2]
    if row.kind == "capture":
        members = arguments[3:] if "--name" in arguments else arguments[1:]
        return process_config.build_capture_group_config(config, env, paths, root, name, members)
    if row.kind == "inference":
        whole = process_config.build_inference_config(config, env, paths)
        # Inference changes models without a restart.
        return msgspec.structs.replace(whole, settings=without_selection(whole.settings))
    if row.kind == "tracking":
        return process_config.build_tracking_config(config, env, paths, int(last))
    if row.kind.startswith("worker-"):
        instance = int(last) if row.instances == "worker" else 0
        return build_config_for_role(config, env, paths, row.kind.partition("-")[2], instance)
    if row.kind == "web":
        # Web reloads cameras, areas and rules without a restart, so no page is interrupted.
        return process_config.replace_reloadable(
            process_config.build_web_config(config, paths), process_config.WebReloadable()
        )
    if row.kind == "redis":
        return config.redis.memory_mb
    return None


def _compute_digest(config: object) -> str:
    return compute_digest(msgspec.msgpack.encode(config), 12)


class GroupAssignment(Struct, frozen=True):
    """Which cameras share a capture process."""

    cameras_per_process: int = 1
    members: dict[int, tuple[str, ...]] = {}
    """Number of the group -> its cameras."""


def assign_groups(cameras: Sequence[str], max_size: int, previous: GroupAssignment) -> GroupAssignment:
    """Assign cameras to groups.

    Args:
        cameras: ids of the enabled cameras, in the order of the configuration.
        max_size: cameras in a group at most.
        previous: the last assignment, which is kept as far as possible.

    Returns:
        The new assignment.
    """
    present = set(cameras)
    kept = {
        number: [camera for camera in members if camera in present][:max_size]
        for number, members in previous.members.items()
    }
    kept = {number: members for number, members in kept.items() if members}
    if max_size != previous.cameras_per_process:
        kept = _keep_largest(kept, -(-len(cameras) // max_size))
    placed = {camera for members in kept.values() for camera in members}
    for camera in cameras:
        if camera not in placed:
            number = next((n for n in sorted(kept) if len(kept[n]) < max_size), None)
            if number is None:
                number = next(n for n in range(len(kept) + 1) if n not in kept)
            kept.setdefault(number, []).append(camera)
    return GroupAssignment(max_size, {number: tuple(kept[number]) for number in sorted(kept)})


def map_shared_programs(groups: GroupAssignment) -> dict[str, str]:
    """Map `capture-<camera>`, the name of a program of its own, to the program that the camera shares."""
    if groups.cameras_per_process == 1:
        return {}
    return {
        f"capture-{camera}": f"capture-group-{number}"
        for number, members in groups.members.items()
        for camera in members
    }


def _keep_largest(groups: Mapping[int, list[str]], wanted: int) -> dict[int, list[str]]:
    """Keep the `wanted` largest groups, of equal ones those with the lowest numbers."""
    order = sorted(groups, key=lambda number: (-len(groups[number]), number))
    return {number: groups[number] for number in order[:wanted]}


def _get_path(paths: Paths) -> Path:
    return paths.data / "supervisor" / "groups.json"


def load_groups(paths: Paths) -> GroupAssignment:
    """Read the assignment that was rendered last; empty where there is none."""
    try:
        return msgspec.json.decode(_get_path(paths).read_bytes(), type=GroupAssignment)
    except (FileNotFoundError, msgspec.MsgspecError):
        return GroupAssignment()


def save_groups(paths: Paths, groups: GroupAssignment) -> None:
    """Store the assignment for the next rendering."""
    target = _get_path(paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, msgspec.json.encode(groups))


HEADER = (
    "; Rendered from crowdperf/supervision/processes.py and config.json. "
    "Do not edit: the next supervisorctl call writes it again.\n"
)
PYTHON = ".venv/bin/python"
"""Relative to the installation's folder, in which supervisord runs."""
RECORDED_VARIABLES = ("TARGET_FPS", "QUEUE_MAX", "RTSP_STIMEOUT_USEC", "FFMPEG_EXTRA_FLAGS", "CUDA_EMPTY_EVERY")


def render_program(program: Program, paths: Paths, root: Path, python: str) -> str:
    """Render the `[program:x]` section. A new digest in its environment makes supervisord restart it.

    Args:
        program: the program.
        paths: the installation's data folder.
        root: the installation's folder.
        python: path of the interpreter.

    Returns:
        The section's lines.
    """
    row = program.process
    settings = {
        "command": shlex.join([python, "-m", "crowdperf.entrypoint", *program.arguments]),
        "environment": f'CROWDPERF_SLICE="{program.digest}"',
        "autostart": "true",
        "autorestart": "true",
        # With startsecs=1 a crash loop would count as RUNNING.
        "startsecs": "5",
        # supervisord waits one second more each time: ten tries are a minute. Then the guard takes over.
        "startretries": "10",
        "stopwaitsecs": str(row.stop_s),
        "stopasgroup": "true",
        "killasgroup": "true",
        "priority": str(row.priority),
        "redirect_stderr": "true",
        "stdout_logfile": _get_log_path(paths, root, program.name).replace(
            "%", "%%"
        ),  # expanded once more than the others
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }
    lines = [f"[program:{program.name}]", *(f"{key}={value.replace('%', '%%')}" for key, value in settings.items())]
    return "\n".join(lines) + "\n"


def _get_log_path(paths: Paths, root: Path, name: str) -> str:
    """Return the log's path, relative where possible: no character of the folder's name needs quoting."""
    log = paths.logs.absolute() / f"{name}.log"
    return str(log.relative_to(root)) if log.is_relative_to(root) else str(log)


def render(
    config: Config, env: Environment, paths: Paths, root: Path, python: str, groups: GroupAssignment | None = None
) -> str:
    """Render the whole include file.

    Args:
        config: the configuration.
        env: the documented environment variables.
        paths: the installation's data folder.
        root: the installation's folder.
        python: path of the interpreter.
        groups: which cameras share a process; None assigns them from scratch.

    Returns:
        The file's text.
    """
    rows = build_programs(config, env, paths, root, groups)
    return HEADER + "\n" + "\n".join(render_program(row, paths, root, python) for row in rows)


def write_include_file(config: Config, env: Environment, paths: Paths, root: Path) -> bool:
    """Write the include file, the groups and the reload files.

    Args:
        config: the configuration.
        env: the documented environment variables.
        paths: the installation's data folder.
        root: the installation's folder.

    Returns:
        Whether the include file has changed.
    """
    groups = group_cameras(config, load_groups(paths))
    reload.write_reload_file(paths.model_selection_file, get_selection(config.inference))
    reload.write_reload_file(paths.web_reload_file, get_reloadable(build_web_config(config, paths)))
    text = render(config, env, paths, root, PYTHON if (root / PYTHON).exists() else sys.executable, groups)
    save_groups(paths, groups)
    target = paths.data / "supervisor" / "programs.conf"
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    write_file(target, text.encode())
    return True


def record_environment(paths: Paths, variables: Mapping[str, str]) -> None:
    """Store the documented variables with which supervisord, and so every program, was started.

    supervisorctl may run in another shell. What it renders must fit the programs' environment, not its own.
    """
    folder = paths.data / "supervisor"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: variables[name] for name in RECORDED_VARIABLES if name in variables}
    if variables.get(POSTGRES_DSN, "").strip():
        # The value is a secret. Here it only matters that it is set.
        kept[POSTGRES_DSN] = "set"
    kept["CROWDPERF_CONFIG"] = variables.get("CROWDPERF_CONFIG", "config.json")
    (folder / "environment.json").write_bytes(msgspec.json.encode(kept))


def load_recorded_environment(paths: Paths) -> dict[str, str]:
    """Read what `record_environment` stored; this process's environment where there is nothing."""
    try:
        raw = (paths.data / "supervisor" / "environment.json").read_bytes()
    except FileNotFoundError:
        return dict(os.environ)
    return msgspec.json.decode(raw, type=dict[str, str])


def refresh(root: Path) -> bool:
    """Render the include file of the installation at `root` from its configuration file.

    Raises:
        ConfigError: the configuration is invalid; the include file stays unchanged.
    """
    paths = Paths(root / "var")
    variables = load_recorded_environment(paths)
    config = load(root / variables.get("CROWDPERF_CONFIG", "config.json"))
    return write_include_file(config, read_environment(variables), paths, root)
