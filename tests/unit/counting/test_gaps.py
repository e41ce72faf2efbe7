"""Pauses of a camera's frames: every true crossing is counted once or lies inside the gap that is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.counting.lines import JITTER_BAND
from crowdperf.counting.samples import Sample
from crowdperf.messaging.schema import CameraGap, Event, FrameDetections, LineCrossed
from crowdperf.settings.camera import Line
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.gaps import MAX_UNDECIDED_S
from crowdperf.tracking.pipeline import CameraPipeline
from tests.support.sequences import counter, detections, moment, sample, standing, totals

BEGIN = 1_700_000_000.0
ACROSS = Line(id="door", p1=[0.5, 0.0], p2=[0.5, 1.0])
MATCH_S = 1.0
"""A filtered box runs on a little where somebody stops: the counted time may be off by that, never the number."""
LANES = (0.3, 0.62, 0.95)


class Leg(NamedTuple):
    """Walk to a place, and stay there for a while."""

    to: float
    stay_s: float


class Walker(NamedTuple):
    """Somebody's way along one lane; speeds in picture widths per second, pictures are square."""

    lane: float
    height: float
    speed: float
    begin: float
    legs: tuple[Leg, ...]

    def knots(self) -> list[tuple[float, float]]:
        """(time, place) where the motion changes."""
        at_s, x = 0.0, self.begin
        found = [(at_s, x)]
        for leg in self.legs:
            at_s += abs(leg.to - x) / self.speed
            x = leg.to
            found += [(at_s, x), (at_s + leg.stay_s, x)]
            at_s += leg.stay_s
        return found

    def place(self, at_s: float) -> float:
        """Where the feet are."""
        knots = self.knots()
        for (t0, x0), (t1, x1) in pairwise(knots):
            if t0 <= at_s < t1:
                return x0 + (x1 - x0) * (at_s - t0) / (t1 - t0)
        return knots[-1][1]

    def crossings(self) -> list[tuple[float, str]]:
        """(time, way) of the feet on the line."""
        knots = self.knots()
        return [
            (t0 + (t1 - t0) * (0.5 - x0) / (x1 - x0), "out" if x1 > x0 else "in")
            for (t0, x0), (t1, x1) in pairwise(knots)
            if (x0 - 0.5) * (x1 - 0.5) < 0
        ]


def frames_of(walkers: Sequence[Walker], outages: Sequence[tuple[float, float]], fps: float) -> list[FrameDetections]:
    """What a camera sees of them, without what falls into an outage (from, to)."""
    lasts_s = max(walker.knots()[-1][0] for walker in walkers) + MAX_UNDECIDED_S + 1.0
    found = []
    for number in range(int(lasts_s * fps)):
        at_s = number / fps
        if any(begin < at_s < end for begin, end in outages):
            continue
        boxes = [standing(one.place(at_s), one.lane, one.height / 3, one.height) for one in walkers]
        found.append(detections(number + 1, boxes, at_s=at_s))
    return found


def play(frames: Sequence[FrameDetections], fps: float, lanes: dict[int, float] | None = None) -> list[Event]:
    """All events; `lanes` is filled with every track's."""
    pipeline = CameraPipeline("lobby", Tracking(), (ACROSS,), (), fps)
    events: list[Event] = []
    for frame in frames:
        tracked, new = pipeline.step(frame)
        events += new
        if tracked is not None and lanes is not None:
            bottoms = memoryview(tracked.boxes).cast("f").tolist()[3::4]
            for track, bottom in zip(memoryview(tracked.tracks).cast("I").tolist(), bottoms):
                lanes[track] = min(LANES, key=lambda lane: abs(lane - bottom))
    return events + pipeline.finish()


def gaps_of(events: Sequence[Event]) -> list[tuple[float, float]]:
    return [(event.start - BEGIN, event.end - BEGIN) for event in events if isinstance(event, CameraGap)]


def verdict(
    walkers: Sequence[Walker], frames: Sequence[FrameDetections], fps: float
) -> tuple[list[object], list[object]]:
    """True crossings neither counted nor in a gap, and counted ones that are none."""
    lanes: dict[int, float] = {}
    events = play(frames, fps, lanes)
    ids = [event.id for event in events]
    assert len(ids) == len(set(ids))
    counted = [(lanes[row.track], row.direction, row.ts - BEGIN) for row in events if isinstance(row, LineCrossed)]
    gaps = gaps_of(events)
    missed: list[object] = []
    for walker in walkers:
        for at_s, way in walker.crossings():
            mine = [row for row in counted if row[:2] == (walker.lane, way) and abs(row[2] - at_s) <= MATCH_S]
            if mine:
                counted.remove(mine[0])
            elif not any(start - 1 / fps <= at_s <= end + 1 / fps for start, end in gaps):
                missed.append((at_s, way, gaps))
    return missed, list(counted)


