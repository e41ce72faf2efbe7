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
from crowdperf.settings.config import Config, Deployment, load
from crowdperf.settings.engine import get_selection, without_selection
from crowdperf.settings.environment import POSTGRES_DSN, Paths, read_environment
from crowdperf.settings.worker_config import build_worker_config
from crowdperf.supervision.processes import PROCESSES, ProcessSpec


class GroupAssignment(Struct, frozen=True):
    """Which cameras share a capture process."""

    cameras_per_process: int = 1
    members: dict[int, tuple[str, ...]] = {}
    """Number of the group -> its cameras."""


NO_GROUPS = GroupAssignment()


def group_cameras(config: Config, previous: GroupAssignment) -> GroupAssignment:
    """Assign the enabled cameras to groups and move as few as possible."""
    return assign_groups(
        [camera.id for camera in config.cameras if camera.enabled], config.cameras_per_process, previous
    )


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


def load_groups(paths: Paths) -> GroupAssignment:
    """Read the assignment that was rendered last; empty where there is none."""
    try:
        return msgspec.json.decode((paths.supervisor / "groups.json").read_bytes(), type=GroupAssignment)
    except (FileNotFoundError, msgspec.MsgspecError):
        return GroupAssignment()


def save_groups(paths: Paths, groups: GroupAssignment) -> None:
    """Store the assignment for the next rendering."""
    paths.supervisor.mkdir(parents=True, exist_ok=True)
    write_file(paths.supervisor / "groups.json", msgspec.json.encode(groups))


class Program(Struct, frozen=True, kw_only=True):
    """One program of supervisord."""

    name: str
    arguments: tuple[str, ...]
    """What follows `python -m crowdperf`."""
    process: ProcessSpec
    digest: str
    """Hash of the settings that the program reads; it restarts when the hash changes."""


def build_programs(deployment: Deployment, previous: GroupAssignment = NO_GROUPS) -> tuple[Program, ...]:
    """List every program but event listeners; cameras keep their group of the previous assignment."""
    groups = group_cameras(deployment.config, previous)
    return tuple(
        Program(
            name=name,
            arguments=arguments,
            process=row,
            digest=compute_digest(msgspec.msgpack.encode(_build_process_config(row, name, arguments, deployment)), 12),
        )
        for row in PROCESSES
        for name, arguments in _list_instances(row, deployment, groups)
    )


def _list_instances(
    row: ProcessSpec, deployment: Deployment, groups: GroupAssignment
) -> list[tuple[str, tuple[str, ...]]]:
    """List names and arguments of one row's programs."""
    config = deployment.config
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
    if row.instances == "one" or (row.instances == "postgres" and deployment.postgres_dsn):
        return [(row.kind, (command, role) if role else (command,))]
    return []


def _build_process_config(row: ProcessSpec, name: str, arguments: tuple[str, ...], deployment: Deployment) -> object:
    """Build the part of the configuration that the program reads."""
    last = name.rpartition(f"{row.kind}-")[2]
    if row.kind == "capture":
        members = arguments[3:] if "--name" in arguments else arguments[1:]
        return process_config.build_capture_group_config(deployment, name, members)
    if row.kind == "inference":
        whole = process_config.build_inference_config(deployment)
        # Inference changes models without a restart.
        return msgspec.structs.replace(whole, settings=without_selection(whole.settings))
    if row.kind == "tracking":
        return process_config.build_tracking_config(deployment, int(last))
    if row.kind.startswith("worker-"):
        instance = int(last) if row.instances == "worker" else 0
        return build_worker_config(deployment, row.kind.partition("-")[2], instance)
    if row.kind == "web":
        # Web reloads cameras, areas and rules without a restart, so no page is interrupted.
        return process_config.replace_reloadable(
            process_config.build_web_config(deployment), process_config.WebReloadable()
        )
    if row.kind == "redis":
        return deployment.config.redis.memory_mb
    return None


