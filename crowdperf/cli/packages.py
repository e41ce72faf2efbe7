"""Say which packages a lock file would install or replace: `python -m crowdperf.cli.packages requirements.lock`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name


def read_lock(text: str) -> Iterator[Requirement]:
    """Read the requirements of a lock file, those of other interpreters included."""
    for line in text.splitlines():
        # The lines that follow a requirement hold its hashes.
        if line[:1].isalnum():
            yield Requirement(line.removesuffix("\\"))


def get_version(requirement: Requirement) -> str:
    """Return the one version that a requirement of a lock file allows."""
    return next(iter(requirement.specifier)).version


def find_changes(lock: str, installed: Mapping[NormalizedName, str]) -> list[str]:
    """Compare a lock file with the installed packages.

    Args:
        lock: Text of the lock file.
        installed: Installed versions by normalised name.

    Returns:
        One line for each package that is missing or has another version.
    """
    wanted = {
        canonicalize_name(row.name): get_version(row)
        for row in read_lock(lock)
        if row.marker is None or row.marker.evaluate()
    }
    return [
        f"{name} {installed.get(name, '(not installed)')} -> {version}"
        for name, version in sorted(wanted.items())
        if installed.get(name) != version
    ]


def main(words: list[str]) -> None:
    """Print the changes that the lock file makes."""
    installed = {canonicalize_name(row.metadata["Name"]): row.version for row in metadata.distributions()}
    for line in find_changes(Path(words[0]).read_text(encoding="utf-8"), installed):
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
