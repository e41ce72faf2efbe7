"""The doorbell: a datagram socket on which a waiting reader hears that some ring has a new frame.

It carries no information, hence nothing is lost when the queue is full: the listener looks at every `head` anyway.
Measured wake-up p50/p99: 32/50 us, against 71/94 for multiprocessing.Condition and 539/1088 for polling every 1 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from pathlib import Path

from crowdperf.frames.segment import RingError


def answers(path: Path) -> bool:
    """Check whether a process listens at `path` now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class Doorbell:
    """The listener's end; capture processes send to its path.

    A socket left at `path` by a killed listener is replaced.

    Raises:
        RingError: the path cannot be bound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            os.chmod(path, 0o600)
        except OSError as error:
            self._socket.close()
            # An over-long path is an OSError without errno and strerror.
            raise RingError(
                f"the doorbell {str(path)!r} cannot be bound: {error.strerror or error}. "
                "Remedy: use a data folder that this user may write and whose path is short."
            ) from None
        self._inode = os.stat(path).st_ino
        self._timeout_s = 0.0
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def fileno(self) -> int:
        """Return the file descriptor for a selector; it is readable after a ring."""
        return self._socket.fileno()

    def wait(self, timeout_s: float) -> bool:
        """Wait until rung, `timeout_s` seconds at most; True when rung. All rings so far are then used up."""
        if self._drain():
            return True
        if timeout_s <= 0:
            return False
        if timeout_s != self._timeout_s:
            # The kernel's own time-out: one call to sleep and to wake, where Python's would poll first. 0 means never.
            microseconds = max(100, round(timeout_s * 1e6))
            limit = struct.pack("@ll", *divmod(microseconds, 1_000_000))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._timeout_s = timeout_s
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return False
        self._drain()
        return True

    def _drain(self) -> bool:
        """Take every ring that is there, without waiting; whether there was one."""
        rung = False
        while self._poll.poll(0):
            self._socket.recv(1)
            rung = True
        return rung

    def close(self) -> None:
        """Stop listening and remove the socket, unless a newer listener has taken the name."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == self._inode:
                self.path.unlink()
