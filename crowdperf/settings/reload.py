"""Reload files: `supervisorctl update` writes settings that a running process applies without a restart.

These settings are not part of the digest that makes supervisord restart the process.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from crowdperf.primitives.atomic_file import write_file

T = TypeVar("T")


def write_reload_file(path: Path, content: object) -> None:
    """Write `content` as JSON by atomic rename, unless the file holds it already."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text:
            return
    # Camera addresses are private: only the owner may read the file.
    write_file(path, text, mode=0o600)


class ReloadFile(Generic[T]):
    """Reader of a reload file. Only a change after the start counts: the configuration holds the rest.

    Args:
        path: The file.
        kind: Type of its content.
        since: Unix seconds at which the process began to read its configuration. A file written later counts as a
            change. By default a file that exists at the start never does.
    """

    def __init__(self, path: Path, kind: type[T], since: float = float("inf")) -> None:
        self._path = path
        self._kind = kind
        self._seen = self._read_stamp()
        if self._seen is not None and self._seen[1] / 1e9 >= since:
            self._seen = None

    def read_if_changed(self) -> T | None:
        """Return the new content once; None where nothing changed or the file cannot be read."""
        stamp = self._read_stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=self._kind)
        except (OSError, msgspec.DecodeError):
            return None

    def _read_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