@st.composite
def walkers(draw: st.DrawFn, lane: float, most: float) -> Walker:
    """To and fro over the line, each time well beyond it; some stand still on it on their way."""
    height = draw(st.floats(0.1, most))
    stands = draw(st.booleans())
    # Nobody comes from a quick walk to a stand within a frame.
    speed = draw(st.floats(0.02, min(0.4, (0.4 if stands else 1.5) * height)))
    beyond = st.floats(2 * JITTER_BAND * height + 0.5 * speed, 0.45)
    side = draw(st.sampled_from([-1, 1]))
    begin = 0.5 + side * draw(beyond)
    legs = []
    for _ in range(draw(st.integers(1, 3))):
        if stands:
            off = draw(st.sampled_from([-1, 1])) * draw(st.floats(0.3, 0.9)) * JITTER_BAND * height
            legs.append(Leg(0.5 + off, draw(st.floats(0.0, 5.0))))
        side = -side
        legs.append(Leg(0.5 + side * draw(beyond), draw(st.floats(0.5, 2.0))))
    return Walker(lane, height, speed, begin, tuple(legs))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Walker], list[tuple[float, float]], float]:
    """Walkers, outages (most of them while somebody is on the line), and frames per second."""
    fps = draw(st.sampled_from([5.0, 10.0, 25.0]))
    lanes = draw(st.lists(st.sampled_from(LANES), min_size=1, max_size=3, unique=True))
    cast = [draw(walkers(lane, 0.28 if len(lanes) > 1 else 0.28 if lane < 0.5 else 0.55)) for lane in lanes]
    times = [at_s for walker in cast for at_s, _ in walker.crossings()]
    outages, free = [], 1.0
    for at_s in sorted(draw(st.lists(st.sampled_from(times), max_size=3, unique=True))):
        begin = max(free, at_s + draw(st.floats(-3.0, 1.5)))
        end = begin + draw(st.floats(1.2, 4.0))
        outages.append((begin, end))
        free = end + draw(st.floats(0.1, 3.0))
    return cast, outages, fps


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_every_true_crossing_is_counted_once_or_lies_in_a_gap(
    scene: tuple[list[Walker], list[tuple[float, float]], float],
) -> None:
    cast, outages, fps = scene
    assert verdict(cast, frames_of(cast, outages, fps), fps) == ([], [])


PASSAGE = Walker(0.9, 0.4, 0.05, 0.3, (Leg(0.7, 0.5),))
"""Slow and tall: on the line at 4 s, for 0.5 s in its band before and after."""


@pytest.mark.parametrize(
    ("begin", "end", "counts"),
    [
        (4.35, 6.0, False),  # over the line, in the band
        (4.51, 6.0, True),  # one sample behind the band
        (2.0, 3.55, False),  # in the band before the line when pictures come again
        (2.0, 3.45, True),  # before the band
        (3.6, 4.8, False),  # from one side of the line to the other
    ],
)
def test_a_crossing_beside_a_pause_is_counted_or_in_the_gap(begin: float, end: float, counts: bool) -> None:
    events = play(frames_of([PASSAGE], [(begin, end)], 10.0), 10.0)
    ((start, stop),) = gaps_of(events)
    assert totals(events) == (0, int(counts))
    assert counts or start <= 4.0 <= stop
    assert start >= begin - 0.3 - 0.5 * (not counts)
    assert stop <= max(end + 0.5, 4.8)


def test_turning_round_in_the_band_after_a_gap_is_no_crossing() -> None:
    walker = Walker(0.9, 0.4, 0.05, 0.3, (Leg(0.51, 1.0), Leg(0.3, 1.0)))
    events = play(frames_of([walker], [(3.0, 4.25)], 10.0), 10.0)
    assert totals(events) == (0, 0)
    ((start, stop),) = gaps_of(events)
    assert start <= 4.0
    assert stop >= 5.4, "until the feet are back over the line"


