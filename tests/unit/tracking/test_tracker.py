"""`PersonTracker` on synthetic motion."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from crowdperf.settings.base import CLASSES
from crowdperf.settings.engine import Tracking
from crowdperf.tracking import kalman
from crowdperf.tracking.association import assign, buffered_iou
from crowdperf.tracking.tracker import CONFIRM_HITS, PersonTracker, Tracks

Frame = tuple[float, NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]


def boxes(*centres: tuple[float, float], width: float = 0.04, height: float = 0.12) -> NDArray[np.float32]:
    rows = [(x - width / 2, y - height / 2, x + width / 2, y + height / 2) for x, y in centres]
    return np.array(rows, np.float32).reshape(-1, 4)


def feed(
    tracker: PersonTracker, at: float, found: NDArray[np.float32], score: float = 0.9, class_id: int = 0
) -> Tracks:
    return tracker.update(at, found, np.full(len(found), score, np.float32), np.full(len(found), class_id, np.uint8))


def crowd(frames: int = 60, people: int = 12, seed: int = 5) -> list[Frame]:
    """People who walk through each other, with noise, weak scores, misses, false detections and uneven times."""
    random = np.random.default_rng(seed)
    at, place = 0.0, random.uniform(0.2, 0.8, (people, 2))
    speed = random.uniform(-0.1, 0.1, (people, 2))
    rows: list[Frame] = []
    for _ in range(frames):
        step = float(random.choice([0.1, 0.1, 0.2, 0.14]))
        at += step
        place += speed * step
        seen = place[random.random(people) > 0.1] + random.normal(0, 0.002, (1, 2))
        seen = np.concatenate([seen, random.uniform(0, 1, (random.integers(0, 3), 2))])
        scores = random.uniform(0.1, 0.95, len(seen)).astype(np.float32)
        rows.append((at, boxes(*seen), scores, random.integers(0, 3, len(seen)).astype(np.uint8)))
    return rows


def same(first: Tracks, second: Tracks) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second))


def test_track_is_confirmed_by_its_third_detection() -> None:
    tracker = PersonTracker(Tracking())
    seen = [feed(tracker, n / 10, boxes((0.3 + 0.01 * n, 0.5))) for n in range(10)]
    assert [bool(tracks.confirmed[0]) for tracks in seen] == [n + 1 >= CONFIRM_HITS for n in range(10)]
    assert {int(tracks.ids[0]) for tracks in seen} == {1}


def test_memory_and_state_stay_flat_over_hours() -> None:
    """A day by its events and not by its frames: 24 times 60 groups who come, stay for a second and leave."""
    tracker, random = PersonTracker(Tracking()), np.random.default_rng(3)
    sizes = []
    for minute in range(24 * 60):
        found = boxes(*random.uniform(0.1, 0.9, (1 + minute % 8, 2)))
        for step in range(3):
            feed(tracker, 60.0 * minute + step / 10, found)
        sizes.append(len(tracker.dump_state()))
    quiet = feed(tracker, 60.0 * 24 * 60, boxes())
    assert len(tracker) == 0
    assert len(quiet.ids) == 0
    assert max(sizes) <= max(sizes[:60]) + 16, "but for the length of a number"


def test_weak_detections_never_start_a_track_but_continue_one() -> None:
    tracker = PersonTracker(Tracking(high_confidence=0.35))
    assert len(feed(tracker, 0.0, boxes((0.5, 0.5)), score=0.3).ids) == 0
    for n in range(3):
        feed(tracker, 1 + n / 10, boxes((0.5, 0.5)))
    tracks = feed(tracker, 1.3, boxes((0.5, 0.5)), score=0.2)
    assert tracks.ids.tolist() == [1]
    assert tracks.confirmed.all()


def test_lost_track_is_found_within_its_time_and_ends_after() -> None:
    for pause, found in ((1.0, True), (1.6, False)):
        tracker = PersonTracker(Tracking(lost_s=1.5))
        for n in range(20):
            feed(tracker, n / 10, boxes((0.2 + 0.005 * n, 0.5)))
        ended = [feed(tracker, 1.9 + n / 10, boxes()).ended.tolist() for n in range(1, round(pause * 10))]
        tracks = feed(tracker, 1.9 + pause, boxes((0.295 + 0.05 * pause, 0.5)))
        assert (tracks.ids.tolist() == [1]) is found
        assert ((1 in tracks.ended) or [1] in ended) is not found


def test_pause_longer_than_lost_s_ends_every_track() -> None:
    tracker = PersonTracker(Tracking(lost_s=1.5))
    for n in range(5):
        feed(tracker, n / 10, boxes((0.5, 0.5)))
    tracks = feed(tracker, 10.0, boxes((0.5, 0.5)))
    assert tracks.ended.tolist() == [1]
    assert tracks.ids.tolist() == [2]


def test_two_people_who_pass_each_other_keep_their_ids() -> None:
    tracker = PersonTracker(Tracking())
    for n in range(40):
        left, right = 0.3 + 0.01 * n, 0.7 - 0.01 * n
        tracks = feed(tracker, n / 10, boxes((left, 0.5), (right, 0.53)))
    by_id = dict(zip(tracks.ids.tolist(), tracks.boxes[:, 0].tolist()))
    assert by_id[1] > by_id[2]


@pytest.mark.parametrize("fps", [5.0, 7.0, 25.0])
def test_small_fast_objects_at_low_rates_keep_their_ids(fps: float) -> None:
    tracker = PersonTracker(Tracking())
    ids: set[int] = set()
    for n in range(int(2 * fps)):
        found = boxes((0.05 + 0.25 * n / fps, 0.5), width=0.05, height=0.05)
        ids |= set(feed(tracker, n / fps, found, class_id=2).ids.tolist())
    assert ids == {1}


def test_the_class_is_the_majority_of_the_scores() -> None:
    tracker = PersonTracker(Tracking())
    for n, class_id in enumerate((2, 2, 5, 2, 5)):
        tracks = feed(tracker, n / 10, boxes((0.5, 0.5)), class_id=class_id)
    assert CLASSES[int(tracks.classes[0])] == "car"


def test_one_vehicle_under_two_classes_is_one_track() -> None:
    tracker = PersonTracker(Tracking())
    pair = boxes((0.5, 0.5), (0.501, 0.5))
    for n in range(5):
        tracks = tracker.update(n / 10, pair, np.array([0.6, 0.5], np.float32), np.array([2, 5], np.uint8))
    assert len(tracks.ids) == len(tracker) == 1


def test_ids_belong_to_the_instance() -> None:
    for _ in range(2):
        assert feed(PersonTracker(Tracking()), 0.0, boxes((0.5, 0.5))).ids.tolist() == [1]


def test_a_restored_tracker_goes_on_bit_for_bit() -> None:
    frames = crowd()
    tracker = PersonTracker(Tracking())
    states, outputs = [tracker.dump_state()], []
    for at, found, scores, classes in frames:
        outputs.append(tracker.update(at, found, scores, classes))
        states.append(tracker.dump_state())
    assert max(len(output.ids) for output in outputs) > 8
    for cut in range(len(frames)):
        other = PersonTracker(Tracking())
        other.restore(states[cut])
        for number in range(cut, min(cut + 8, len(frames))):
            assert same(other.update(*frames[number]), outputs[number])
            assert other.dump_state() == states[number + 1]


def test_the_state_does_not_grow_with_time() -> None:
    tracker = PersonTracker(Tracking())
    sizes = []
    for turn in range(6):
        for at, found, scores, classes in crowd(seed=turn):
            tracker.update(100 * turn + at, found, scores, classes)
        sizes.append(len(tracker.dump_state()))
    assert max(sizes) < 3 * min(sizes)


def test_a_state_of_another_version_is_refused() -> None:
    tracker = PersonTracker(Tracking())
    state = bytearray(tracker.dump_state())
    state[1] = 99
    with pytest.raises(ValueError, match="version 99"):
        tracker.restore(bytes(state))


def test_the_filter_equals_the_textbook_eight_by_eight() -> None:
    """The closed form beside plain matrices: F, Q, H and R of a constant-velocity model."""
    random = np.random.default_rng(3)
    first = np.array([[0.5, 0.4, 0.1, 0.2]])
    state = kalman.start(first)
    mean = np.concatenate([first[0], np.zeros(4)])
    covariance = np.diag(np.concatenate([state[kalman.VARIANCE, 0], state[kalman.VELOCITY_VARIANCE, 0]]))
    for dt in (0.1, 0.25, 0.04):
        forward = np.eye(8)
        forward[:4, 4:] = dt * np.eye(4)
        sigma = (kalman.ACCELERATION * mean[3]) ** 2
        noise = np.zeros((8, 8))
        noise[:4, :4], noise[4:, 4:] = np.diag(sigma * dt**4 / 4), np.diag(sigma * dt**2)
        noise[:4, 4:] = noise[4:, :4] = np.diag(sigma * dt**3 / 2)
        mean, covariance = forward @ mean, forward @ covariance @ forward.T + noise
        kalman.predict(state, dt)
        measured = mean[:4] + random.normal(0, 0.01, 4)
        seen = np.eye(4, 8)
        error = seen @ covariance @ seen.T + np.diag((kalman.MEASUREMENT * measured[3]) ** 2)
        gain = covariance @ seen.T @ np.linalg.inv(error)
        mean, covariance = mean + gain @ (measured - seen @ mean), (np.eye(8) - gain @ seen) @ covariance
        kalman.correct(state, np.array([0]), measured[None])
        np.testing.assert_allclose(state[kalman.VALUE, 0], mean[:4], rtol=1e-9)
        np.testing.assert_allclose(state[kalman.VELOCITY, 0], mean[4:], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(state[kalman.VARIANCE, 0], np.diag(covariance)[:4], rtol=1e-9)
        np.testing.assert_allclose(state[kalman.COVARIANCE, 0], np.diag(covariance[:4, 4:]), rtol=1e-9)


def test_overlap_equals_the_plain_formula() -> None:
    random = np.random.default_rng(9)
    first, second = random.uniform(0.1, 0.4, (2, 30, 4))
    got = buffered_iou(first, second, 0.2)
    for i, (ax, ay, aw, ah) in enumerate(first):
        for j, (bx, by, bw, bh) in enumerate(second):
            width = min(ax + 0.7 * aw, bx + 0.7 * bw) - max(ax - 0.7 * aw, bx - 0.7 * bw)
            height = min(ay + 0.7 * ah, by + 0.7 * bh) - max(ay - 0.7 * ah, by - 0.7 * bh)
            shared = max(0.0, width) * max(0.0, height)
            assert got[i, j] == pytest.approx(shared / (1.96 * (aw * ah + bw * bh) - shared), abs=1e-9)


def test_assignment_is_the_best_one_and_its_short_cut_agrees() -> None:
    everything = np.arange(2)
    # The greedy pair (0, 0) would leave row 1 without a partner.
    rows, columns = assign(np.array([[0.9, 0.8], [0.85, 0.1]]), everything, everything, 0.3)
    assert dict(zip(rows.tolist(), columns.tolist())) == {0: 1, 1: 0}
    rows, columns = assign(np.array([[0.1, 0.8], [0.2, 0.1]]), everything, everything, 0.3)
    assert dict(zip(rows.tolist(), columns.tolist())) == {0: 1}
    assert len(assign(np.zeros((2, 2)), everything, everything, 0.3)[0]) == 0
