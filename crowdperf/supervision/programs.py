"""The process table expanded for one configuration: which programs there are and what each depends on.

Which cameras share a capture process (`cameras_per_process`): pure, and sticky, so that an edit moves few cameras.

A camera stays where it is as long as it exists. A new one goes into the first group with room, else into a new group.
Only another `cameras_per_process` moves cameras: what no longer fits goes elsewhere, and groups that are no longer
needed are dissolved, the smallest first.

supervisord's generated include file: one stanza per program of the present configuration.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from crowdperf.common.atomic_file import write_file
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
    """Of the program's slice of the configuration: another digest means that this program has to restart."""


def build_programs(
    config: Config, env: Environment, paths: Paths, root: Path, groups: GroupAssignment | None = None
) -> tuple[Program, ...]:
    """Every program of this configuration, event listeners (which supervisord.conf itself names) left out.

    `groups` says which cameras share a process, where `cameras_per_process` is more than one.
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
    """The enabled cameras in groups, as few of them moved as can be."""
    return assign_groups(
        [camera.id for camera in config.cameras if camera.enabled], config.cameras_per_process, previous
    )


def _list_instances(
    row: ProcessSpec, config: Config, env: Environment, groups: GroupAssignment
) -> list[tuple[str, tuple[str, ...]]]:
    """Names and arguments of one row's programs."""
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
    """What the program reads of the configuration."""
    last = name.rpartition(f"{row.kind}-")[2]
    if row.kind == "capture":
        members = arguments[3:] if "--name" in arguments else arguments[1:]
        return process_config.build_capture_group_config(config, env, paths, root, name, members)
    if row.kind == "inference":
        whole = process_config.build_inference_config(config, env, paths)
        # Another choice of models is taken over at run time.
        return msgspec.structs.replace(whole, settings=without_selection(whole.settings))
    if row.kind == "tracking":
        return process_config.build_tracking_config(config, env, paths, int(last))
    if row.kind.startswith("worker-"):
        instance = int(last) if row.instances == "worker" else 0
        return build_config_for_role(config, env, paths, row.kind.partition("-")[2], instance)
    if row.kind == "web":
        # Cameras, areas and rules are taken over at run time: nobody's page is interrupted.
        return process_config.replace_reloadable(
            process_config.build_web_config(config, paths), process_config.WebReloadable()
        )
    if row.kind == "redis":
        return config.redis.memory_mb
    return None


def _compute_digest(config: object) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(config)).hexdigest()[:12]


class GroupAssignment(Struct, frozen=True):
    """The assignment as it was rendered last."""

    cameras_per_process: int = 1
    members: dict[int, tuple[str, ...]] = {}
    """Number of the group -> its cameras."""


