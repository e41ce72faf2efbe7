"""Faults at random while events come, some of them twice: kill -9 of recorders, SQL recorder, Redis and PostgreSQL, a
full Redis, lost consumer groups, cut connections. In the end each event is in the history, in its counters, in
PostgreSQL and in its summaries exactly once.

The short form sends 4,000 events through 16 faults; CROWDPERF_LONG=1 sends 1,000,000 through 100, as does
`bench run stress/exactly_once`. Controls put a defect into the recorders, which the same check must find.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crowdperf.storage.postgres import driver
from tests.conftest import missing, wait_until
from tests.support.postgres import PostgresServer, binaries
from tests.support.recorders import FAULTS, Recorders, discrepancies, publish, storm

LONG = os.environ.get("CROWDPERF_LONG") == "1"
NUMBER, NUMBER_OF_FAULTS = (1_000_000, 100) if LONG else (4_000, 16)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    folder = binaries()
    if folder is None or not driver.list_drivers():
        missing("PostgreSQL and a driver")
    assert folder is not None
    made = PostgresServer(folder)
    made.start()
    yield made
    made.remove()


@pytest.fixture
def recorders(tmp_path: Path, server: PostgresServer) -> Iterator[Callable[..., Recorders]]:
    made: list[Recorders] = []

    def make(**defects: str) -> Recorders:
        made.append(Recorders(tmp_path, server, defects))
        return made[0]

    yield make
    for one in made:
        one.close()


def test_every_event_is_everywhere_once(
    recorders: Callable[..., Recorders], record_property: Callable[[str, object], None]
) -> None:
    seen = storm(recorders(), NUMBER, NUMBER_OF_FAULTS, random.Random(7))
    assert set(seen.faults) == set(FAULTS)
    record_property(
        "figures",
        f"exactly once: {seen.events} events, {seen.faults.total()} faults, {seen.wrong} wrong, {seen.seconds:.0f} s",
    )
    assert seen.wrong == []
    assert seen.dead_letters == 0


@pytest.mark.parametrize(
    ("role", "defect", "words"),
    [
        ("recorder", "ack-first", "are not in the history"),
        ("recorder", "no-dedupe", "counters by day"),
        ("sql", "move-first", "PostgreSQL has"),
    ],
)
def test_control_a_defect_is_found(recorders: Callable[..., Recorders], role: str, defect: str, words: str) -> None:
    made = recorders(**{role: defect})
    publish(made, [*range(100), *range(50)])
    wait_until(made.done, 60, "both recorders have handled the first events")
    (made.folder / "armed").touch()
    publish(made, [*range(100, 300)])
    wait_until(made.done, 60, "both recorders have handled everything")
    assert any(words in text for text in discrepancies(made, 300))
