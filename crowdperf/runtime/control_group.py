"""How many cores and how much memory this process may use, by its affinity, its control group and all parents.

Linux throttles a group that exceeds its quota, whatever the number of cores. Threads beyond it then stop each other.
Neither `os.sched_getaffinity` nor OpenVINO know of the quota. Version 1 and version 2 of control groups are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil

ReadFile = Callable[[str], str | None]
"""Returns the content of a file, or None if there is none."""


class UsableCores(NamedTuple):
    """What this process may use of the processor."""

    affinity: int
    """Cores that it may run on."""
    quota: float | None
    """Cores' worth of time that its control group may use; None without a limit."""

    @property
    def whole(self) -> int:
        """Whole cores, at least one; the rest of a quota is left to the other processes of the group."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, int(self.quota)))

    @property
    def description(self) -> str:
        """Number of cores and what bounds them, as readable text."""
        if self.quota is None:
            return f"usable cores: {self.whole} (no CPU quota)"
        return f"usable cores: {self.whole} (affinity {self.affinity}, CPU quota of the control group {self.quota:g})"


def find_usable_cores() -> UsableCores:
    """Find what this process may use."""
    return UsableCores(len(os.sched_getaffinity(0)), compute_cpu_quota(read_text))


def find_usable_memory() -> int:
    """Find the bytes of memory that this process may use: the machine's, or fewer by its control group."""
    total = int(psutil.virtual_memory().total)
    return min(total, compute_memory_limit(read_text) or total)


def compute_cpu_quota(read: ReadFile) -> float | None:
    """Compute the cores' worth of time that this process may use, from the files that `read` returns.

    A group is bound by its own quota and by that of every parent; the smallest counts. None means no limit.
    """
    quotas = []
    for folder in _iter_group_folders(read, "cpu"):
        limit = (read(f"{folder}/cpu.max") or "").split()
        if len(limit) != 2:
            limit = [(read(f"{folder}/cpu.cfs_{name}_us") or "").strip() for name in ("quota", "period")]
        # Without a limit there is no number: "max" in version 2, "-1" in version 1.
        if all(text.isdecimal() for text in limit) and int(limit[1]) > 0:
            quotas.append(int(limit[0]) / int(limit[1]))
    return min(quotas, default=None)


def compute_memory_limit(read: ReadFile) -> int | None:
    """Compute the bytes that the control group and its parents allow; None without a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    paths = [f"{folder}/{name}" for folder in _iter_group_folders(read, "memory") for name in names]
    texts = [(read(path) or "").strip() for path in paths]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def read_text(path: str) -> str | None:
    """Read a file of the kernel; None if it does not exist or may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _iter_group_folders(read: ReadFile, controller: str) -> Iterator[str]:
    """Yield the folders of the groups with that controller, from the group up to the mount point."""
    groups = [line.split(":", 2) for line in (read("/proc/self/cgroup") or "").splitlines() if line.count(":") >= 2]
    for line in (read("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        mount, kind = before.split(), after.split()
        if len(mount) < 5 or len(kind) < 3:
            continue
        root, point = (_decode_mount_path(field) for field in mount[3:5])
        for _, controllers, group in groups:
            # Version 2 has one hierarchy, which names no controllers.
            is_version_2 = kind[0] == "cgroup2" and not controllers
            is_version_1 = (
                kind[0] == "cgroup" and controller in controllers.split(",") and controller in kind[2].split(",")
            )
            if is_version_1 or is_version_2:
                yield from _list_folders(root, point, group)


def _list_folders(root: str, point: str, group: str) -> list[str]:
    """List the folders from a group up to the mount point; a container may see the latter only."""
    path = PurePosixPath(group)
    inside = path.relative_to(root) if path.is_relative_to(root) and ".." not in path.parts else PurePosixPath()
    return [str(PurePosixPath(point) / one) for one in (inside, *inside.parents)]


def _decode_mount_path(text: str) -> str:
    """Decode the octal escapes of spaces and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
