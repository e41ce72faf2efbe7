"""Give every Python process of a site a wall clock that a test can let leap; Python imports this at its start.

Monotonic clocks stay true, as in a real leap. Redis and FFmpeg keep the machine's clock.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

VARIABLE = "CROWDPERF_TEST_CLOCK"
"""Environment variable with the path of a file that holds how far the clock is ahead: a double, in seconds."""


def install(path: str) -> None:
    """Shift this process's wall clock by what the file holds at each moment."""
    true_time, true_time_ns = time.time, time.time_ns
    with open(path, "rb") as file:
        lead = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

    def read_lead() -> float:
        return float(struct.unpack("d", lead[:8])[0])

    time.time = lambda: true_time() + read_lead()
    time.time_ns = lambda: true_time_ns() + int(read_lead() * 1e9)


if VARIABLE in os.environ:
    install(os.environ[VARIABLE])
