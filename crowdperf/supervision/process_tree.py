"""End processes together with the one that started them (prctl(2), Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import shutil
import signal
import subprocess
import time

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends, even by kill -9.

    More exactly: when the thread that started it ends. execve keeps the setting, except for setuid programs and those
    with capabilities. fork clears it. A parent that has already ended is not noticed: see `has_reader`.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


@functools.cache
def find_setpriv() -> str | None:
    """Find a `setpriv` that ends a program with its parent; None where there is none or it is too old.

    That of util-linux before 2.33 and that of busybox lack the option.
    """
    path = shutil.which("setpriv")
    if path is None:
        return None
    try:
        tried = subprocess.run([path, "--pdeathsig", "KILL", "--", "true"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return path if tried.returncode == 0 else None


def has_reader(descriptor: int) -> bool:
    """Check whether a pipe still has a reader.

    supervisord reads its programs' output through pipes, so this shows whether it still runs. The parent's pid does
    not: orphans may get another parent than 1.
    """
    poll = select.poll()
    poll.register(descriptor, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def adopt_orphans() -> None:
    """Make this process the parent of every descendant that loses its own."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


POLL_INTERVAL_S = 0.05


def wait_for_child(child: subprocess.Popen[bytes]) -> int:
    """Wait for the child and reap orphans meanwhile; the status is negative where a signal ended it."""
    while child.poll() is None:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_pid != child.pid:
            os.waitpid(ended.si_pid, 0)
    return int(child.returncode)


def terminate_descendants(timeout_s: float) -> None:
    """End every descendant of this process and return when none is left.

    SIGTERM first, SIGKILL after `timeout_s`. A Popen among them must have been waited for before.
    """
    deadline = time.monotonic() + timeout_s
    signalled: set[tuple[psutil.Process, int]] = set()
    while _reap_children():
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        # Listed each time: a process that has just lost its parent has become a child.
        for child in psutil.Process().children():
            if (child, number) not in signalled:
                signalled.add((child, number))
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
        time.sleep(POLL_INTERVAL_S)


def _reap_children() -> bool:
    """Reap all children that have ended; return whether others are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
