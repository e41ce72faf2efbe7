"""How the rates of streams are measured between two looks at Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import build_web_config
from crowdperf.web import rates
from crowdperf.web.rates import StreamRate, StreamRateMonitor

CONFIG = build_web_config(
    Deployment(parse(b'{"cameras": [{"id": "plaza", "url": "rtsp://192.0.2.1/"}]}'), Paths(Path("var")))
)
TRACKS = "crowdperf:tracks:plaza"


class FakeRedis:
    """Answers XINFO STREAM in a pipeline: a number of added entries, or an error."""

    def __init__(self) -> None:
        self.added: dict[str, Any] = {}
        self.looks = 0
        self._keys: list[str] = []

    def pipeline(self, transaction: bool) -> FakeRedis:
        self.looks += 1
        self._keys = []
        return self

    def xinfo_stream(self, key: str) -> None:
        self._keys.append(key)

    async def execute(self, raise_on_error: bool) -> list[Any]:
        keys = self._keys
        await asyncio.sleep(0)
        return [self.added.get(key, redis.ResponseError("no such key")) for key in keys]


def measure(monkeypatch: pytest.MonkeyPatch, *looks: tuple[float, Any]) -> tuple[StreamRate, int]:
    """Look at the given times; the stream of tracks then gives the reply."""
    fake, monitor, rows = FakeRedis(), StreamRateMonitor(), []
    for at, reply in looks:
        monkeypatch.setattr(rates.time, "monotonic", lambda at=at: at)
        fake.added[TRACKS] = reply
        rows = asyncio.run(monitor.measure(fake, CONFIG))
    return next(row for row in rows if row.stream == "tracks"), fake.looks


@pytest.mark.parametrize(
    ("second", "measured", "state"),
    [
        ({"entries-added": 180}, 8.0, "ok"),
        ({"entries-added": 100}, 0.0, "low"),
        ({"entries-added": 900}, 80.0, "high"),
        # Created again with fewer entries, and gone.
        ({"entries-added": 5}, None, "unknown"),
        (redis.ResponseError("no such key"), None, "unknown"),
        # Redis before version 7, and a user without the permission.
        ({"length": 180}, None, "unknown"),
        (redis.ResponseError("NOPERM"), None, "unknown"),
    ],
)
def test_rate_between_two_looks(
    monkeypatch: pytest.MonkeyPatch, second: Any, measured: float | None, state: str
) -> None:
    row, _ = measure(monkeypatch, (1000.0, {"entries-added": 100}), (1010.0, second))
    assert (row.measured, row.state, row.minimum, row.maximum) == (measured, state, 2.5, 12.0)


def test_stream_that_never_was_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = redis.ResponseError("no such key")
    row, _ = measure(monkeypatch, (1000.0, gone), (1010.0, gone))
    assert (row.measured, row.state) == (0.0, "low")


def test_requests_at_the_same_time_are_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, monitor = FakeRedis(), StreamRateMonitor()

    async def measure_twice() -> list[list[StreamRate]]:
        return await asyncio.gather(monitor.measure(fake, CONFIG), monitor.measure(fake, CONFIG))

    for at, number in ((1000.0, 100), (1010.0, 180)):
        monkeypatch.setattr(rates.time, "monotonic", lambda at=at: at)
        fake.added[TRACKS] = {"entries-added": number}
        both = asyncio.run(measure_twice())
    assert [{row.measured for row in rows if row.stream == "tracks"} for rows in both] == [{8.0}, {8.0}]


def test_looks_close_together_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    row, looks = measure(monkeypatch, (1000.0, {"entries-added": 100}), (1001.0, {"entries-added": 900}))
    assert (row.measured, row.state, looks) == (None, "unknown", 1)
