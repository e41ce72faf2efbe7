"""Which frames are analysed, and what is counted."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.camera_feed import MAX_BURST_S, MIN_BURST_FRAMES, REFILL_FACTOR, CameraFeed, TokenBucket
from crowdperf.inference.scheduler import FrameScheduler, ScheduledFrame
from tests.support.feeds import make_feed


def spec(fps: float = 10.0, skip: int = 0, width: int = 640, slots: int = 4) -> RingSpec:
    return RingSpec(width, 360, "yuv420p", 1920, 1080, slots, fps, skip)


class Site:
    """A scheduler and the feeds of its cameras, by name."""

    def __init__(self, queue_max: int, staleness_s: float) -> None:
        self.scheduler = FrameScheduler(queue_max, staleness_s)
        self.feeds: dict[str, CameraFeed] = {}
        self.gone: list[CameraFeed] = []

    def add(self, camera: str, spec: RingSpec) -> None:
        self.feeds[camera] = make_feed(camera, spec)

    def remove(self, camera: str) -> None:
        feed = self.feeds.pop(camera)
        feed.record_drop("gone", feed.clear_pending())
        self.gone.append(feed)

    def offer(self, camera: str, sequence: int, arrived: float, available: bool = True) -> None:
        self.scheduler.offer(self.feeds[camera], sequence, arrived, available)

    def take(self, now: float, limit: int) -> list[ScheduledFrame]:
        return self.scheduler.take(self.feeds.values(), now, limit)

    def record_cost(self, camera: str, seconds: float) -> None:
        self.scheduler.record_cost(self.feeds[camera].geometry, seconds)

    def drain_drops(self) -> dict[tuple[str, str], int]:
        """Return (camera, cause) -> frames since the last call."""
        drops: Counter[tuple[str, str]] = Counter()
        for feed in [*self.feeds.values(), *self.gone]:
            drops.update({(feed.camera, cause): n for cause, n in feed.drops.items()})
            feed.drops.clear()
        return dict(drops)


@pytest.mark.parametrize("fps", [5.0, 10.0, 29.97])
@pytest.mark.parametrize("seed", range(3))
def test_a_camera_at_exactly_its_target_loses_nothing_to_jitter(fps: float, seed: int) -> None:
    rng = random.Random(seed)
    pace = TokenBucket(fps)
    times = sorted((n + rng.uniform(-0.9, 0.9)) / fps for n in range(3000))
    assert all(pace.admit(at) for at in times)


def test_nor_to_the_pause_around_a_key_frame() -> None:
    pace = TokenBucket(10.0)
    times = [n / 10 for n in range(50)] + [5.4] * 5 + [5.5 + n / 10 for n in range(50)]
    assert all(pace.admit(at) for at in times)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=300), st.floats(0.5, 60))
@settings(max_examples=200, deadline=None)
def test_no_period_gets_more_than_its_rate_and_one_burst(gaps: list[float], fps: float) -> None:
    pace, now, admitted = TokenBucket(fps), 0.0, []
    for gap in gaps:
        now += gap
        if pace.admit(now):
            admitted.append(now)
    burst = max(MIN_BURST_FRAMES, fps * MAX_BURST_S)
    for first in range(0, len(admitted), 7):
        for last in range(first, len(admitted), 11):
            span = admitted[last] - admitted[first]
            assert last - first + 1 <= burst + span * fps * REFILL_FACTOR + 1.001


def test_a_faster_camera_is_thinned_evenly() -> None:
    pace = TokenBucket(10.0)
    taken = [n for n in range(25 * 60) if pace.admit(n / 25)]
    assert len(taken) == pytest.approx(605, abs=12)
    assert max(b - a for a, b in itertools.pairwise(taken)) <= 3


def test_frame_skip_goes_by_the_sequence() -> None:
    schedule = Site(8, 0.5)
    schedule.add("lobby", spec(skip=2))
    for sequence in range(1, 10):
        schedule.offer("lobby", sequence, sequence / 10)
    assert [picked.sequence for picked in schedule.take(0.9, 64)] == [6, 9]
    assert schedule.drain_drops() == {("lobby", "skipped"): 6, ("lobby", "stale"): 1}


def test_fresh_frames_go_oldest_first() -> None:
    schedule = Site(2, 0.5)
    schedule.add("lobby", spec())
    schedule.offer("lobby", 1, 0.0)
    schedule.offer("lobby", 2, 0.1)
    assert [picked.sequence for picked in schedule.take(0.1, 64)] == [1, 2]
    assert schedule.drain_drops() == {}


def test_burst_that_the_ring_holds_is_no_overload() -> None:
    schedule = Site(2, 0.5)
    schedule.add("lobby", spec(slots=7))
    for sequence in range(1, 6):
        schedule.offer("lobby", sequence, 0.0)
    taken = [schedule.take(0.1 * n, 1)[0].sequence for n in range(1, 6)]
    assert taken == [1, 2, 3, 4, 5]
    assert schedule.drain_drops() == {}


def test_in_an_overload_the_newest_stays() -> None:
    schedule = Site(2, 0.5)
    schedule.add("lobby", spec(slots=9))
    for sequence in range(1, 6):
        schedule.offer("lobby", sequence, sequence / 10)
    assert [picked.sequence for picked in schedule.take(0.61, 64)] == [5]
    assert schedule.drain_drops() == {("lobby", "overload"): 4}


def test_what_the_ring_cannot_hold_any_more_is_given_up() -> None:
    schedule = Site(2, 0.5)
    schedule.add("lobby", spec(slots=4))
    for sequence in range(1, 5):
        schedule.offer("lobby", sequence, 0.0)
    assert [picked.sequence for picked in schedule.take(0.1, 64)] == [4]
    assert schedule.drain_drops() == {("lobby", "overload"): 3}


def test_queue_max_frames_wait_until_stale() -> None:
    schedule = Site(2, 0.5)
    schedule.add("lobby", spec(skip=2))
    schedule.offer("lobby", 3, 0.3)
    schedule.offer("lobby", 6, 0.6)
    assert [picked.sequence for picked in schedule.take(0.6, 64)] == [3, 6]


def test_old_frames_are_stale_and_overwritten_ones_lapped() -> None:
    schedule = Site(4, 0.5)
    schedule.add("lobby", spec())
    schedule.offer("lobby", 1, 0.0)
    schedule.offer("lobby", 2, 0.3, available=False)
    schedule.offer("lobby", 3, 0.6)
    assert [picked.sequence for picked in schedule.take(0.7, 64)] == [3]
    assert schedule.drain_drops() == {("lobby", "stale"): 1, ("lobby", "lapped"): 1}
    assert schedule.drain_drops() == {}


def test_a_batch_has_one_geometry_and_the_other_comes_next() -> None:
    schedule = Site(2, 0.5)
    for name, width in (("a", 640), ("b", 1280), ("c", 640)):
        schedule.add(name, spec(width=width))
        schedule.offer(name, 1, 0.0)
    assert [picked.feed.camera for picked in schedule.take(0.0, 64)] == ["a", "c"]
    assert [picked.feed.camera for picked in schedule.take(0.0, 64)] == ["b"]
    assert schedule.take(0.0, 64) == []


def test_a_removed_camera_leaves_nothing_behind() -> None:
    schedule = Site(2, 0.5)
    schedule.add("a", spec())
    schedule.offer("a", 1, 0.0)
    schedule.remove("a")
    assert schedule.drain_drops() == {("a", "gone"): 1}
    assert schedule.take(0.0, 64) == []


@given(
    st.integers(2, 12),
    st.integers(1, 6),
    st.lists(st.sampled_from([640, 1280]), min_size=12, max_size=12),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_overload_starves_no_camera(cameras: int, limit: int, widths: list[int], queue_max: int) -> None:
    """Every camera sends faster than it is served; camera 0 is dead. Service must stay equal."""
    schedule = Site(queue_max, 10.0)
    for n in range(cameras):
        schedule.add(str(n), spec(fps=200.0, width=widths[n]))
    served = dict.fromkeys((str(n) for n in range(1, cameras)), 0)
    waits = dict.fromkeys(served, 0)
    for step in range(1, 200):
        for name in served:
            schedule.offer(name, step, step / 100)
        batch = schedule.take(step / 100, limit)
        assert 1 <= len(batch) <= limit
        for name in served:
            waits[name] += 1
            # At worst every other camera is served alone before it, twice where its own frames cost twice as much.
            assert waits[name] <= 2 * cameras + 1
        for picked in batch:
            served[picked.feed.camera] += 1
            waits[picked.feed.camera] = 0
    assert min(served.values()) > 0


def served_in_overload(costs: dict[str, float], seconds: float, fps: float = 10.0) -> tuple[dict[str, int], float]:
    """Frames served per camera, and the share of time in which the model was busy; one frame at a time."""
    schedule = Site(2, 0.5)
    for index, name in enumerate(costs):
        schedule.add(name, spec(fps=fps, width=640 + 32 * [*dict.fromkeys(costs.values())].index(costs[name])))
        assert index < 100
    served = dict.fromkeys(costs, 0)
    offered = dict.fromkeys(costs, 0)
    now = busy = 0.0
    while now < seconds:
        for index, name in enumerate(costs):
            while offered[name] < (now - index / (fps * len(costs))) * fps:
                offered[name] += 1
                schedule.offer(name, offered[name], offered[name] / fps)
        batch = schedule.take(now, 1)
        for picked in batch:
            served[picked.feed.camera] += 1
            schedule.record_cost(picked.feed.camera, costs[picked.feed.camera])
            now += costs[picked.feed.camera]
            busy += costs[picked.feed.camera]
        if not batch:
            now += 0.001
    return served, busy / now


def jain(shares: list[float]) -> float:
    """Jain's index of fairness: 1 for equal shares, 1/n where one has everything (Jain, Chiu and Hawe, 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


