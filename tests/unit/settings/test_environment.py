"""The documented environment variables down to what they are for: FFmpeg's command, the ring, the pace.

What QUEUE_MAX and CUDA_EMPTY_EVERY do to inference is in integration/inference/test_service.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crowdperf.capture.connector import OpenError, SourceConnector
from crowdperf.capture.probe import SourceInfo, build_ring_spec
from crowdperf.inference.scheduler import FrameScheduler
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.process_config import CaptureConfig, build_capture_config, build_tracking_config
from tests.support.feeds import make_feed
from tests.support.ports import free_port

RECORDING = """#!{python}
import json, os, sys
if "-h" in sys.argv:
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
with open({file!r}, "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
sys.exit("401 Unauthorized")
"""
"""An FFmpeg that writes down its arguments and plays nothing."""
SOURCE = SourceInfo(1920, 1080, 25.0, False)


def captured(folder: Path, variables: dict[str, str], scheme: str = "rtsp") -> CaptureConfig:
    """The capture process's configuration under those variables."""
    camera = {"id": "lobby", "url": f"{scheme}://127.0.0.1:{free_port()}/live"}
    config = parse(json.dumps({"cameras": [camera], "allowed_hosts": ["127.0.0.1"]}).encode())
    return build_capture_config(Deployment(config, Paths(folder), read_environment(variables), folder), "lobby")


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, config: CaptureConfig) -> list[list[str]]:
    """What FFmpeg is called with to open the camera."""
    program, file = folder / "ffmpeg", folder / "commands"
    program.write_text(RECORDING.format(python=sys.executable, real=find_ffmpeg(), file=str(file)))
    program.chmod(0o700)
    monkeypatch.setenv("CROWDPERF_FFMPEG", str(program))
    connector = SourceConnector(config, str, lambda: True, lambda _: None, Metrics())
    with pytest.raises(OpenError):
        connector.open()
    connector.close()
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("scheme", "option"), [("rtsp", "timeout"), ("http", "-rw_timeout")])
def test_rtsp_stimeout_usec_is_the_time_out_that_ffmpeg_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, option: str
) -> None:
    config = captured(tmp_path, {"RTSP_STIMEOUT_USEC": "1234567"}, scheme)
    for command in commands(tmp_path, monkeypatch, config):
        value = command[command.index("-i") - 6 : command.index("-i")]
        assert "1234567" in value, command
        assert value[value.index("1234567") - 1].endswith(option)


def test_ffmpeg_extra_flags_come_first_in_ffmpeg_s_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = "-hwaccel none -rtsp_flags 'prefer_tcp'"
    made = commands(tmp_path, monkeypatch, captured(tmp_path, {"FFMPEG_EXTRA_FLAGS": extra}))
    for command in made:
        at = command.index("-hwaccel")
        assert command[at : at + 4] == ["-hwaccel", "none", "-rtsp_flags", "prefer_tcp"]
        assert not {"-rtsp_transport", "-protocol_whitelist", "-probesize"} & set(command[:at]), "ours come behind them"
    assert made


def test_queue_max_makes_the_ring_hold_as_many(tmp_path: Path) -> None:
    few, many = (build_ring_spec(captured(tmp_path, {"QUEUE_MAX": text}), SOURCE).slots for text in ("1", "64"))
    assert many >= 64 > few


@pytest.mark.parametrize(("variables", "analysed"), [({"TARGET_FPS": "2"}, 2), ({"TARGET_FPS": "5"}, 5), ({}, 10)])
def test_target_fps_is_how_many_frames_a_second_are_analysed(
    tmp_path: Path, variables: dict[str, str], analysed: int
) -> None:
    schedule = FrameScheduler(2, 1000.0)
    feed = make_feed("lobby", build_ring_spec(captured(tmp_path, variables), SOURCE))
    taken = []
    for sequence in range(1, 251):
        schedule.offer(feed, sequence, sequence / 25)
        taken += schedule.take([feed], sequence / 25, 64)
    # A camera begins with a few at once.
    assert sum(5.0 < picked.arrived <= 10.0 for picked in taken) == 5 * analysed


def test_target_fps_is_what_tracking_reckons_with(tmp_path: Path) -> None:
    config = parse(json.dumps({"cameras": [{"id": "lobby", "url": "rtsp://192.0.2.1/"}]}).encode())
    for variables, expected in (({"TARGET_FPS": "3"}, 3.0), ({}, 10.0)):
        shard_config = build_tracking_config(Deployment(config, Paths(tmp_path), read_environment(variables)), 0)
        assert [camera.target_fps for camera in shard_config.cameras] == [expected]