HEADER = (
    "; Rendered from crowdperf/supervision/processes.py and config.json. "
    "Do not edit: the next supervisorctl call writes it again.\n"
)
PYTHON = ".venv/bin/python"
"""Relative to the installation's folder, in which supervisord runs."""
RECORDED_VARIABLES = ("TARGET_FPS", "QUEUE_MAX", "RTSP_STIMEOUT_USEC", "FFMPEG_EXTRA_FLAGS", "CUDA_EMPTY_EVERY")


def render_program(program: Program, deployment: Deployment, python: str) -> str:
    """Render the `[program:x]` section. A new digest in its environment makes supervisord restart it.

    Args:
        program: the program.
        deployment: the installation.
        python: path of the interpreter.

    Returns:
        The section's lines.
    """
    row = program.process
    log = deployment.paths.logs.absolute() / f"{program.name}.log"
    # Relative where possible: no character of the folder's name needs quoting then.
    logfile = str(log.relative_to(deployment.root) if log.is_relative_to(deployment.root) else log)
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
        # Expanded once more than the others.
        "stdout_logfile": logfile.replace("%", "%%"),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "3",
    }
    lines = [f"[program:{program.name}]", *(f"{key}={value.replace('%', '%%')}" for key, value in settings.items())]
    return "\n".join(lines) + "\n"


def render(deployment: Deployment, python: str, previous: GroupAssignment = NO_GROUPS) -> str:
    """Render the whole include file.

    Args:
        deployment: the installation.
        python: path of the interpreter.
        previous: the last assignment of cameras to groups.

    Returns:
        The file's text.
    """
    rows = build_programs(deployment, previous)
    return HEADER + "\n" + "\n".join(render_program(row, deployment, python) for row in rows)


def write_include_file(deployment: Deployment) -> bool:
    """Write the include, groups and reload files; return whether the include file has changed."""
    config, paths, root = deployment.config, deployment.paths, deployment.root
    groups = group_cameras(config, load_groups(paths))
    reload.write_reload_file(paths.model_selection_file, get_selection(config.inference))
    web_config = process_config.build_web_config(deployment)
    reload.write_reload_file(paths.web_reload_file, process_config.get_reloadable(web_config))
    text = render(deployment, PYTHON if (root / PYTHON).exists() else sys.executable, groups)
    save_groups(paths, groups)
    target = paths.supervisor / "programs.conf"
    if target.exists() and target.read_text(encoding="utf-8") == text:
        return False
    write_file(target, text.encode())
    return True


def record_environment(paths: Paths, variables: Mapping[str, str]) -> None:
    """Store the documented variables with which supervisord, and so every program, was started.

    supervisorctl may run in another shell. What it renders must fit the programs' environment, not its own.
    """
    kept = {name: variables[name] for name in RECORDED_VARIABLES if name in variables}
    if variables.get(POSTGRES_DSN, "").strip():
        # The value is a secret. Here it only matters that it is set.
        kept[POSTGRES_DSN] = "set"
    kept["CROWDPERF_CONFIG"] = variables.get("CROWDPERF_CONFIG", "config.json")
    paths.supervisor.mkdir(parents=True, exist_ok=True)
    write_file(paths.supervisor / "environment.json", msgspec.json.encode(kept))


def load_recorded_environment(paths: Paths) -> dict[str, str]:
    """Read what `record_environment` stored; this process's environment where there is nothing."""
    try:
        raw = (paths.supervisor / "environment.json").read_bytes()
    except FileNotFoundError:
        return dict(os.environ)
    return msgspec.json.decode(raw, type=dict[str, str])


def refresh(root: Path) -> bool:
    """Render the include file of the installation at `root`, unless its configuration is invalid."""
    paths = Paths(root / "var")
    variables = load_recorded_environment(paths)
    config = load(root / variables.get("CROWDPERF_CONFIG", "config.json"))
    return write_include_file(Deployment(config, paths, read_environment(variables), root))
