"""Two installations on one Redis and prefix: the second one says so and writes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crowdperf.cli import check
from crowdperf.messaging import process_metrics, site_owner
from crowdperf.messaging.redis.client import connect, connect_async, guard_new_connections
from crowdperf.messaging.site_owner import (
    SiteClaim,
    SiteConflictError,
    SiteOwner,
    claim_site,
    find_site_owner,
    owner_key,
    read_owner,
    register_run,
)
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from tests.conftest import RedisServer, wait_until

NORTH, SOUTH = SiteOwner("0000aaaa", "north", "01"), SiteOwner("0000bbbb", "south", "02")


def claim(server: RedisServer, owner: SiteOwner, prefix: str = "") -> SiteClaim:
    return SiteClaim(server.client(), owner, prefix)


def test_second_installation_is_refused_and_writes_nothing(redis_server: RedisServer) -> None:
    client = redis_server.client()
    assert claim(redis_server, NORTH).renew() is None
    before = client.hgetall(owner_key())
    assert claim(redis_server, SOUTH).renew() == NORTH
    assert claim(redis_server, SiteOwner(NORTH.instance, "a copy")).renew() == NORTH
    assert client.hgetall(owner_key()) == before
    assert client.keys() == [owner_key().encode()]
    assert claim(redis_server, SOUTH, "south:").renew() is None
    assert "0000aaaa on north" in NORTH.describe_conflict("")
    assert "Remedy" in NORTH.describe_conflict("")


def test_same_installation_takes_over_at_once(redis_server: RedisServer) -> None:
    assert claim(redis_server, NORTH).renew() is None
    assert claim(redis_server, NORTH).renew() is None
    assert read_owner(redis_server.client()) == NORTH


def test_record_of_a_crashed_installation_expires(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_owner, "RECORD_S", 0.2)
    assert claim(redis_server, NORTH).renew() is None
    monkeypatch.setattr(site_owner, "RENEW_S", 0.05)
    runtime = ProcessRuntime("worker-recorder-0", 0)
    assert claim_site(runtime, redis_server.url, SOUTH) is not None
    assert read_owner(redis_server.client()) == SOUTH


def test_process_of_the_second_installation_waits_until_it_stops(redis_server: RedisServer) -> None:
    assert claim(redis_server, NORTH).renew() is None
    runtime = ProcessRuntime("worker-recorder-0", 0)
    runtime.stop()
    assert claim_site(runtime, redis_server.url, SOUTH) is None


def test_process_stops_when_its_record_is_lost(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_metrics, "INTERVAL_S", 0.05)
    runtime = ProcessRuntime("worker-recorder-0", 0)
    held = claim_site(runtime, redis_server.url, SOUTH)
    process_metrics.start_publishing(runtime, redis_server.url, claim=held)
    client = redis_server.client()
    with client.pipeline() as pipe:
        pipe.delete(owner_key())
        pipe.hset(owner_key(), mapping={"instance": NORTH.instance, "host": NORTH.host, "run": NORTH.run})
        pipe.execute()
    wait_until(lambda: runtime.stopping, what="the stop")
    assert read_owner(client) == NORTH


def test_id_of_an_installation_stays(tmp_path: Path) -> None:
    assert find_site_owner(tmp_path / "installation") == find_site_owner(tmp_path / "installation")
    assert find_site_owner(tmp_path / "other") != find_site_owner(tmp_path / "installation")


def test_each_run_is_another_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = register_run(tmp_path / "installation")
    monkeypatch.setattr(site_owner.socket, "gethostname", lambda: "renamed")
    assert find_site_owner(tmp_path / "installation") == first, "a process of a running site"
    second = register_run(tmp_path / "installation")
    assert (second.instance, second.host) == (first.instance, "renamed")
    assert second.run != first.run
    (tmp_path / "installation").write_text("0000cccc of an older release")
    assert find_site_owner(tmp_path / "installation").instance == "0000cccc"


def test_a_cloned_machine_is_another_site(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clone has the same id and host name. Only who renews the record lives."""
    monkeypatch.setattr(site_owner, "SILENT_S", 0.0)
    original, clone = claim(redis_server, NORTH), claim(redis_server, SiteOwner("0000aaaa", "north", "03"))
    for _ in range(3):
        assert original.renew() is None
        assert clone.renew() == NORTH
    assert clone.renew() is None, "nobody has renewed the record meanwhile"
    assert original.renew() == clone.owner
    original.release()
    assert read_owner(redis_server.client()) == clone.owner, "a record is released by its own run alone"
    clone.release()
    assert read_owner(redis_server.client()) is None


@pytest.fixture
def guarded() -> Iterator[Callable[[SiteClaim], None]]:
    yield lambda claim: claim.guard_connections()
    guard_new_connections(None, None)


def test_no_connection_begins_before_it_knows_the_owner(
    redis_server: RedisServer, guarded: Callable[[SiteClaim], None]
) -> None:
    """Redis was away when the process started, so nobody has asked for the record yet."""
    other = redis_server.client()
    assert claim(redis_server, NORTH).renew() is None
    guarded(claim(redis_server, SOUTH))
    client = connect(redis_server.url)
    with pytest.raises(SiteConflictError, match="Remedy"):
        client.set("written", 1)
    with pytest.raises(SiteConflictError, match="0000aaaa on north"), client.pipeline() as pipe:
        pipe.set("written", 1).execute()

    async def write() -> None:
        second = connect_async(redis_server.url)
        try:
            await second.set("written", 1)
        finally:
            await second.aclose()

    with pytest.raises(SiteConflictError, match="Remedy"):
        asyncio.run(write())
    assert other.keys() == [owner_key().encode()]
    other.delete(owner_key())
    client.set("written", 1)
    assert read_owner(other) == SOUTH, "it takes a free record before its first write"
    asyncio.run(write())


def test_a_full_server_is_no_other_owner(redis_server: RedisServer, guarded: Callable[[SiteClaim], None]) -> None:
    other = redis_server.client()
    guarded(claim(redis_server, SOUTH))
    other.config_set("maxmemory", 1)
    try:
        assert connect(redis_server.url).get("anything") is None
    finally:
        other.config_set("maxmemory", 0)


def test_check_names_the_other_installation(redis_server: RedisServer, tmp_path: Path) -> None:
    config = parse(json.dumps({"redis": {"url": redis_server.url}}).encode())
    deployment = Deployment(config, Paths(tmp_path / "missing"))
    assert check._check_redis(deployment).ok
    assert claim(redis_server, NORTH).renew() is None
    finding = check._check_redis(deployment)
    assert not finding.ok
    assert "0000aaaa on north" in finding.text
    never_started = Deployment(config, Paths(tmp_path))
    assert not check._check_redis(never_started).ok
    assert not list(tmp_path.iterdir())