def test_person_on_the_line_holds_the_gap_open_for_a_limit() -> None:
    walker = Walker(0.9, 0.4, 0.05, 0.3, (Leg(0.49, 8.0), Leg(0.7, 1.0)))
    events = play(frames_of([walker], [(3.0, 6.0)], 10.0), 10.0)
    ((_, stop),) = gaps_of(events)
    assert stop == pytest.approx(6.0 + MAX_UNDECIDED_S, abs=0.2)
    assert totals(events) == (0, 1)


def test_person_hidden_at_the_start_of_a_gap_may_have_crossed() -> None:
    frames = frames_of([PASSAGE], [(4.5, 6.0)], 10.0)
    hidden = [detections(frame.sequence, [], at_s=frame.sequence / 10 - 0.1) for frame in frames[37:46]]
    events = play([*frames[:37], *hidden, *frames[46:]], 10.0)
    assert totals(events) == (0, 0)
    ((start, stop),) = gaps_of(events)
    assert start <= 4.0 <= stop


def test_gap_right_after_a_gap_leaves_nothing_between() -> None:
    events = play(frames_of([PASSAGE], [(2.0, 3.75), (3.95, 6.0)], 10.0), 10.0)
    (first_start, first_stop), (second_start, _) = gaps_of(events)
    assert first_start == pytest.approx(2.0)
    assert first_stop == pytest.approx(second_start) == pytest.approx(3.9)
    assert totals(events) == (0, 0)
    ids = [event.id for event in events]
    assert len(ids) == len(set(ids))


def test_pictures_of_another_shape_are_a_gap() -> None:
    frames = frames_of([PASSAGE], [], 10.0)
    frames[43:] = [
        detections(frame.sequence, [standing(0.9, 0.9)], epoch=2, at_s=frame.sequence / 10 - 0.1, size=(1280, 720))
        for frame in frames[43:]
    ]
    events = play(frames, 10.0)
    (gap,) = [event for event in events if isinstance(event, CameraGap)]
    assert gap.cause == "picture changed"
    assert totals(events) == (0, 0)
    assert gap.start <= BEGIN + 4.0 <= gap.end


@pytest.mark.parametrize("outage", [(2.0, 3.55), (4.35, 6.0), (4.51, 6.0)])
def test_a_restart_while_a_gap_is_open_gives_the_same_events(outage: tuple[float, float]) -> None:
    frames = frames_of([PASSAGE], [outage], 10.0)
    whole = play(frames, 10.0)
    for cut in range(len(frames)):
        first, second = (CameraPipeline("lobby", Tracking(), (ACROSS,), (), 10.0) for _ in range(2))
        events = [event for frame in frames[:cut] for event in first.step(frame)[1]]
        second.restore(first.dump_state())
        events += [event for frame in frames[max(0, cut - 3) :] for event in second.step(frame)[1]]
        assert events == whole


def test_gap_counts_nothing_for_a_return_in_the_band() -> None:
    made = counter()
    for number, x in enumerate((0.42, 0.42, 0.58, 0.499)):
        assert made.update(moment(number), [sample(1, x)], []) == []
    events, since_s = made.break_paths(moment(40), 4.3)
    assert events == []
    assert since_s == 0.2


def test_a_pause_gives_up_what_an_unconfirmed_track_did() -> None:
    made = counter()
    seen: list[list[Sample]] = [[sample(1, x, confirmed=False)] for x in (0.42, 0.58, 0.6)]
    for number, samples in enumerate(seen):
        made.update(moment(number), samples, [])
    assert made.break_paths(moment(40), 4.3) == ([], 0.1)
    # It comes back and is confirmed: what it did before counts after all.
    assert totals(made.update(moment(41), [sample(1, 0.6)], [])) == (0, 1)


@pytest.mark.parametrize("known", [True, False])
def test_lost_state_is_a_gap_from_before_the_last_frame(known: bool) -> None:
    frames = frames_of([PASSAGE], [], 10.0)
    pipeline = CameraPipeline("lobby", Tracking(), (ACROSS,), (), 10.0)
    pipeline.resume(1, 43, frames[42].captured_at_ns if known else 0)
    events = [event for frame in frames for event in pipeline.step(frame)[1]]
    (gap,) = events
    assert isinstance(gap, CameraGap)
    assert (gap.id, gap.cause) == ("lobby:gap:1:44", "state lost")
    assert gap.start == pytest.approx(BEGIN + (4.2 if known else 4.3) - MAX_UNDECIDED_S)
    assert gap.end == pytest.approx(BEGIN + 4.7, abs=0.11)