@pytest.mark.parametrize("cameras", [2, 7, 20])
def test_twice_the_load_is_shared_fairly(cameras: int) -> None:
    cost = 2.0 / (10.0 * cameras)
    served, busy = served_in_overload({str(n): cost for n in range(cameras)}, 60.0)
    assert busy > 0.99
    assert jain([float(count) for count in served.values()]) >= 0.95


def test_a_huge_camera_waits_and_not_the_others() -> None:
    """Nine cameras need half of the time together; a tenth one's frames cost half a second each."""
    small = {f"small{n}": 0.5 / 90 for n in range(9)}
    served, _ = served_in_overload({**small, "huge": 0.5}, 60.0)
    # Each keeps what it would have alone, but for what goes stale while one huge frame is computed.
    assert min(served[name] for name in small) >= 0.85 * 600
    assert 8 <= served["huge"] <= 14
    alone, busy = served_in_overload({"huge": 0.5}, 60.0)
    assert busy > 0.99, "where nobody else waits, it need not"
    assert alone["huge"] >= 110


@pytest.mark.parametrize("cameras", [2, 4])
def test_where_every_frame_takes_long_none_rests(cameras: int) -> None:
    """A large model on a small machine: a second camera shares the time with the first, and takes none of it away."""
    served, busy = served_in_overload({str(n): 0.4 for n in range(cameras)}, 60.0)
    assert busy > 0.95
    assert jain([float(count) for count in served.values()]) >= 0.95


