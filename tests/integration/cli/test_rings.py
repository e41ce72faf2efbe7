"""`crowdperf ring`: what it shows of rings that a writer of this process fills."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from crowdperf.cli.rings import RingReading, format_row, main, read_rings
from crowdperf.frames.ring import FrameWriter, RingSpec, unlink_instance
from crowdperf.frames.segment import open_folder
from crowdperf.messaging.process_metrics import metrics_key
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation
from tests.conftest import RedisServer
from tests.support.installation import make_installation

SPEC = RingSpec(160, 90, "yuv420p", 1920, 1080, 4, 10.0, 0)
NOWHERE = "unix:///nonexistent/redis.sock"


@pytest.fixture
def prefix(tmp_path: Path) -> Iterator[str]:
    name = str(Installation(tmp_path).paths.get_ring_path(""))
    yield name
    unlink_instance(name)


def put(writer: FrameWriter, frames: int) -> None:
    for _ in range(frames):
        writer.slot()
        writer.publish(time.time_ns(), time.monotonic_ns())


def test_once_names_every_ring_and_what_inference_missed(
    prefix: str, redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lobby, yard = (FrameWriter(Path(prefix + name), SPEC) for name in ("lobby", "yard"))
    put(lobby, 7)
    metrics = Metrics()
    metrics.count("drops_lapped", 3, "lobby")
    metrics.count("drops_stale", 2, "lobby")
    metrics.count("frames_analysed", 9, "lobby")
    snapshot = metrics.snapshot("inference", 0.0)
    redis_server.client().set(metrics_key("inference"), msgspec.json.encode(snapshot))
    assert main(["--once"], make_installation(tmp_path, redis_server.url)) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["CAMERA", "EPOCH", "HEAD", "FPS", "AGE"]
    cells = first.split()
    assert cells[:4] == ["lobby", str(lobby.epoch), "7", "0.0"]
    assert cells[6:] == ["160x90", "yuv420p", "4", "5"]
    assert 1.0 <= float(cells[4]) < 30
    assert re.fullmatch(rf"yard +{yard.epoch} +0 +0.0 +- +160x90 +yuv420p +4 +0 +no picture", second)
    for writer in (lobby, yard):
        writer.close(unlink=True)


def test_no_ring_is_status_1_and_redis_may_be_away(
    prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installation = make_installation(tmp_path, NOWHERE)
    assert main(["--once"], installation) == 1
    assert "no ring" in capsys.readouterr().err
    writer = FrameWriter(Path(prefix + "lobby"), SPEC)
    put(writer, 1)
    assert main(["--once"], installation) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("4      -")
    writer.close(unlink=True)


def test_a_bad_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--interval 0"):
        main(["--interval", "0"], make_installation(tmp_path, NOWHERE))


def test_rates_epochs_and_dead_writers() -> None:
    second = 1_000_000_000
    before = RingReading("a", 5, 100, 50 * second, 50 * second, 50 * second, SPEC)
    now = before._replace(head=120, at_ns=52 * second, newest_ns=52 * second - second // 4, heartbeat_ns=52 * second)
    assert format_row(now, before, {})[2:5] == ("120", "10.0", "0.25 s")
    assert format_row(now, before, {})[-1] == ""
    assert format_row(now._replace(epoch=6), before, {})[3] == "-", "a new ring counts from the beginning"
    assert format_row(now._replace(at_ns=55 * second, heartbeat_ns=55 * second), before, {})[-1] == "no picture"
    assert format_row(now._replace(at_ns=60 * second), before, {})[-1] == "no writer"


def test_what_is_no_ring_is_left_out(prefix: str) -> None:
    open_folder(Path(prefix).parent)
    Path(prefix + "junk").write_bytes(b"x" * 5000)
    Path(prefix + "junk").chmod(0o600)
    assert read_rings(prefix, 0) == []
