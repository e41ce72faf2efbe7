"""Zones: stays, dwell times, queues, limits, loitering, the wrong way, minutes, the density grid."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.counting.camera_counter import CameraCounter, CountingState
from crowdperf.counting.density import COLUMNS, DensityGrid, DensityMinute
from crowdperf.counting.samples import FrameMoment, Sample
from crowdperf.counting.threshold import Threshold
from crowdperf.counting.zones import ZoneCounter
from crowdperf.messaging.schema import Alert, Event, ZoneChanged, ZoneMinute
from crowdperf.settings.camera import Zone
from tests.support.sequences import FPS, moment, sample

SQUARE = [[0.4, 0.4], [0.6, 0.4], [0.6, 0.6], [0.4, 0.6]]
IN, OUT = 0.5, 0.9


def zone(**settings: object) -> Zone:
    return msgspec.convert({"id": "hall", "polygon": SQUARE, "settle_s": 0.2, **settings}, Zone)


def counter(made: Zone | None = None) -> CameraCounter:
    own = CameraCounter("lobby", (), (made or zone(),), 1.5)
    own.set_aspect(1.0)
    return own


def play(
    own: CameraCounter, frames: list[list[Sample]], ended: dict[int, list[int]] | None = None, start: int = 0
) -> list[Event]:
    events: list[Event] = []
    for n, samples in enumerate(frames, start):
        events += own.update(moment(n), samples, (ended or {}).get(n, []))
    return events


def alerts(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.rule, event.state) for event in events if isinstance(event, Alert)]


def changed(events: list[Event]) -> list[ZoneChanged]:
    return [event for event in events if isinstance(event, ZoneChanged)]


def test_dwell_runs_from_first_inside_to_first_outside() -> None:
    frames = [[sample(1, x)] for x in [OUT] * 3 + [IN] * 20 + [OUT] * 5]
    entered, left = changed(play(counter(), frames))
    assert (entered.change, entered.dwell_s) == ("in", 0.0)
    assert (left.change, left.dwell_s) == ("out", pytest.approx(2.0))


def test_dwell_of_a_track_that_ends_inside_is_until_last_seen() -> None:
    frames = [[sample(1, IN)] for _ in range(11)] + [[] for _ in range(20)]
    _, left = changed(play(counter(), frames, {30: [1]}))
    assert left.dwell_s == pytest.approx(1.0)


@pytest.mark.parametrize("gap", [1, 5, 14])
def test_a_new_id_where_one_was_lost_continues_the_stay(gap: int) -> None:
    frames = [[sample(1, IN)] for _ in range(20)] + [[] for _ in range(gap)]
    frames += [[sample(2, IN + 0.02)] for _ in range(20)] + [[sample(2, OUT)] for _ in range(5)]
    entered, left = changed(play(counter(), frames, {20 + gap + 10: [1]}))
    assert (entered.track, left.track) == (1, 2)
    assert left.dwell_s == pytest.approx((40 + gap) / FPS)


def test_newcomer_is_not_taken_for_the_lost_person() -> None:
    frames = [[sample(1, IN)] for _ in range(20)] + [[sample(2, OUT)] for _ in range(4)]
    frames += [[sample(2, IN)] for _ in range(5)]
    assert [event.occupancy for event in changed(play(counter(), frames))] == [1, 2]


def test_somebody_far_from_the_lost_one_is_somebody_else() -> None:
    frames = [[sample(1, 0.42, 0.42)] for _ in range(20)] + [[sample(2, 0.58, 0.58, h=0.05)] for _ in range(6)]
    assert [event.occupancy for event in changed(play(counter(), frames))] == [1, 2]


def test_feet_below_the_picture_are_in_a_zone_at_its_edge() -> None:
    whole = zone(polygon=[[0, 0.5], [1, 0.5], [1, 1], [0, 1]])
    (entered,) = changed(play(counter(whole), [[sample(1, IN, 1.0)] for _ in range(5)]))
    assert entered.occupancy == 1


def test_a_queue_has_a_length_and_waiting_times() -> None:
    own = counter(zone(kind="queue", queue_after_s=1.0))
    play(own, [[sample(1, IN), sample(2, IN, 0.45)] for _ in range(31)])
    queue = own.get_queues()["hall"]
    assert (queue.length, queue.longest_s, queue.served_s) == (2, 3.0, 0.0)
    # A third walks through without waiting; the first is served.
    frames = [[sample(1, OUT), sample(2, IN, 0.45), sample(3, IN, 0.58)] for _ in range(5)]
    frames += [[sample(2, IN, 0.45), sample(3, OUT, 0.58)] for _ in range(5)]
    play(own, frames, start=31)
    queue = own.get_queues()["hall"]
    assert (queue.length, queue.longest_s, queue.served_s) == (1, 4.0, 3.1)


def test_an_occupancy_alert_has_hysteresis_and_a_least_duration() -> None:
    own = counter(zone(limit=1, limit_clear=0, limit_s=1.0))
    crowd = [sample(1, IN), sample(2, IN, 0.45)]
    events = play(own, [crowd] * 10)
    assert alerts(events) == []
    events = play(own, [crowd] * 10, start=10)
    assert alerts(events) == [("occupancy", "opened")]
    opened = next(event for event in events if isinstance(event, Alert))
    assert (opened.value, opened.limit, opened.zone, opened.alert) == (2, 1, "hall", opened.id)
    # Down to the limit is not enough; nobody for a moment neither.
    one = [sample(1, IN), sample(2, OUT, 0.45)]
    none = [sample(1, OUT), sample(2, OUT, 0.45)]
    assert alerts(play(own, [one] * 30 + [none] * 10 + [one] * 20, start=20)) == []
    events = play(own, [none] * 20, start=80)
    closed = next(event for event in events if isinstance(event, Alert))
    assert (closed.state, closed.alert, closed.value, closed.opened_at) == ("closed", opened.id, 2, opened.ts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=120))
def test_limit_opens_and_closes_only_after_its_delay(values: list[int]) -> None:
    limit, opened = Threshold(3, 2, 0.3), []
    for n, value in enumerate(values):
        change = limit.update(value, n / FPS)
        if change == "opened":
            assert not opened
            assert min(values[n - 3 : n + 1]) > 3
            opened.append(n)
            limit.open(str(n), n, value)
        elif change == "closed":
            assert opened
            assert max(values[n - 3 : n + 1]) <= 2
            opened.clear()
            limit.close()


def test_loitering_opens_once_and_closes_when_the_person_leaves() -> None:
    own = counter(zone(loiter_s=2.0))
    events = play(own, [[sample(1, IN)] for _ in range(60)] + [[sample(1, OUT)] for _ in range(5)])
    assert alerts(events) == [("loitering", "opened"), ("loitering", "closed")]
    opened, closed = (event for event in events if isinstance(event, Alert))
    assert (opened.track, opened.class_name, opened.limit) == (1, "person", 2.0)
    assert opened.sequence in (21, 22)
    assert closed.value == pytest.approx(6.2, abs=0.1)


def test_loitering_survives_a_change_of_ids() -> None:
    own = counter(zone(loiter_s=2.0))
    frames = [[sample(1 + n // 15, IN)] for n in range(45)]
    assert alerts(play(own, frames)) == [("loitering", "opened")]


PATHS = {
    "with the way": ([(0.42 + 0.01 * n, 0.5) for n in range(17)], []),
    "against the way": ([(0.58 - 0.01 * n, 0.5) for n in range(17)], [("wrong_way", "opened")]),
    "across the way": ([(0.5, 0.42 + 0.01 * n) for n in range(17)], []),
    "standing, with jitter": ([(0.5 + 0.01 * (n % 2), 0.5) for n in range(40)], []),
    "forth, then back again": (
        [(0.42 + 0.01 * n, 0.5) for n in range(15)] + [(0.56 - 0.01 * n, 0.5) for n in range(13)],
        [("wrong_way", "opened")],
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_the_wrong_way(name: str) -> None:
    path, expected = PATHS[name]
    own = counter(zone(way=[1.0, 0.0]))
    events = play(own, [[sample(1, x, y, h=0.08)] for x, y in path])
    assert alerts(events) == expected
    assert alerts(play(own, [[sample(1, OUT)] for _ in range(5)], start=len(path))) == [
        (rule, "closed") for rule, _ in expected
    ]


def test_an_alert_of_a_zone_that_was_changed_is_closed() -> None:
    own = counter(zone(loiter_s=1.0, limit=1, limit_s=0.0))
    events = play(own, [[sample(1, IN), sample(2, IN, 0.45)] for _ in range(20)])
    opened = {event.alert for event in events if isinstance(event, Alert)}
    assert len(opened) == 3
    stored = msgspec.msgpack.encode(own.get_state())
    other = counter(zone(loiter_s=5.0))
    other.restore(msgspec.msgpack.decode(stored, type=CountingState))
    events = other.update(moment(20), [], [])
    closed = [event for event in events if isinstance(event, Alert)]
    assert {(event.alert, event.state, event.zone) for event in closed} == {(name, "closed", "hall") for name in opened}
    assert alerts(other.update(moment(21), [], [])) == []


def test_a_minute_tells_maximum_mean_entries_exits_and_dwells() -> None:
    own = counter()
    frames = [[sample(1, IN), sample(2, IN if n < 302 else OUT, 0.45)] for n in range(606)]
    events = [event for event in play(own, frames, start=-200) if isinstance(event, ZoneMinute)]
    # moment(0) is 1,700,000,000, which is 20 s into a minute.
    (minute,) = (event for event in events if event.ts == 1_699_999_980)
    assert minute.id == "lobby:hall:minute:28333333"
    assert (minute.maximum, minute.entries, minute.exits, minute.occupancy) == (2, 2, 1, 1)
    assert minute.mean == pytest.approx((300 + 598) / 600, abs=0.01)
    assert minute.dwells == "30.2"
    assert minute.observed_s == pytest.approx(59.9, abs=0.2)


def test_an_empty_minute_says_nothing() -> None:
    own = counter()
    assert play(own, [[sample(1, OUT)] for _ in range(1300)]) == []


def test_minutes_add_up_to_what_the_zone_said() -> None:
    own = ZoneCounter("lobby", zone(), 1.5)
    own.set_aspect(1.0)
    all_changes: list[ZoneChanged] = []
    minutes: list[ZoneMinute] = []
    for n in range(3000):
        who = [sample(1 + k, IN if (n // (37 + 9 * k)) % 2 else OUT, 0.42 + 0.03 * k) for k in range(5)]
        changes = own.update(moment(n), who, [])
        all_changes += changes
        minutes += own.add_to_minute(moment(n), changes)
    minutes += own.add_to_minute(moment(3600), [])
    assert sum(row.entries for row in minutes) == sum(event.change == "in" for event in all_changes)
    assert sum(row.exits for row in minutes) == sum(event.change == "out" for event in all_changes)
    assert max(row.maximum for row in minutes) == max(event.occupancy for event in all_changes)
    assert sorted(float(d) for row in minutes for d in row.dwells.split(",") if d) == pytest.approx(
        sorted(event.dwell_s for event in all_changes if event.change == "out"), abs=0.06
    )


def test_density_grid_sums_seconds_without_loss() -> None:
    grid, found = DensityGrid(), []
    for n in range(1200):
        now = moment(n)
        minute = grid.add_frame(
            now.clock_s, now.ts, [sample(1, 0.51, 0.52), sample(2, 0.99, 1.0, confirmed=False)], 1.0
        )
        if minute is not None:
            found.append(minute)
    cell = 9 * COLUMNS + 16
    assert [list(minute.cells) for minute in found] == [[cell]] * 2
    assert found[0].hour == 1_699_999_200
    left = sum(grid.state.cells.values()) / 1000
    assert sum(minute.cells[cell] for minute in found) + left == pytest.approx(119.9)


def test_a_pause_is_no_presence() -> None:
    grid = DensityGrid()
    grid.add_frame(0.0, 0.0, [sample(1, IN)], 1.0)
    grid.add_frame(30.0, 30.0, [sample(1, IN)], 1.0)
    assert grid.state.cells == {}


def test_the_camera_hands_a_minute_over_once() -> None:
    own = counter()
    play(own, [[sample(1, IN)] for _ in range(700)])
    (minute,) = own.take_density()
    assert isinstance(minute, DensityMinute)
    assert own.take_density() == []


STAYS = st.lists(st.tuples(st.booleans(), st.integers(5, 30)), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(STAYS, min_size=1, max_size=3), st.integers(0, 100))
def test_random_stays_keep_their_dwell_across_restarts(people: list[list[tuple[bool, int]]], cut: int) -> None:
    paths = [[IN if inside else OUT for inside, length in stays for _ in range(length)] + [OUT] * 5 for stays in people]
    length = max(len(path) for path in paths)
    rows = [0.42 + 0.05 * k for k in range(1, 4)]
    frames = [
        [sample(k, path[min(n, len(path) - 1)], rows[k - 1]) for k, path in enumerate(paths, 1)] for n in range(length)
    ]
    first, second = counter(), counter()
    cut = min(cut, length)
    events = play(first, frames[:cut])
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.get_state()), type=CountingState))
    events += play(second, frames[cut:], start=cut)
    found = sorted(round(event.dwell_s * FPS) for event in changed(events) if event.change == "out")
    expected = []
    for stays in people:
        run = 0
        for inside, span in [*stays, (False, 1)]:
            if inside:
                run += span
            elif run:
                expected.append(run)
                run = 0
    assert found == sorted(expected)


def test_a_moment_in_the_past_is_a_minute_of_its_own() -> None:
    own = counter()
    play(own, [[sample(1, IN)] for _ in range(20)])
    events = own.update(FrameMoment(2.1, 1_600_000_000.0, 1, 21), [sample(1, IN)], [])
    assert [event.ts for event in events if isinstance(event, ZoneMinute)] == [1_699_999_980.0]
