"""What rate each stream is expected to have, and when a measured rate is another."""

from __future__ import annotations

from pathlib import Path

import pytest

from crowdperf.messaging.streams import (
    AUDIT,
    CONNECTIONS,
    DETECTIONS,
    EVENTS,
    MAX_BURST_MESSAGES,
    OBSERVATIONS,
    STREAMS,
    RateBounds,
    compute_rate_bounds,
)
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Environment, Paths
from crowdperf.settings.process_config import AnalysisRate, build_web_config

PLAIN = AnalysisRate(target_fps=10, frame_skip=0, ppe_fps=0)
SKIPPING = AnalysisRate(target_fps=20, frame_skip=3, ppe_fps=1)


def test_rates_follow_the_cameras_of_the_configuration() -> None:
    assert compute_rate_bounds(DETECTIONS, [PLAIN]) == pytest.approx((2.5, 12.0))
    # A camera of 20 frames a second gives 5 where three of four are left out.
    assert compute_rate_bounds(DETECTIONS, [SKIPPING]) == pytest.approx((1.25, 24.0))
    assert compute_rate_bounds(DETECTIONS, [PLAIN, SKIPPING]) == pytest.approx((3.75, 36.0))
    assert compute_rate_bounds(OBSERVATIONS, [PLAIN, SKIPPING]) == (0, 50)
    assert compute_rate_bounds(CONNECTIONS, [PLAIN, SKIPPING]) == (0, 1)


def test_streams_of_events_may_stand_still() -> None:
    may_rest = {stream.name for stream in STREAMS if not compute_rate_bounds(stream, [PLAIN]).minimum}
    assert may_rest == {stream.name for stream in STREAMS} - {"detections", "tracks"}
    assert compute_rate_bounds(EVENTS, [PLAIN]) == (0, 20)
    assert compute_rate_bounds(AUDIT, []) == (0, 20)


@pytest.mark.parametrize(
    ("messages", "state"), [(0, "low"), (24, "low"), (25, "ok"), (120 + MAX_BURST_MESSAGES, "ok"), (141, "high")]
)
def test_measured_rate_is_compared_with_both_bounds(messages: int, state: str) -> None:
    assert RateBounds(2.5, 12.0).judge(messages, 10.0) == state


def test_descriptions_hold_the_numbers() -> None:
    assert DETECTIONS.expected_rate.describe() == "0.25 to 1.2 per frame of target_fps"
    assert AUDIT.expected_rate.describe() == "at most 20/s per site"


def test_web_process_knows_the_rates_of_enabled_cameras() -> None:
    config = parse(
        b"""{"target_fps": 8, "frame_skip": 1, "ppe": {"fps": 2}, "cameras": [
        {"id": "a", "url": "rtsp://192.0.2.1/"}, {"id": "off", "url": "rtsp://192.0.2.2/", "enabled": false},
        {"id": "b", "url": "rtsp://192.0.2.3/", "target_fps": 5, "ppe": [{"id": "x", "required": ["hardhat"]}]}]}"""
    )
    deployment = Deployment(config, Paths(Path("var")), Environment(target_fps=12))
    assert build_web_config(deployment).analysis_rates == {
        "a": AnalysisRate(target_fps=12, frame_skip=1, ppe_fps=0),
        "b": AnalysisRate(target_fps=5, frame_skip=1, ppe_fps=2),
    }
