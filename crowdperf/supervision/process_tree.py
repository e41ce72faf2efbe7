"""No process of ours outlives the one that started it, and none that does is lost sight of (prctl(2), Linux).

What `crowdperf run` does with the processes below it, once it adopts orphans (`orphans.adopt`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import time

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends, even by kill -9.

    More exactly: when the thread ends that started it. execve keeps the wish (unless the program is setuid or has
    capabilities of its own), fork does not. A parent that is gone already is not noticed: see `is_read`.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def has_reader(descriptor: int) -> bool:
    """Whether anybody can still read what is written there; False for a pipe whose reader has ended.

    supervisord reads its programs' output through pipes, so this is how a program sees that it is gone. The number of
    the parent does not tell: orphans may go to another process than 1.
    """
    poll = select.poll()
    poll.register(descriptor, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def adopt_orphans() -> None:
    """From now on whatever loses its parent below this process becomes its child, to be waited for or ended."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


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