def assign_groups(cameras: Sequence[str], max_size: int, previous: GroupAssignment) -> GroupAssignment:
    """The groups of `cameras` (enabled ones, in the order of the configuration), `size` at most in each."""
    there = set(cameras)
    kept = {number: [one for one in members if one in there][:max_size] for number, members in previous.members.items()}
    kept = {number: members for number, members in kept.items() if members}
    if max_size != previous.cameras_per_process:
        kept = _keep_largest(kept, -(-len(cameras) // max_size))
    placed = {one for members in kept.values() for one in members}
    for camera in cameras:
        if camera not in placed:
            number = next((n for n in sorted(kept) if len(kept[n]) < max_size), None)
            if number is None:
                number = next(n for n in range(len(kept) + 1) if n not in kept)
            kept.setdefault(number, []).append(camera)
    return GroupAssignment(max_size, {number: tuple(kept[number]) for number in sorted(kept)})


def map_shared_programs(groups: GroupAssignment) -> dict[str, str]:
    """`capture-<camera>`, as its own program would be called -> the program that it shares with others."""
    if groups.cameras_per_process == 1:
        return {}
    return {
        f"capture-{camera}": f"capture-group-{number}" for number, each in groups.members.items() for camera in each
    }


def _keep_largest(groups: Mapping[int, list[str]], wanted: int) -> dict[int, list[str]]:
    """The `wanted` largest groups; of equal ones those with the lowest numbers."""
    order = sorted(groups, key=lambda number: (-len(groups[number]), number))
    return {number: groups[number] for number in order[:wanted]}


def _get_path(paths: Paths) -> Path:
    return paths.data / "supervisor" / "groups.json"


def load_groups(paths: Paths) -> GroupAssignment:
    """The assignment that was rendered last; none where nothing was."""
    try:
        return msgspec.json.decode(_get_path(paths).read_bytes(), type=GroupAssignment)
    except (FileNotFoundError, msgspec.MsgspecError):
        return GroupAssignment()


def save_groups(paths: Paths, groups: GroupAssignment) -> None:
    """Keep it for the next time, by an atomic rename."""
    target = _get_path(paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(target, msgspec.json.encode(groups))


HEADER = (
    "; Rendered from crowdperf/supervision/processes.py and config.json. "
    "Do not edit: the next supervisorctl call writes it again.\n"
)
PYTHON = ".venv/bin/python"
"""From the installation's folder, which supervisord runs in."""
RECORDED_VARIABLES = ("TARGET_FPS", "QUEUE_MAX", "RTSP_STIMEOUT_USEC", "FFMPEG_EXTRA_FLAGS", "CUDA_EMPTY_EVERY")


def render_program(program: Program, paths: Paths, root: Path, python: str) -> str:
    """The `[program:x]` section. The digest rides in the environment, where a change makes supervisord restart it."""
    row = program.process
    settings = {
        "command": shlex.join([python, "-m", "crowdperf.entrypoint", *program.arguments]),
        "environment": f'CROWDPERF_SLICE="{program.digest}"',
        "autostart": "true",
        "autorestart": "true",
        # startsecs=1 would read a crash loop as RUNNING.
        "startsecs": "5",
        # supervisord waits one second more each time, so ten tries are a minute; then the guard takes over.
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
    """The program's log: from the installation's folder, so that no character of that stands in the file."""
    log = paths.logs.absolute() / f"{name}.log"
    return str(log.relative_to(root)) if log.is_relative_to(root) else str(log)


def render(
    config: Config, env: Environment, paths: Paths, root: Path, python: str, groups: GroupAssignment | None = None
) -> str:
    """The whole include file."""
    rows = build_programs(config, env, paths, root, groups)
    return HEADER + "\n" + "\n".join(render_program(row, paths, root, python) for row in rows)


def write_include_file(config: Config, env: Environment, paths: Paths, root: Path) -> bool:
    """Write the include file by an atomic rename; False when it already said the same."""
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
    """Keep the documented variables that supervisord, and so every program, was started with.

    supervisorctl may be called from another shell: what it renders has to fit the programs' environment, not its own.
    """
    folder = paths.data / "supervisor"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: variables[name] for name in RECORDED_VARIABLES if name in variables}
    if variables.get(POSTGRES_DSN, "").strip():
        # Its value is a secret, and the programs have it in their environment: what matters here is that it is set.
        kept[POSTGRES_DSN] = "set"
    kept["CROWDPERF_CONFIG"] = variables.get("CROWDPERF_CONFIG", "config.json")
    (folder / "environment.json").write_bytes(msgspec.json.encode(kept))


def load_recorded_environment(paths: Paths) -> dict[str, str]:
    """What `record_environment` kept; the present environment where nothing was."""
    try:
        raw = (paths.data / "supervisor" / "environment.json").read_bytes()
    except FileNotFoundError:
        return dict(os.environ)
    return msgspec.json.decode(raw, type=dict[str, str])


def refresh(root: Path) -> bool:
    """Bring the include file of the installation at `root` in line with its configuration file.

    Raises:
        ConfigError: the configuration is invalid; the include file stays as it was.
    """
    paths = Paths(root / "var")
    variables = load_recorded_environment(paths)
    config = load(root / variables.get("CROWDPERF_CONFIG", "config.json"))
    return write_include_file(config, read_environment(variables), paths, root)
