"""What `crowdperf run` does with the processes below it, once it adopts orphans (`orphans.adopt`)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import psutil

POLL_INTERVAL_S = 0.05


def wait_for_child(child: subprocess.Popen[bytes]) -> int:
    """The child's exit status, negative where a signal ended it. Orphans that end meanwhile leave no zombies."""
    while child.poll() is None:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_pid != child.pid:
            os.waitpid(ended.si_pid, 0)
    return int(child.returncode)


def terminate_descendants(timeout_s: float) -> None:
    """End everything below this process, and return when nothing is left.

    SIGTERM first, SIGKILL for what is still there after `timeout_s`. A Popen among them has to have been waited for.
    """
    deadline = time.monotonic() + timeout_s
    told: set[tuple[psutil.Process, int]] = set()
    while _reap_children():
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        # Looked for anew each time: who has just lost its parent has become a child.
        for child in psutil.Process().children():
            if (child, number) not in told:
                told.add((child, number))
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.send_signal(number)
        time.sleep(POLL_INTERVAL_S)


def _reap_children() -> bool:
    """Wait for all children that have ended; whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True
