"""Restart programs that supervisord has given up, as an event listener.

supervisord never retries a FATAL program. But the cause of ten failures in a minute may be over in an hour: a full
disk, a model that is being copied.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import xmlrpc.client
from typing import TextIO

from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Paths
from crowdperf.supervision.control import SupervisorClient

RESTART_DELAY_S = 15.0

log = logging.getLogger(__name__)


def main(paths: Paths) -> None:
    """Serve supervisord's event protocol on stdin and stdout until stdin ends."""
    control = SupervisorClient(paths.supervisor_socket.absolute())
    while (event := read_event(sys.stdin, sys.stdout)) is not None:
        name = event.get("processname", "")
        log.error("%s failed repeatedly (FATAL), see its log; restarting it in %g s", name, RESTART_DELAY_S)
        time.sleep(RESTART_DELAY_S)
        with contextlib.suppress(ConfigError, xmlrpc.client.Fault):
            control.start([name])
        acknowledge(sys.stdout)


def read_event(source: TextIO, sink: TextIO) -> dict[str, str] | None:
    """Write READY and read one event's payload; None at the end of the input."""
    sink.write("READY\n")
    sink.flush()
    header = source.readline()
    if not header:
        return None
    fields = dict(pair.split(":", 1) for pair in header.split())
    payload = source.read(int(fields["len"]))
    return dict(pair.split(":", 1) for pair in payload.split())


def acknowledge(sink: TextIO) -> None:
    """Tell supervisord that the event was handled."""
    sink.write("RESULT 2\nOK")
    sink.flush()
