"""Votes and violations, without Redis: `list(logic.handle(observation))`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from crowdperf.messaging.schema import EvidenceRequest, PpeObserved, PpeViolation
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.worker_config import build_ppe_config
from crowdperf.storage.violations import Compliance, ViolationUpdate
from crowdperf.workers.ppe import PpeLogic, compute_vote, decide_verdict

NOW = 1_795_600_000.0
"""10:46:40 in Berlin."""
ZONE = {"id": "site", "polygon": [[0, 0], [1, 0], [1, 1]]}
OFFICE = {"id": "office", "polygon": [[0, 0], [0.5, 0], [0.5, 0.5]]}


def logic(**rule: Any) -> PpeLogic:
    rules = [{"id": "hats", "zone": "site", "required": ["hardhat"], **rule}]
    camera = {"id": "yard", "url": "rtsp://192.0.2.1/", "zones": [ZONE, OFFICE], "ppe": rules}
    config = parse(msgspec.json.encode({"site": {"timezone": "Europe/Berlin"}, "cameras": [camera]}))
    return PpeLogic(build_ppe_config(Deployment(config, Paths(Path("/nowhere"))), 0))


def seen(n: int, *, track: int = 7, zones: str = "site", height: float = 200.0, **scores: float) -> PpeObserved:
    """The n-th second's observation."""
    return PpeObserved(
        id=f"yard:1:{n}:ppe:{track}", camera="yard", ts=NOW + n, track=track, epoch=1, sequence=n, detection=0,
        height_px=height, zones=zones, **scores,
    )  # fmt: skip


def bare(n: int, score: float = 0.7, **more: Any) -> PpeObserved:
    return seen(n, no_hardhat=score, **more)


def wearing(n: int, **more: Any) -> PpeObserved:
    return seen(n, hardhat=0.8, **more)


def run(worker: PpeLogic, *observations: PpeObserved) -> list[Struct]:
    return [effect for row in observations for effect in worker.handle(row)]


def states(effects: list[Struct]) -> list[tuple[str, str]]:
    return [(row.state, row.cause) for row in effects if isinstance(row, PpeViolation)]


def test_one_frame_proves_nothing_and_many_are_one_violation() -> None:
    worker = logic()
    assert run(worker, bare(0), bare(1)) == []
    effects = run(worker, *(bare(n) for n in range(2, 40)))
    (event,) = [row for row in effects if isinstance(row, PpeViolation)]
    assert (event.state, event.items, event.zone, event.first_seen) == ("opened", "hardhat", "site", NOW + 2)
    assert event.votes == "hardhat:+0.70,+0.70,+0.70"


def test_the_best_frame_is_asked_for_as_evidence_once() -> None:
    worker = logic()
    effects = run(worker, bare(0, 0.5), bare(1, 0.9), bare(2, 0.6), *(bare(n) for n in range(3, 9)))
    (request,) = [row for row in effects if isinstance(row, EvidenceRequest)]
    (event,) = [row for row in effects if isinstance(row, PpeViolation)]
    assert (request.sequence, request.id) == (1, event.violation)


def test_it_closes_when_the_person_complies() -> None:
    worker = logic()
    run(worker, *(bare(n) for n in range(5)))
    effects = run(worker, *(wearing(n) for n in range(5, 20)))
    assert states(effects) == [("closed", "complied")]
    (change,) = [row for row in effects if isinstance(row, ViolationUpdate)]
    assert not change.violation.ongoing
    assert NOW + 8 <= change.violation.last_seen <= NOW + 13, "the newest votes decide"


def test_violation_closes_when_the_person_leaves() -> None:
    worker = logic()
    run(worker, *(bare(n) for n in range(5)))
    assert states(run(worker, bare(5, zones=""))) == [("closed", "left")]
    worker = logic()
    run(worker, *(bare(n) for n in range(5)))
    assert list(worker.advance_time("yard", NOW + 14)) == []
    effects = list(worker.advance_time("yard", NOW + 15))
    assert states(effects) == [("closed", "gone")]
    assert [row.outcome for row in effects if isinstance(row, Compliance)] == ["missing"]
    assert list(worker.advance_time("yard", NOW + 99)) == []


def test_within_the_cooldown_it_is_the_same_violation() -> None:
    worker = logic(cooldown_s=60)
    effects = run(
        worker, *(bare(n) for n in range(6)), *(wearing(n) for n in range(6, 20)), *(bare(n) for n in range(20, 40))
    )
    events = [row for row in effects if isinstance(row, PpeViolation)]
    assert [row.state for row in events] == ["opened", "closed", "opened"]
    assert len({row.violation for row in events}) == 1
    assert len({row.id for row in events}) == 3
    assert len([row for row in effects if isinstance(row, EvidenceRequest)]) == 1
    later = logic(cooldown_s=5)
    effects = run(
        later, *(bare(n) for n in range(6)), *(wearing(n) for n in range(6, 30)), *(bare(n) for n in range(30, 50))
    )
    assert len({row.violation for row in effects if isinstance(row, PpeViolation)}) == 2


