"""A disk that fills up under Redis: every process waits, says so, and goes on when there is room again."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from crowdperf.messaging.redis.client import OUTAGE, RedisNotWritable, connect_async
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.cli.test_bad_input import site_with, wait_for_analysis, wait_for_log
from tests.integration.supervision.test_supervision import camera, clip
from tests.support.site import Site

WRITERS = ("inference", "worker-notify-0")
"""Who has something to write all the time."""


def fill(pid: int) -> None:
    """From now on no file of this process may grow: what a full disk is to a server that appends to one."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def free(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    good = dict(camera("good", clip(tmp_path)))
    with site_with(tmp_path, [good]) as running:
        running.wait_ready(90)
        wait_for_analysis(running)
        yield running


def test_no_process_ends_and_no_frame_is_lost(site: Site) -> None:
    before = site.wait_for_pids()
    fill(before["redis"])
    for program in WRITERS:
        wait_for_log(site, program, "Redis unavailable", "File too large")
    wait_until(lambda: site.get_status("/readyz") == 503, 30, "/readyz sees it")
    assert site.get_status("/healthz") == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        site.get("/readyz")
    (reason,) = json.load(refused.value)["reasons"]
    assert "takes no writes" in reason
    assert "File too large" in reason
    assert "Remedy" in reason
    free(before["redis"])
    wait_for_analysis(site)
    site.wait_ready(60)
    assert site.get_pids() == before, "something was restarted"
    assert "Traceback" not in site.collect_logs()
    assert site.read_events("CameraGap") == [], "what was analysed meanwhile waited in memory"


def test_the_kinds_of_refusal(redis_server: RedisServer) -> None:
    """One that passes is an outage; a wrong command is a defect, in a transaction or not."""
    client = redis_server.client()
    assert redis_server.process is not None
    client.set("there", b"x")
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(RedisNotWritable):
            client.set("key", b"value")
        with pytest.raises(OUTAGE), client.pipeline(transaction=True) as pipe:
            pipe.set("key", b"value").incr("n").execute()
        with pytest.raises(RedisNotWritable):
            asyncio.run(_set(redis_server.url))
        assert client.get("there") == b"x"
    finally:
        client.config_set("min-replicas-to-write", 0)
    with pytest.raises(redis.ResponseError) as wrong, client.pipeline(transaction=True) as pipe:
        pipe.set("key", b"value").lpush("key", b"x").execute()
    assert not isinstance(wrong.value, OUTAGE)


async def _set(url: str) -> None:
    async with connect_async(url) as client:
        await client.set("key", b"value")


def test_a_change_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"cameras": [{"id": "yard", "url": "rtsp://192.0.2.1/"}]}))
    before = config.read_bytes()
    order = {"do": "edit", "edits": [{"mode": "merge", "path": ["cameras", "yard"], "value": {"name": "Yard"}}]}

    def ask(room: int) -> dict[str, Any]:
        """What the web process asks for, in a process whose files may grow to that size."""
        done = subprocess.run(
            [sys.executable, "-m", "crowdperf", "config", "ask"],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY)),
            input=json.dumps(order).encode(),
            capture_output=True,
            env={**os.environ, "CROWDPERF_CONFIG": str(config), "CROWDPERF_DATA": str(tmp_path / "var")},
            cwd=ROOT,
            check=True,
        )
        return dict(json.loads(done.stdout))

    refused = ask(1)
    assert refused["status"] == 507
    assert "Remedy: make room" in refused["detail"]
    assert config.read_bytes() == before
    assert list(tmp_path.rglob("*.tmp")) == [], "nothing half-written stays"
    assert ask(1 << 20).get("status", 200) == 200
    assert json.loads(config.read_bytes())["cameras"][0]["name"] == "Yard"
