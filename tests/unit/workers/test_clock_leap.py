"""States whose times lie ahead of the clock, since it was wrong for a while, are brought back."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import msgspec
import pytest

from crowdperf.messaging.schema import LineCrossed
from crowdperf.settings.visitors import Visitors
from crowdperf.settings.worker_config import VisitorsConfig
from crowdperf.storage.steady_clock import EARLIEST_CLOCK_S
from crowdperf.workers.clock_leaps import LATE_S, correct_state
from crowdperf.workers.notify.mqtt_state import CameraReadings
from crowdperf.workers.visitors import OpenVisit, SiteVisitState, VisitorLogic

NOW = 1_800_000_000.0
LEAPS = [7200.0, 10 * 365 * 86_400.0]
UTC = ZoneInfo("UTC")


def crossing(n: int, ts: float) -> LineCrossed:
    return LineCrossed(
        id=f"c:1:{n}",
        camera="c",
        ts=ts,
        line="door",
        direction="in",
        class_name="person",
        track=n,
        epoch=1,
        sequence=n,
    )


@pytest.mark.parametrize("leap", LEAPS)
def test_times_of_a_wrong_clock_are_moved_and_plans_stay(leap: float) -> None:
    visit = OpenVisit(
        visit="v",
        person="p",
        version=3,
        state="checked_in",
        expected_from=NOW + 30 * 86_400.0,
        expected_until=NOW + 31 * 86_400.0,
        area="",
        since=NOW + leap,
    )
    state = SiteVisitState(visits={"v": visit}, expired_at=NOW + leap)
    state.cameras.credits = [NOW - 5.0, NOW + leap]
    corrected = msgspec.msgpack.decode(correct_state(msgspec.msgpack.encode(state), NOW), type=SiteVisitState)
    assert (corrected.expired_at, corrected.visits["v"].since) == (NOW - LATE_S, NOW - LATE_S)
    assert corrected.visits["v"].expected_from == visit.expected_from
    assert corrected.cameras.credits == [NOW - 5.0, NOW - LATE_S]


@pytest.mark.parametrize("now", [NOW, EARLIEST_CLOCK_S - 1.0])
def test_a_state_of_the_present_or_before_the_clock_is_set_stays(now: float) -> None:
    state = msgspec.msgpack.encode(SiteVisitState(expired_at=NOW + 30.0))
    assert correct_state(state, now) is state


def test_names_expire_again_after_the_clock_is_set_back() -> None:
    config = VisitorsConfig(
        visitors=Visitors(), areas=(), timezone="UTC", instance=0, instances=1, redis_url="", key_prefix=""
    )
    logic = VisitorLogic(config)
    list(logic.advance_time("", NOW + LEAPS[1]))
    assert list(logic.advance_time("", NOW)) == []
    logic.restore("", correct_state(logic.dump_state(""), NOW))
    assert [type(effect).__name__ for effect in logic.advance_time("", NOW + 600)] == ["ExpireVisits"]


@pytest.mark.parametrize("leap", [86_400.0, LEAPS[1]])
def test_todays_numbers_go_on_after_the_clock_is_set_back(leap: float) -> None:
    readings = CameraReadings()
    list(readings.advance_time("c", NOW + leap, UTC))
    list(readings.advance_time("c", NOW, UTC))
    assert [row.value for n in range(3) for row in readings.update(crossing(n, NOW + n), UTC)] == [1, 2, 3]
    assert list(readings.update(crossing(9, NOW - 86_400.0), UTC)) == [], "a late event of yesterday"
    assert readings.counts == {"door/in": 3}
