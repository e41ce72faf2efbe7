"""kill -9 of every kind of process, and other faults, of a site that counts: what became of each true crossing.

The machinery is the stress test's own (tests/support/chaos.py), so that the figures and the test cannot drift apart.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.harness import Row
from tests.support.chaos import FAULTS, KINDS, Recovery, Storm, Verdict, judge, mixed, plaza, storm
from tests.support.sources import demo_truth

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS_SHORT = 6
KILLS_LONG = 120
FAULTS_LONG = 5
SEED = 20


def rows(short: bool, kills: int | None = None) -> list[Row]:
    """Crossings by what became of them, and per kind of process how soon it ran, and frames were analysed, again.

    Args:
        short: 6 kills instead of 120.
        kills: how many; overrides `short`.
    """
    clips = ROOT / "var" / "demo"
    subprocess.run([sys.executable, "-m", "crowdperf", "demo", "--if-missing"], cwd=ROOT, check=True)
    rng = random.Random(SEED)
    order = mixed(kills or (KILLS_SHORT if short else KILLS_LONG), rng)
    order += FAULTS * (1 if short else FAULTS_LONG)
    rng.shuffle(order)
    # A short folder: a site's sockets lie in it, and the system allows 108 bytes for a path.
    with tempfile.TemporaryDirectory(prefix="cp-") as folder, plaza(clips, Path(folder)) as (site, mount):
        seen = storm(site, order, rng)
        found = judge(site, mount, demo_truth(clips, "demo_sparse"), seen.began, seen.ended)
    return table(seen, found)


def table(seen: Storm, found: Verdict) -> list[Row]:
    """Return the rows of one run."""
    of_all = f"of {found.true} true crossings"
    twice = len(found.twice) + len(found.published_twice) + len(found.published_otherwise)
    return [
        Row(name="kills", value=sum(r.kind in KINDS for r in seen.recoveries), unit="kills", better="higher"),
        Row(name="true_crossings", value=found.true, unit="crossings", better="higher"),
        Row(name="stored_once", value=found.stored, unit="crossings", limit_or_peer=of_all, better="higher"),
        Row(name="in_recorded_gaps", value=found.missed - len(found.unexplained), unit="crossings"),
        Row(name="lost", value=len(found.unexplained), unit="crossings", limit_or_peer="none may be"),
        Row(name="stored_or_said_twice", value=twice, unit="crossings", limit_or_peer="none may be"),
        Row(name="counted_but_not_true", value=len(found.surplus), unit="crossings", limit_or_peer="none may be"),
        Row(name="gaps", value=found.gap_s, unit="s", limit_or_peer=f"in {len(found.gaps)} gaps"),
        *(row for kind in KINDS for row in _recovery(kind, [r for r in seen.recoveries if r.kind == kind])),
        *(row for fault in FAULTS for row in _recovery(fault, [r for r in seen.recoveries if r.kind == fault])),
    ]


def _recovery(kind: str, of_kind: list[Recovery]) -> Iterable[Row]:
    for name, times in (
        ("restarted", [each.restarted_s for each in of_kind if each.restarted_s is not None]),
        ("analysing", [each.analysed_s for each in of_kind]),
    ):
        if times:
            worst = f"{max(times):.2f} at worst"
            yield Row(
                name=f"{name}_s/{kind}",
                value=statistics.median(times),
                unit="s",
                limit_or_peer=worst,
                repetitions=len(times),
            )
