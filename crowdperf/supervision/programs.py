"""The process table expanded for one configuration: which programs there are and what each depends on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
from msgspec import Struct

from crowdperf import slices
from crowdperf.config import Config
from crowdperf.processes import PROCESSES, ProcessSpec
from crowdperf.rule_slices import build_config_for_role
from crowdperf.settings.choice import without_selection
from crowdperf.settings.environment import Environment
from crowdperf.settings.paths import Paths
from crowdperf.supervision.groups import GroupAssignment, assign_groups


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
    if row.instances == "one" or (row.instances == "postgres" and slices.get_postgres_dsn(config, env)):
        return [(row.kind, (command, role) if role else (command,))]
    return []


def _build_process_config(
    row: ProcessSpec, name: str, arguments: tuple[str, ...], config: Config, env: Environment, paths: Paths, root: Path
) -> object:
    """What the program reads of the configuration."""
    last = name.rpartition(f"{row.kind}-")[2]
    if row.kind == "capture":
        members = arguments[3:] if "--name" in arguments else arguments[1:]
        return slices.build_capture_group_config(config, env, paths, root, name, members)
    if row.kind == "inference":
        whole = slices.build_inference_config(config, env, paths)
        # Another choice of models is taken over at run time.
        return msgspec.structs.replace(whole, settings=without_selection(whole.settings))
    if row.kind == "tracking":
        return slices.build_tracking_config(config, env, paths, int(last))
    if row.kind.startswith("worker-"):
        instance = int(last) if row.instances == "worker" else 0
        return build_config_for_role(config, env, paths, row.kind.partition("-")[2], instance)
    if row.kind == "web":
        # Cameras, areas and rules are taken over at run time: nobody's page is interrupted.
        return slices.replace_reloadable(slices.build_web_config(config, paths), slices.WebReloadable())
    if row.kind == "redis":
        return config.redis.memory_mb
    return None


def _compute_digest(config: object) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(config)).hexdigest()[:12]
