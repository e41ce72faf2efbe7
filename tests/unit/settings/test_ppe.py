"""PPE rules in the configuration, and what they change for a camera's capture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crowdperf.capture.probe import SourceInfo, build_ring_spec
from crowdperf.settings import process_config
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Config, Deployment, parse
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.ppe import PPE_WIDTH
from crowdperf.settings.process_config import CaptureConfig
from crowdperf.settings.schedule import Window

PATHS = Paths(Path("/data"))
ZONE = {"id": "yard", "polygon": [[0, 0], [1, 0], [1, 1]]}
RULE = {"id": "helmets", "zone": "yard", "required": ["hardhat", "vest"]}


def config(rule: dict[str, object] | None = None, **camera: object) -> Config:
    document: dict[str, object] = {"id": "gate", "url": "rtsp://h/s", "zones": [ZONE], **camera}
    if rule is not None:
        document["ppe"] = [rule]
    return parse(json.dumps({"ppe": {"fps": 2}, "cameras": [document]}).encode())


def capture(made: Config) -> CaptureConfig:
    return process_config.build_capture_config(Deployment(made, PATHS, read_environment({}), Path("/")), "gate")


def test_a_rule_reads_with_its_defaults() -> None:
    (rule,) = config({**RULE, "schedule": [{"days": ["mon"], "start": "06:00", "end": "18:30"}]}).cameras[0].ppe
    assert rule.required == ["hardhat", "vest"]
    assert rule.schedule == [Window(days=["mon"], start="06:00", end="18:30")]
    assert (rule.min_dwell_s, rule.cooldown_s, rule.exempt_zones) == (2.0, 60.0, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"zone": "yrad"}, r"ppe: rule 'helmets' names the zone 'yrad'.*it has: yard.*Remedy"),
        ({"exempt_zones": ["office"]}, r"names the zone 'office'.*Remedy"),
        ({"required": []}, r"required"),
        ({"required": ["hat"]}, r"hat.*required"),
        ({"required": ["vest", "vest"]}, r"requires an item twice.*Remedy"),
        ({"schedule": [{"start": "24:00"}]}, r"schedule"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config({**RULE, **change})


def test_ppe_camera_is_wide_and_people_use_the_usual_width() -> None:
    plain, ruled = capture(config()), capture(config(RULE))
    assert (plain.analysis_width, plain.model_width, plain.ppe_fps) == (640, 0, 0.0)
    assert (ruled.analysis_width, ruled.model_width, ruled.ppe_fps) == (PPE_WIDTH, 640, 2.0)
    asked = capture(config(RULE, analysis_width=960))
    assert (asked.analysis_width, asked.model_width, asked.ppe_fps) == (960, 0, 2.0)


def test_the_ring_tells_inference_all_of_it() -> None:
    ring = build_ring_spec(capture(config(RULE)), SourceInfo(1920, 1080, 25.0, False))
    assert (ring.width, ring.model_width, ring.ppe_fps) == (PPE_WIDTH, 640, 2.0)
    assert build_ring_spec(capture(config()), SourceInfo(1920, 1080, 25.0, False)).ppe_fps == 0


def test_a_rule_never_restarts_inference() -> None:
    with_rule, without = (
        process_config.build_inference_config(Deployment(made, PATHS, read_environment({})))
        for made in (config(RULE), config())
    )
    assert with_rule == without
