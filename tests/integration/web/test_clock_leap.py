"""What the web process shows after a clock that was ahead for a while."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import connect_async
from crowdperf.messaging.schema import CameraGap
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.settings.config import Config, Deployment
from crowdperf.settings.environment import Environment, Paths
from crowdperf.settings.process_config import build_web_config
from crowdperf.web.api.history import read_events_page
from crowdperf.web.live import feed
from crowdperf.web.live.channel import Broadcast
from crowdperf.web.parameters import Span
from tests.conftest import RedisServer

NOW = 1_800_000_000.0
LEAPS = [7200.0, 10 * 365 * 86_400.0]


def gap(n: int, ts: float) -> CameraGap:
    return CameraGap(id=f"g{n}", camera="lobby", ts=ts, start=ts - 1, end=ts, cause="x")


@pytest.mark.parametrize("leap", LEAPS)
def test_new_events_are_listed(redis_server: RedisServer, leap: float) -> None:
    client = redis_server.client()
    for n, (entry_id, ts) in enumerate(
        [(NOW - 60, NOW - 60), (NOW + leap, NOW + leap), (NOW + leap + 0.001, NOW), (NOW + leap + 0.002, NOW + 1)]
    ):
        client.xadd(stream_key(EVENTS), codec.encode(EVENTS, gap(n, ts)), id=f"{round(entry_id * 1000)}-0")

    async def read() -> list[str]:
        redis = connect_async(redis_server.url)
        app = SimpleNamespace(redis=redis, prefix="", now=lambda: NOW + 5, config=SimpleNamespace(areas=[]))
        context: Any = SimpleNamespace(app=app, principal=SimpleNamespace(can_see=lambda *cameras: True))
        page, _ = await read_events_page(context, Span(NOW - 3600, NOW + 5), set(), "", None, 10)
        await app.redis.aclose()
        return [row.id for row in page]

    assert asyncio.run(read()) == ["g3", "g2", "g0"]


@pytest.mark.parametrize("leap", [86_400.0, LEAPS[1]])
def test_today_is_loaded_again(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leap: float
) -> None:
    config = build_web_config(Deployment(Config(), Paths(tmp_path), Environment()))
    clock = SimpleNamespace(time=lambda: NOW + leap)
    monkeypatch.setattr(feed, "time", clock)
    monkeypatch.setattr(feed, "BLOCK_MS", 1)

    async def run() -> Span:
        client = connect_async(redis_server.url)
        reader = feed.Feed(config, client, Broadcast(), set)
        await reader._prepare_session()
        clock.time = lambda: NOW
        await reader._read_once()
        await client.aclose()
        return reader._today.day

    day = asyncio.run(run())
    assert day.start <= NOW < day.end
