"""Which cameras share a capture process (`cameras_per_process`): pure, and sticky, so that an edit moves few cameras.

A camera stays where it is as long as it exists. A new one goes into the first group with room, else into a new group.
Only another `cameras_per_process` moves cameras: what no longer fits goes elsewhere, and groups that are no longer
needed are dissolved, the smallest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from crowdperf.settings.paths import Paths


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
    fresh = target.with_suffix(".tmp")
    fresh.write_bytes(msgspec.json.encode(groups))
    fresh.replace(target)
