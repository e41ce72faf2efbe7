"""Keep every version of the configuration in `var/config/`, with its author."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from crowdperf.primitives.atomic_file import write_file

MAX_VERSIONS = 1000


class ConfigVersion(Struct, frozen=True, kw_only=True):
    """One version. Version files hold camera passwords, as config.json does; this record holds none."""

    number: int
    at: float
    """Unix seconds."""
    who: str
    comment: str


class ConfigHistory:
    """The folder of versions. Files are written once, atomically, and only the site's user may read them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def hold_lock(self, name: str) -> Iterator[None]:
        """Hold the lock of that name. The kernel releases it when this process ends."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def list_versions(self) -> list[ConfigVersion]:
        """List the versions, oldest first."""
        rows = [msgspec.json.decode(path.read_bytes(), type=ConfigVersion) for path in self._folder.glob("*.facts")]
        return sorted(rows, key=lambda row: row.number)

    def read_file(self, number: int) -> bytes | None:
        """Read the file of a version; None where there is none."""
        try:
            return self._get_path(number).read_bytes()
        except FileNotFoundError:
            return None

    def find_current(self, text: bytes) -> ConfigVersion | None:
        """Return the newest version if its content is `text`."""
        rows = self.list_versions()
        return rows[-1] if rows and self.read_file(rows[-1].number) == text else None

    def add(self, text: bytes, at: float, who: str, comment: str) -> ConfigVersion:
        """Store a version and remove the oldest beyond `MAX_VERSIONS`.

        Args:
            text: the content of config.json.
            at: Unix seconds.
            who: the author; empty where unknown.
            comment: what was changed.

        Returns:
            The record of the new version.
        """
        rows = self.list_versions()
        version = ConfigVersion(number=rows[-1].number + 1 if rows else 1, at=at, who=who, comment=comment)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(self._get_path(version.number), text, mode=0o600, sync=True)
        # The record comes last: the version exists from here on.
        record = self._get_path(version.number).with_suffix(".facts")
        write_file(record, msgspec.json.encode(version), mode=0o600, sync=True)
        for row in rows[: max(0, len(rows) + 1 - MAX_VERSIONS)]:
            self.remove(row.number)
        return version

    def remove(self, number: int) -> None:
        """Remove a version, its record first."""
        for suffix in (".facts", ".json"):
            self._get_path(number).with_suffix(suffix).unlink(missing_ok=True)

    def _get_path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"
