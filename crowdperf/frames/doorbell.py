"""The doorbell: a datagram socket on which a waiting reader hears that some ring has a new frame.

It carries no information, hence nothing is lost when the queue is full: the listener looks at every `head` anyway.
Measured wake-up p50/p99: 32/50 us, against 71/94 for multiprocessing.Condition and 539/1088 for polling every 1 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from pathlib import Path

from crowdperf.frames.segment import RingError


class Doorbell:
    """The listener's end; capture processes send to its path.

    Args:
        path: where to bind; a socket left there by a killed listener is replaced.

    Raises:
        RingError: the path cannot be bound.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
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
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def fileno(self) -> int:
        """For a selector of the caller's own; readable when rung."""
        return self._socket.fileno()

    def wait(self, timeout_s: float) -> bool:
        """Wait until rung, `timeout_s` seconds at most; True when rung. All rings so far are then used up."""
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True

    def close(self) -> None:
        """Stop listening and remove the socket, unless a newer listener has taken the name."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == self._inode:
                self.path.unlink()
