"""The pace of a recording, whatever its clock does."""

from __future__ import annotations

import pytest

from crowdperf.capture.playback import Playback

HOUR_US = 3_600_000_000


@pytest.mark.parametrize("jump_us", [HOUR_US, -HOUR_US, 10_500_000, -1])
def test_a_jump_of_the_clock_takes_one_period(jump_us: int) -> None:
    playback = Playback(100.0, 10.0)
    assert playback.begin_round() == 0
    due = [playback.compute_due_time(pts) for pts in (0, 100_000, 100_000 + jump_us, 200_000 + jump_us)]
    assert due == pytest.approx([100.0, 100.1, 100.2, 100.3])


def test_a_pause_within_a_recording_stays_a_pause() -> None:
    playback = Playback(100.0, 10.0)
    playback.begin_round()
    assert [playback.compute_due_time(pts) for pts in (5_000_000, 14_000_000, None)] == [100.0, 109.0, 109.0]


def test_rounds_follow_each_other_by_a_period() -> None:
    playback = Playback(100.0, 0.0)
    playback.begin_round()
    assert [playback.compute_due_time(pts) for pts in (0, 40_000)] == pytest.approx([100.0, 100.04])
    assert playback.begin_round() == 80_000
    assert playback.compute_due_time(0) == pytest.approx(100.08)
