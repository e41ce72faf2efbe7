"""Cores by affinity and by the CPU quota of the control group: versions 1 and 2, parents, containers."""

from __future__ import annotations

import pytest

from crowdperf.runtime.control_group import UsableCores, compute_cpu_quota, compute_memory_limit, read_text

V1_MOUNT = "32 31 0:29 {root} /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2_MOUNT = "32 31 0:29 {root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def quota(group: str, mounts: str, files: dict[str, str]) -> float | None:
    """Return the quota with these files below /sys/fs/cgroup."""
    contents = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    contents |= {"/proc/self/cgroup": group, "/proc/self/mountinfo": mounts}
    return compute_cpu_quota(contents.get)


def test_version_2_takes_the_smallest_of_group_and_parents() -> None:
    files = {
        "site.slice/crowdperf.service/cpu.max": "max 100000\n",
        "site.slice/cpu.max": "150000 100000\n",
        "cpu.max": "400000 100000\n",
    }
    assert quota("0::/site.slice/crowdperf.service\n", V2_MOUNT.format(root="/"), files) == 1.5
    files["site.slice/crowdperf.service/cpu.max"] = "25000 50000\n"
    assert quota("0::/site.slice/crowdperf.service\n", V2_MOUNT.format(root="/"), files) == 0.5


def test_version_1_takes_the_smallest_of_group_and_parents() -> None:
    files = {
        "cpu/a/b/cpu.cfs_quota_us": "-1\n",
        "cpu/a/b/cpu.cfs_period_us": "100000\n",
        "cpu/a/cpu.cfs_quota_us": "200000\n",
        "cpu/a/cpu.cfs_period_us": "100000\n",
    }
    group = "5:memory:/other\n4:cpuacct,cpu:/a/b\n0::/\n"
    assert quota(group, V1_MOUNT.format(root="/"), files) == 2.0


@pytest.mark.parametrize("root", ["/docker/0a1b", "/docker/0a1b/inner"])
def test_a_container_sees_its_group_at_the_mount_point(root: str) -> None:
    files = {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert quota("4:cpu,cpuacct:/docker/0a1b\n", V1_MOUNT.format(root=root), files) == 3.0


def test_a_group_outside_its_namespace_is_its_mount_point() -> None:
    assert quota("0::/../sibling\n", V2_MOUNT.format(root="/"), {"cpu.max": "100000 100000\n"}) == 1.0


def test_a_mount_point_with_a_space_is_found() -> None:
    mounts = r"32 31 0:29 / /sys/fs/cgroup/a\040b rw - cgroup2 cgroup2 rw" + "\n"
    assert quota("0::/\n", mounts, {"a b/cpu.max": "100000 100000\n"}) == 1.0


@pytest.mark.parametrize("text", ["max 100000\n", "\n", "100000 0\n", "word 100000\n", "100000\n"])
def test_what_is_no_limit_is_none(text: str) -> None:
    assert quota("0::/\n", V2_MOUNT.format(root="/"), {"cpu.max": text}) is None


def test_nothing_mounted_is_no_limit() -> None:
    assert compute_cpu_quota(lambda path: None) is None
    assert quota("strange\n", "strange\n1 2 3 - cgroup2\n", {}) is None
    assert read_text("/proc/self/no-such-file") is None


def test_memory_is_the_smallest_limit_of_group_and_parents() -> None:
    mounts = "33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    files = {
        "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n",
        "/sys/fs/cgroup/a/memory.max": "max\n",
        "/sys/fs/cgroup/memory.max": "3000\n",
        "/proc/self/cgroup": "4:memory:/a\n0::/a\n",
        "/proc/self/mountinfo": mounts,
    }
    assert compute_memory_limit(files.get) == 1000
    files["/proc/self/mountinfo"] = V2_MOUNT.format(root="/")
    assert compute_memory_limit(files.get) == 3000
    assert compute_memory_limit(lambda path: None) is None


def test_whole_cores_are_used_and_at_least_one() -> None:
    limits = [(4, None), (4, 2.0), (2, 8.0), (4, 1.9), (4, 0.2)]
    assert [UsableCores(*limit).whole for limit in limits] == [4, 2, 2, 1, 1]
    assert UsableCores(4, 1.5).description == "usable cores: 1 (affinity 4, CPU quota of the control group 1.5)"
