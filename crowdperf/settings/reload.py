"""What a running process takes over without a restart: told by a file that `supervisorctl update` writes.

The settings in such a file are no part of the digest that has supervisord restart the process.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


def write_reload_file(path: Path, content: object) -> None:
    """Write the file by atomic rename, where it does not say the same already."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text:
            return
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    # Addresses of cameras are nobody's business who has no part in the site.
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
        file.write(text)
    fresh.replace(path)


class ReloadFile(Generic[T]):
    """The reader's side: what was there at the start is in the configuration already; only a change is news.

    Args:
        path: the file.
        kind: what it holds.
        since: Unix seconds at which the process began to read its configuration; a file that was written after that
            is news. By default every file that is there already is none.
    """

    def __init__(self, path: Path, kind: type[T], since: float = float("inf")) -> None:
        self._path = path
        self._kind = kind
        self._seen = self._read_stamp()
        if self._seen is not None and self._seen[1] / 1e9 >= since:
            self._seen = None

    def read_if_changed(self) -> T | None:
        """What it says now, once; None where nothing has changed, or the file cannot be read."""
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
