"""Ports for servers of tests, each given to one server until it listens."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from pathlib import Path

FIRST = 15_000
MIN_PORTS = 1_000
"""Ports that are handed out in turn, at least."""


def free_port() -> int:
    """Return a TCP port without a listener.

    It lies below those that the system gives to clients, or any connection of this machine could take it before its
    server does; and all processes of all suites on the machine go through the range in turn, so that none is handed
    out again soon.
    """
    clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = max(clients, FIRST + MIN_PORTS)
    with (Path(tempfile.gettempdir()) / f"crowdperf-ports.{os.getuid()}").open("a+") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.seek(0)
        last = int(turn.read() or FIRST)
        for step in range(1, end - FIRST):
            port = FIRST + (last - FIRST + step) % (end - FIRST)
            if _free(port):
                turn.truncate(0)
                turn.write(str(port))
                return port
    raise AssertionError("every port is taken")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do it: what lingers of an old connection is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
