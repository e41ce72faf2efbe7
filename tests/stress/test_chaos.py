"""kill -9 of every kind of process while a demo camera plays: all comes back, and every crossing is there once. So it
is with a Redis that takes no writes, lost groups, all programs killed at once, and clients that never read. It is so
too with a clock that leaps, and with thirty programs beside the site's own that fail at once and come back.

The short form kills each twice, and has each other fault once. CROWDPERF_LONG=1 has each twenty times. It then shows
that the verdict falls when a mechanism that it rests on is taken out of the code. Cheaper controls of the same
mechanisms, at the shard and at the recorder, are always run: tests/integration/tracking/test_shard.py, test_workers.py.
`bench run stress/chaos` makes the same run and prints its figures.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.chaos import FAULTS, KINDS, Storm, Verdict, judge, mixed, plaza, storm
from tests.support.rtsp_server import Mount
from tests.support.site import Site
from tests.support.sources import demo_truth

pytestmark = pytest.mark.alone
LONG = os.environ.get("CROWDPERF_LONG") == "1"
ROUNDS, FAULT_ROUNDS = (20, 20) if LONG else (2, 1)


def verdict(site: Site, mount: Mount, demo_clips: Path, seen: Storm) -> Verdict:
    """Every true crossing is stored exactly once or lies inside a recorded gap.

    Raises:
        AssertionError: not so.
    """
    found = judge(site, mount, demo_truth(demo_clips, "demo_sparse"), seen.began, seen.ended)
    assert found.twice == [], f"stored twice: {found.twice}"
    assert found.published_twice == [], f"published twice: {found.published_twice}"
    assert found.published_otherwise == set()
    assert found.unexplained == [], f"missed outside every gap {found.gaps}"
    assert found.surplus == [], f"counted without a true crossing; gaps {found.gaps}"
    assert found.stored >= found.true / 2, "so much lies in gaps that nothing was tested"
    return found


def test_every_crossing_survives_any_fault(
    demo_clips: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(20)
    with plaza(demo_clips, tmp_path) as (site, mount):
        order = [*mixed(len(KINDS) * ROUNDS, rng), *FAULTS * FAULT_ROUNDS]
        rng.shuffle(order)
        seen = storm(site, order, rng)
        found = verdict(site, mount, demo_clips, seen)
    assert {recovery.kind for recovery in seen.recoveries} == {*KINDS, *FAULTS}
    record_property(
        "figures",
        f"chaos: {len(seen.recoveries)} faults, {found.true} true crossings, {found.stored} stored once, "
        f"{found.missed} in {len(found.gaps)} recorded gaps of {found.gap_s:.0f} s in all",
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("without", "complaint"), [(["checkpoint"], "published twice"), (["checkpoint", "dedupe"], "stored twice")]
)
def test_without_its_mechanisms_the_verdict_falls(
    without: list[str], complaint: str, demo_clips: Path, tmp_path: Path
) -> None:
    with plaza(demo_clips, tmp_path, without) as (site, mount):
        wait_until(lambda: len(site.read_crossings()) >= 3, 60, "some crossings that can come again")
        seen = storm(site, ["tracking"] * 2, random.Random(21))
        with pytest.raises(AssertionError, match=complaint):
            verdict(site, mount, demo_clips, seen)
