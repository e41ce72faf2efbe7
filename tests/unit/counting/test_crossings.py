"""Every way of counting wrongly that is known from other systems, as a sequence with its true count."""

from __future__ import annotations

import pytest

from crowdperf.counting.samples import Sample
from crowdperf.counting.validation import validate_line
from crowdperf.messaging.schema import CameraGap, Event, FrameDetections, LineCrossed, ZoneChanged
from crowdperf.settings.camera import Line, Zone
from crowdperf.settings.engine import Tracking
from crowdperf.tracking.pipeline import CameraPipeline
from tests.support.sequences import LINE, count, counter, detections, moment, sample, standing, totals

A, B, ON = 0.42, 0.58, 0.5
"""Before the line, behind it, in its dead band."""


def walk(*xs: float, track: int = 1, class_id: int = 0, confirmed: bool = True) -> list[list[Sample]]:
    return [[sample(track, x, class_id=class_id, confirmed=confirmed)] for x in xs]


SEQUENCES = {
    "one-frame flicker over the line": (walk(A, A, A, B, A, A), (0, 0)),
    "out of the band at both samples, the path through it": (walk(A, A, B, B), (0, 1)),
    "with samples in the band": (walk(A, A, ON, ON, B, B), (0, 1)),
    "a U-turn on the line": (walk(A, A, ON, ON, A, A), (0, 0)),
    "a U-turn one step behind the line": (walk(A, A, ON, B, ON, A, A), (0, 0)),
    "in, then out within the cooldown": (walk(B, B, A, A, B, B), (1, 1)),
    "a jitter of whole steps is one crossing each way": (walk(*[A, A, B, B] * 6), (1, 1)),
    "a class flips for a frame": (
        [[sample(1, x, class_id=2 if number == 3 else 0)] for number, x in enumerate((A, A, B, B, B))],
        (0, 1),
    ),
    "two people abreast": ([[sample(1, x, 0.4), sample(2, x, 0.6)] for x in (A, A, B, B)], (0, 2)),
    "a path beside the segment": ([[sample(1, x, 0.97)] for x in (A, A, B, B)], (0, 0)),
    "around the end and back through the line": (
        [
            [sample(1, x, y)]
            for x, y in ((A, 0.97), (A, 0.97), (B, 0.97), (B, 0.97), (B, 0.5), (B, 0.5), (A, 0.5), (A, 0.5))
        ],
        (1, 0),
    ),
    "never confirmed": (walk(A, A, B, B, B, confirmed=False), (0, 0)),
    "the shared id of unconfirmed detections": (
        [[sample(0xFFFFFFFF, x, confirmed=False)] for x in (A, B, A, B, B, A, A, B, B)],
        (0, 0),
    ),
    "confirmed after it crossed counts once": (
        [[sample(1, x, confirmed=number > 3)] for number, x in enumerate((A, A, B, B, B, B))],
        (0, 1),
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences(name: str) -> None:
    frames, expected = SEQUENCES[name]
    assert totals(count(frames)) == expected


def test_crossing_has_first_far_sample_and_majority_class() -> None:
    (event,) = count([[sample(7, x, class_id=1)] for x in (A, A, ON - 0.002, ON + 0.002, ON + 0.003, B, B)])
    assert (event.sequence, event.ts, event.class_name, event.track) == (3, 1_700_000_000.3, "bicycle", 7)
    assert event.id == "lobby:1:3:door:out:0"


def test_two_abreast_have_different_ids() -> None:
    events = count([[sample(1, x, 0.4), sample(2, x, 0.6)] for x in (A, A, B, B)])
    assert sorted(event.id for event in events) == ["lobby:1:2:door:out:0", "lobby:1:2:door:out:1"]


def test_jitter_on_the_line_keeps_the_last_crossing_time() -> None:
    (event,) = count([[sample(7, x)] for x in (A, A, ON + 0.002, ON - 0.002, ON + 0.002, ON + 0.003, B, B)])
    assert (event.sequence, event.direction) == (4, "out")


def test_two_in_the_band_get_different_ids() -> None:
    """Both step over the line in frame 2; their crossings are settled in different frames."""
    first, second = (A, A, ON + 0.002, B, B, B, B), (A, A, ON + 0.002, ON + 0.002, ON + 0.002, B, B)
    events = count([[sample(1, x, 0.3), sample(2, y, 0.7)] for x, y in zip(first, second)])
    assert sorted(event.id for event in events) == ["lobby:1:2:door:out:0", "lobby:1:2:door:out:1"]


def test_the_end_of_a_track_on_the_far_side_settles_its_crossing() -> None:
    frames = [*walk(A, A, B), [], [], []]
    assert totals(count(frames)) == (0, 0)
    assert totals(count(frames, ended={5: [1]})) == (0, 1)


def test_an_unconfirmed_track_that_ends_there_does_not() -> None:
    assert totals(count([*walk(A, A, B, confirmed=False), []], ended={3: [1]})) == (0, 0)


@pytest.mark.parametrize(
    ("p1", "p2", "anchor", "usable"),
    [
        ([0.0, 10 / 720], [1.0, 10 / 720], "bottom_centre", False),
        ([0.0, 10 / 720], [1.0, 10 / 720], "centre", False),
        ([0.0, 710 / 720], [1.0, 710 / 720], "centre", False),
        ([10 / 1280, 0.0], [10 / 1280, 1.0], "bottom_centre", False),
        ([1270 / 1280, 1.0], [1270 / 1280, 0.0], "centre", False),
        ([0.0, 0.5], [1.0, 0.5], "bottom_centre", True),
        ([0.5, 0.0], [0.5, 1.0], "centre", True),
        ([0.1, 0.9], [0.9, 0.2], "bottom_centre", True),
    ],
)
def test_a_line_at_the_edge_is_reported(p1: list[float], p2: list[float], anchor: str, usable: bool) -> None:
    problem = validate_line(Line(id="door", p1=p1, p2=p2, anchor=anchor))  # type: ignore[arg-type]
    assert (problem == "") is usable
    if not usable:
        assert "'door'" in problem
        assert "Remedy" in problem


def test_reused_id_of_another_class_has_its_own_history() -> None:
    made = counter()
    events = [*made.update(moment(0), [sample(1, A)], []), *made.update(moment(1), [sample(1, A)], [])]
    events += made.update(moment(2), [], [1])
    # Far from where the person ended, so nothing is continued; the car begins on the far side and stays there.
    for number in range(40, 44):
        events += made.update(moment(number), [sample(1, B, 0.8, class_id=2)], [])
    assert events == []


def test_the_tracker_never_uses_an_id_again() -> None:
    pipeline = plumbed()
    ids: list[int] = []
    for number in range(1, 400):
        class_id = (number // 10) % 6
        tracked, _ = pipeline.step(
            detections(number * 3, [standing(0.3, 0.5)] if number % 10 < 5 else [], class_id=class_id)
        )
        assert tracked is not None
        ids += list(memoryview(tracked.tracks).cast("I"))
    appearances = [now for before, now in zip([0, *ids], ids) if now != before]
    assert len(appearances) == len(set(appearances)) > 20


@pytest.mark.parametrize("ended_at_once", [False, True])
@pytest.mark.parametrize("offset", [-0.012, 0.012])
def test_stop_and_go_on_the_line_with_changing_ids(ended_at_once: bool, offset: float) -> None:
    """A car creeps over the line for 30 s; every 1.5 s its id changes, each id jumping about the line by its jitter."""
    made = counter()
    events: list[LineCrossed] = []
    track = 1
    for number in range(300):
        if number % 15 == 0 and number:
            ended = [track] if ended_at_once else [track - 1]
            track += 1
        else:
            ended = []
        creep = 0.44 + 0.12 * number / 300
        jitter = offset if number % 15 < 7 else -offset
        events += made.update(moment(number), [sample(track, creep + jitter, h=0.2, class_id=2)], ended)
    assert sum(totals(events)) == 1


def test_returning_lost_track_does_not_count_again() -> None:
    """Track 1 is lost before the line, track 2 takes its object over it, then track 1 takes the object back."""
    path = [(1, 0.36), (1, 0.40), (2, 0.42), (2, 0.46), (2, 0.54), (2, 0.56), (1, 0.58), (1, 0.62), (1, 0.66)]
    assert totals(count([[sample(track, x, h=0.2)] for track, x in path])) == (0, 1)


def test_someone_else_who_follows_is_counted_too() -> None:
    frames = [[sample(1, x)] for x in (A, A, B, B)] + [[] for _ in range(3)]
    frames += [[sample(2, x)] for x in (0.3, 0.36, A, B, B + 0.05)]
    assert totals(count(frames, ended={5: [1]})) == (0, 2)


def plumbed(
    lines: tuple[Line, ...] = (LINE,), zones: tuple[Zone, ...] = (), settings: Tracking | None = None
) -> CameraPipeline:
    return CameraPipeline("lobby", settings or Tracking(), lines, zones, 10.0)


def play(pipeline: CameraPipeline, frames: list[FrameDetections]) -> list[Event]:
    return [event for frame in frames for event in pipeline.step(frame)[1]]


def passage(
    start: int, stop: int, *, skip: range = range(0), epoch: int = 1, late_s: float = 0.0
) -> list[FrameDetections]:
    """A person walks from x 0.3 to 0.7 in frames 1 to 41, over the line at frame 21."""
    return [
        detections(
            number,
            [standing(0.3 + 0.01 * (number - 1), 0.5)],
            epoch=epoch,
            at_s=number / 10 + late_s,
        )
        for number in range(start, stop)
        if number not in skip
    ]


def test_a_plain_passage_counts() -> None:
    assert totals(play(plumbed(), passage(1, 41))) == (0, 1)


@pytest.mark.parametrize("fps", [0.8, 1.0, 2.0, 3.5, 30.0])
@pytest.mark.parametrize("configured", [True, False], ids=["as configured", "slower than configured"])
def test_few_or_many_frames_a_second_count_and_are_no_gaps(fps: float, configured: bool) -> None:
    pipeline = CameraPipeline("lobby", Tracking(), (LINE,), (), fps if configured or fps > 10 else 10.0)
    step = 0.06 / fps
    frames = [
        detections(n, [standing(0.3 + step * (n - 1), 0.5)], at_s=(n - 1) / fps) for n in range(1, 1 + int(0.4 / step))
    ]
    events = play(pipeline, frames)
    assert totals(events) == (0, 1)
    gaps = [event for event in events if isinstance(event, CameraGap)]
    assert len(gaps) <= (0 if configured or fps > 1 else 1)


@pytest.mark.parametrize("pause_s", [1.2, 3.0, 60.0])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stream_lost_in_the_middle_of_a_crossing(pause_s: float, epoch: int) -> None:
    frames = passage(1, 19) + passage(24, 41, epoch=epoch, late_s=pause_s)
    events = play(plumbed(), frames)
    gaps = [event for event in events if isinstance(event, CameraGap)]
    assert [gap.cause for gap in gaps] == ["epoch changed" if epoch == 2 else "frames missing"]
    assert gaps[0].start == pytest.approx(1_700_000_001.8)
    assert gaps[0].end >= 1_700_000_002.4 + pause_s
    assert gaps[0].id == f"lobby:gap:{epoch}:24"
    assert totals(events) in ((0, 0), (0, 1))


def test_someone_else_behind_the_line_after_a_gap_is_no_crossing() -> None:
    before = [detections(number, [standing(0.47, 0.5)]) for number in range(1, 20)]
    after = [detections(number, [standing(0.53, 0.5)], at_s=number / 10 + 1.1) for number in range(20, 40)]
    assert totals(play(plumbed(), before + after)) == (0, 0)


def test_the_resolution_changes_at_the_reconnection() -> None:
    frames = passage(1, 19)
    boxes = [standing(0.8, 0.5)]
    frames += [detections(n, boxes, epoch=2, at_s=n / 10 + 5, size=(1280, 720)) for n in range(1, 20)]
    events = play(plumbed(), frames)
    assert totals(events) == (0, 0)
    assert sum(isinstance(event, CameraGap) for event in events) == 1


def test_black_frames_give_no_false_crossing() -> None:
    black = [detections(number, []) for number in range(19, 60)]
    after = [detections(number, [standing(0.7, 0.5)]) for number in range(60, 70)]
    assert totals(play(plumbed(), passage(1, 19) + black + after)) == (0, 0)


def test_a_restart_in_the_middle_goes_on_where_it_was() -> None:
    zone = Zone(id="hall", polygon=[[0.4, 0.1], [0.6, 0.1], [0.6, 0.9], [0.4, 0.9]])
    frames = passage(1, 41)
    whole = play(plumbed(zones=(zone,)), frames)
    for cut in range(len(frames)):
        first, second = plumbed(zones=(zone,)), plumbed(zones=(zone,))
        events = play(first, frames[:cut])
        second.restore(first.dump_state())
        assert second.get_occupancy() == first.get_occupancy()
        # Some frames come again, as after a kill.
        events += play(second, frames[max(0, cut - 3) :])
        assert events == whole


def test_people_who_stand_still_stay() -> None:
    zone = Zone(id="hall", polygon=[[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]])
    pipeline = plumbed(zones=(zone,))
    # Half of the time the person is seen only weakly, now and then not at all for a second.
    frames = [
        detections(number, [] if number % 100 < 10 else [standing(0.5, 0.5)], score=0.9 if number % 4 < 2 else 0.2)
        for number in range(11, 3_000)
    ]
    events = play(pipeline, frames)
    assert pipeline.get_occupancy() == {"hall": 1}
    assert [(event.change, event.occupancy) for event in events if isinstance(event, ZoneChanged)] == [("in", 1)]
