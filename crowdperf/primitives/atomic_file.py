"""Replace files as a whole: a reader finds the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replace_file(target: Path, *, suffix: str = "part") -> Iterator[Path]:
    """Yield a temporary path in the folder of `target`, and rename it to `target` when the block ends.

    The temporary file is removed when the block raises, KeyboardInterrupt included.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_file(target: Path, content: bytes, *, mode: int | None = None, sync: bool = False) -> None:
    """Write a file by way of a temporary file and a rename.

    Args:
        target: the file; a symbolic link stays, the file that it names is replaced.
        content: all of the new content.
        mode: permission bits; None leaves them to the umask.
        sync: whether the content is on the disk before the rename, for files that must survive a power cut.

    Raises:
        OSError: the file could not be written, for example on a full disk. The old file stays.
    """
    with replace_file(target.resolve(), suffix="tmp") as temporary:
        _write_and_close(temporary, content, mode, sync)


def create_private_file(target: Path, content: bytes) -> None:
    """Write a file that only this user can read, unless it exists already.

    Processes and threads that start together agree on one complete content.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        _write_and_close(temporary, content, 0o600, False)
        # A link never replaces.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_and_close(path: Path, content: bytes, mode: int | None, sync: bool) -> None:
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    with os.fdopen(os.open(path, flags, 0o666 if mode is None else mode), "wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
