"""The file under a ring: opening, creating, locking and removing it, and the fence that orders its words."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import stat
import sys
import threading
from pathlib import Path

from crowdperf.frames import layout
from crowdperf.frames.layout import RingSpec
from crowdperf.primitives.atomic_file import replace_file


class RingError(Exception):
    """A ring cannot be made; the message names the ring, the need and the remedy."""


class RingFull(RingError):
    """There is no room for it."""

    made_way = 0
    """Epoch of the ring that was removed to make room for this one; its pages go when its readers let go of them."""


class RingBusy(RingError):
    """Another live writer has the ring, as for a moment when a camera moves from one process to another."""


PRIVATE_MODE = 0o700
"""Mode of the folder of an installation's rings."""
NEEDS_FENCE = platform.machine() not in ("x86_64", "AMD64", "i686")
"""Whether the processor may swap two stores, or two loads; asked before each `fence` to save its call."""
_FENCE = threading.Lock()


def fence() -> None:
    """Order the loads and stores before this call before those after it, if the processor does not.

    Nothing to do on x86-64 (`NEEDS_FENCE`). Elsewhere two rounds through a lock: what precedes stays before the first
    release, what follows stays after the second acquire, and those two are ordered as operations on one word.
    """
    if NEEDS_FENCE:
        for _ in range(2):
            _FENCE.acquire()
            _FENCE.release()


def words(mapping: mmap.mmap) -> memoryview:
    """View the mapping as native u64: one 8-byte access an item, while struct's `<Q` goes byte by byte."""
    return memoryview(mapping).cast("Q")


def start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot: with the pid it names a process for ever."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return int(stat.rpartition(")")[2].split()[19])


def read_header(fd: int) -> tuple[RingSpec, int] | str:
    """Read spec and epoch of an open ring file; return the reason if it is none."""
    raw = os.pread(fd, (layout.F_MODEL_WIDTH + 1) * 8, 0)
    if len(raw) < (layout.F_MODEL_WIDTH + 1) * 8:
        return "it is shorter than a ring's header"
    return layout.parse_header(memoryview(raw).cast("Q").tolist(), os.fstat(fd).st_size)


def open_folder(folder: Path) -> None:
    """Create the private folder of an installation's rings, or check that the present one is private.

    Every user may create files beside it. One who made the folder, or a ring, beforehand could read all pictures.

    Raises:
        RingError: It belongs to another user, is open to others, or cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        try:
            folder.mkdir(PRIVATE_MODE)
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            raise RingError(
                f"the folder of rings {str(folder)!r} cannot be created: {error.strerror}. "
                f"Remedy: see that {str(folder.parent)!r} exists and that this user may write there."
            ) from None
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        reason = f"it cannot be opened: {error.strerror}"
    else:
        try:
            reason = find_stranger(fd)
        finally:
            os.close(fd)
    if reason:
        raise RingError(
            f"the folder of rings {str(folder)!r} is not private: {reason}. Remedy: remove it, and see who made it."
        )


def find_stranger(fd: int) -> str:
    """Return who else may read an open file or folder; empty if only this user may."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, and this process runs as {os.geteuid()}"
    mode = stat.S_IMODE(status.st_mode)
    return f"other users may use it (mode {mode:04o})" if mode & 0o077 else ""


def is_at(fd: int, path: Path) -> bool:
    """Check whether the open file is the one that `path` names now."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


def unlink_instance(prefix: str) -> list[Path]:
    """Remove this user's ring files whose path begins with `prefix`, then their folder if it is empty.

    A folder that is open to others, such as /dev/shm itself, stays.

    Returns:
        The removed files.

    Raises:
        RingError: The prefix names a folder.
    """
    folder, _, name = prefix.rpartition("/")
    if not name:
        raise RingError(f"the ring prefix {prefix!r} names a folder. Remedy: pass the prefix of one installation.")
    removed = []
    # The folder may be /dev/shm, where files of other programs come and go meanwhile.
    for path in sorted(path for path in Path(folder).glob("*") if path.name.removeprefix(".").startswith(name)):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                path.unlink()
                removed.append(path)
    with contextlib.suppress(OSError):
        if stat.S_IMODE(os.stat(folder).st_mode) == PRIVATE_MODE:
            Path(folder).rmdir()
    return removed


def remove(path: Path) -> None:
    """Remove the ring that a killed writer has left at `path`; a ring with a live writer stays."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        opened.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(fd, path):
            path.unlink()


def lock(fd: int, path: Path) -> None:
    """Claim the ring for this process, whose end frees it; raise RingBusy if a live writer has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        header = memoryview(os.pread(fd, layout.HEADER_WORDS * 8, 0)).cast("Q")
        owner = header[layout.F_OWNER_PID] if len(header) > layout.F_OWNER_PID else "unknown"
        raise RingBusy(
            f"ring {str(path)!r} is being written by process {owner}. "
            "Remedy: stop that capture process, or start this one with another data folder."
        ) from None


def create(path: Path, spec: RingSpec, epoch: int) -> int:
    """Create a locked new ring; `path` names it only once its header is whole.

    Args:
        path: of the ring.
        spec: its geometry.
        epoch: its epoch.

    Returns:
        The file descriptor, which holds the lock.

    Raises:
        RingFull: no room.
        RingError: no permission.
    """
    # The temporary name has a leading dot: a search for the rings of an installation must not find an unfinished one.
    with contextlib.ExitStack() as on_failure:
        with replace_file(path) as temporary:
            try:
                free = _free(path)
                if free < spec.file_bytes:
                    raise _make_full_error(path, spec, free)
                temporary.unlink(missing_ok=True)
                fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise RingError(
                    f"ring {str(path)!r} cannot be created: {error.strerror}. "
                    f"Remedy: see that {str(path.parent)!r} exists and that this user may write there."
                ) from None
            on_failure.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                # ftruncate would succeed past the end of the tmpfs, and a later store would kill us by SIGBUS.
                os.posix_fallocate(fd, 0, spec.file_bytes)
            except OSError:
                os.ftruncate(fd, 0)
                raise _make_full_error(path, spec, _free(path)) from None
            os.pwrite(fd, b"".join(word.to_bytes(8, sys.byteorder) for word in layout.header_words(spec, epoch)), 0)
        on_failure.pop_all()
    return fd


def _free(path: Path) -> int:
    """Bytes that are free in the file system of `path`."""
    status = os.statvfs(path.parent)
    return status.f_bavail * status.f_frsize


def _make_full_error(path: Path, spec: RingSpec, free: int) -> RingFull:
    """Describe a tmpfs without room, with the free bytes that were found."""
    return RingFull(
        f"ring {str(path)!r} needs {spec.file_bytes / 2**20:.1f} MiB ({spec.slots} slots of {spec.width}x"
        f"{spec.height} {spec.pix_fmt}) and {str(path.parent)!r} has {free / 2**20:.1f} MiB free. "
        "Remedy: enlarge it (mount -o remount,size=…; docker --shm-size), or lower analysis_width or QUEUE_MAX."
    )