def test_leaving_and_returning_is_one_violation_and_person() -> None:
    worker = logic(cooldown_s=30)
    away = [bare(n, zones="") for n in range(6, 16)]
    effects = run(worker, *(bare(n) for n in range(6)), *away, *(bare(n) for n in range(16, 22)))
    events = [row for row in effects if isinstance(row, PpeViolation)]
    assert [(row.state, row.cause) for row in events] == [("opened", ""), ("closed", "left"), ("opened", "")]
    assert len({row.violation for row in events}) == 1
    effects += run(worker, bare(22, zones=""))
    assert [row for row in effects if isinstance(row, Compliance)] == []
    assert list(worker.advance_time("yard", NOW + 51)) == []
    effects += worker.advance_time("yard", NOW + 52)
    assert [row.outcome for row in effects if isinstance(row, Compliance)] == ["missing"]
    assert list(worker.advance_time("yard", NOW + 99)) == []


@pytest.mark.parametrize(
    "observations",
    [
        [bare(n, height=50) for n in range(30)],
        [bare(n, score=0.3) for n in range(30)],
        [seen(n) for n in range(30)],
        [wearing(n) if n % 2 else bare(n) for n in range(30)],
        [bare(n, zones="") for n in range(30)],
        [bare(n, zones="site,office") for n in range(30)],
        [bare(n, track=n) for n in range(30)],
    ],
    ids=["too small", "too weak", "nothing seen", "contradiction", "elsewhere", "exempt", "everybody once"],
)
def test_no_verdict_without_proof(observations: list[PpeObserved]) -> None:
    assert states(run(logic(exempt_zones=["office"]), *observations)) == []


def test_a_short_visit_and_the_wrong_hour_are_no_violation() -> None:
    assert states(run(logic(min_dwell_s=30), *(bare(n) for n in range(29)))) == []
    assert states(run(logic(min_dwell_s=30), *(bare(n) for n in range(31)))) == [("opened", "")]
    night = [{"start": "18:00", "end": "06:00"}]
    assert states(run(logic(schedule=night), *(bare(n) for n in range(30)))) == []


def test_small_people_need_more_frames() -> None:
    small = [bare(n, height=64) for n in range(30)]
    first = next(row.ts for row in run(logic(), *small) if isinstance(row, PpeViolation))
    assert first > NOW + 2


def test_each_item_is_judged_for_itself() -> None:
    worker = logic(required=["hardhat", "vest"])
    both = [seen(n, hardhat=0.8, no_vest=0.7) for n in range(10)]
    effects = run(worker, *both)
    assert [row.items for row in effects if isinstance(row, PpeViolation)] == ["vest"]
    effects = list(worker.advance_time("yard", NOW + 60))
    assert {(row.item, row.outcome) for row in effects if isinstance(row, Compliance)} == {
        ("hardhat", "worn"),
        ("vest", "missing"),
    }


def test_two_people_are_two_violations() -> None:
    rows = [row for n in range(6) for row in (bare(n), bare(n, track=8), wearing(n, track=9))]
    events = [row for row in run(logic(), *rows) if isinstance(row, PpeViolation)]
    assert sorted(row.track for row in events) == [7, 8]


def test_state_and_restore_change_nothing_at_any_point() -> None:
    rows = [*(bare(n) for n in range(6)), *(wearing(n) for n in range(6, 16)), *(bare(n) for n in range(16, 26))]
    whole = run(logic(), *rows)
    for cut in range(1, len(rows)):
        first, second = logic(), logic()
        before = run(first, *rows[:cut])
        second.restore("yard", first.dump_state("yard"))
        assert before + run(second, *rows[cut:]) == whole


@given(st.lists(st.floats(-1, 1), max_size=20))
def test_a_verdict_never_says_both(votes: list[float]) -> None:
    mirrored = [-value for value in votes]
    opposite = {"missing": "worn", "worn": "missing", "unsure": "unsure"}
    assert decide_verdict(mirrored) == opposite[decide_verdict(votes)]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1000))
def test_a_vote_is_never_stronger_than_its_scores(worn: float, missing: float, height: float) -> None:
    value = compute_vote(worn, missing, height, 64)
    assert value is None or abs(value) <= max(worn, missing)
