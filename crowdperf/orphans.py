"""No process of ours outlives the one that started it, and none that does is lost sight of (prctl(2), Linux)."""

from __future__ import annotations

import ctypes
import select
import signal

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
