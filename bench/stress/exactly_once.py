"""Crossings through faults at random: how many are stored once, how many are lost or doubled.

The machinery is the stress test's own (tests/support/recorders.py), so that figures and test cannot drift apart.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from bench.harness import Row
from tests.support.postgres import PostgresServer, binaries
from tests.support.recorders import Recorders, Storm, storm

SHORT = (20_000, 16)
LONG = (1_000_000, 100)
"""Events and faults."""
SEED = 7


def rows(short: bool) -> list[Row]:
    """Crossings by what became of them, the faults, and the rate at which all of it was recorded.

    Args:
        short: 20,000 crossings and 16 faults instead of 1,000,000 and 100.

    Raises:
        RuntimeError: PostgreSQL is not installed.
    """
    folder = binaries()
    if folder is None:
        raise RuntimeError("stress/exactly_once needs PostgreSQL's initdb and postgres: install a server")
    server = PostgresServer(folder)
    server.start()
    with tempfile.TemporaryDirectory(prefix="cp-") as place:
        recorders = Recorders(Path(place), server, {})
        try:
            seen = storm(recorders, *(SHORT if short else LONG), random.Random(SEED))
        finally:
            recorders.close()
            server.remove()
    return table(seen)


def table(seen: Storm) -> list[Row]:
    """Return the rows of one run."""
    none = "none may be"
    return [
        Row(name="crossings", value=seen.events, unit="crossings", better="higher"),
        *(Row(name=f"faults/{kind}", value=times, unit="faults") for kind, times in sorted(seen.faults.items())),
        Row(name="wrong", value=len(seen.wrong), unit="findings", limit_or_peer="; ".join(seen.wrong) or none),
        Row(name="dead_letters", value=seen.dead_letters, unit="streams", limit_or_peer=none),
        Row(name="recorded_per_s", value=seen.events / seen.seconds, unit="1/s", better="higher"),
    ]
