"""What an update would install, said before it is."""

from __future__ import annotations

from packaging.utils import canonicalize_name

from crowdperf.cli.packages import find_changes

LOCK = """
litestar==2.25.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.2.6 ; python_full_version < '3.10' \\
    --hash=sha256:cc
numpy==2.4.6 ; python_full_version >= '3.10' \\
    --hash=sha256:dd
Ruamel.Yaml==1.0 \\
    --hash=sha256:ee
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:ff
"""


def test_changes_name_the_old_and_the_new_version() -> None:
    rows = {"litestar": "2.24.0", "numpy": "2.4.6", "own-tool": "7"}
    installed = {canonicalize_name(name): version for name, version in rows.items()}
    assert find_changes(LOCK, installed) == ["litestar 2.24.0 -> 2.25.0", "ruamel-yaml (not installed) -> 1.0"]


def test_same_versions_are_no_changes() -> None:
    rows = {"litestar": "2.25.0", "numpy": "2.4.6", "ruamel-yaml": "1.0"}
    assert find_changes(LOCK, {canonicalize_name(name): version for name, version in rows.items()}) == []