def test_silent_camera_makes_no_other_rest() -> None:
    schedule = Site(2, 0.5)
    schedule.add("slow", spec())
    schedule.add("dead", spec(width=320))
    schedule.offer("slow", 1, 0.0)
    assert schedule.take(0.0, 1)
    schedule.record_cost("slow", 2.0)
    schedule.offer("slow", 2, 2.0)
    assert schedule.take(2.0, 1)
    schedule.offer("slow", 3, 4.0)
    assert schedule.take(4.0, 1), "it rests for a camera that sends nothing"


def test_idle_camera_does_not_take_everything_on_return() -> None:
    schedule = Site(64, 100.0)
    for name in ("busy", "idle"):
        schedule.add(name, spec(fps=240.0, slots=200))
    for step in range(1, 101):
        schedule.offer("busy", step, step / 10)
        schedule.take(step / 10, 1)
        schedule.record_cost("busy", 0.1)
    for step in range(101, 121):
        for name in ("busy", "idle"):
            schedule.offer(name, step, 10.1)
    order = [schedule.take(10.2, 1)[0].feed.camera for _ in range(20)]
    assert order.count("idle") <= 12


STEPS = st.lists(
    st.tuples(st.sampled_from(["offer", "offer", "offer", "lapped", "take", "again"]), st.sampled_from("abc")),
    max_size=200,
)


@given(STEPS, st.integers(0, 2), st.integers(1, 4), st.floats(0.001, 0.3))
def test_each_frame_is_analysed_dropped_or_waiting(
    steps: list[tuple[str, str]], skip: int, batch: int, pause_s: float
) -> None:
    schedule = Site(2, 0.5)
    sequence = dict.fromkeys("abc", 0)
    for name in "abc":
        schedule.add(name, spec(skip=skip))
    offered = taken = 0
    dropped: Counter[str] = Counter()
    now = 0.0
    for what, camera in steps:
        now += pause_s
        if what == "take":
            taken += len(schedule.take(now, batch))
        elif what == "again":
            schedule.remove(camera)
            schedule.add(camera, spec(skip=skip))
        else:
            sequence[camera] += 1
            schedule.offer(camera, sequence[camera], now, what == "offer")
            offered += 1
        for (_, cause), count in schedule.drain_drops().items():
            dropped[cause] += count
    for name in "abc":
        schedule.remove(name)
    for (_, cause), count in schedule.drain_drops().items():
        dropped[cause] += count
    assert offered == taken + sum(dropped.values())
