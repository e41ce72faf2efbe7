"""Neither names nor rules go by a clock that has jumped ahead."""

from __future__ import annotations

import time

import msgspec
import pytest

from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.visitors import Visitors
from crowdperf.settings.worker_config import VisitorsConfig
from crowdperf.storage import steady_clock
from crowdperf.storage.steady_clock import clock_key
from crowdperf.visitors import visit as lifecycle
from crowdperf.visitors import visit_store
from crowdperf.visitors.visit import Person, Visit
from crowdperf.workers import visitors
from crowdperf.workers.worker_logic import WorkerCheckpoint
from tests.conftest import RedisServer

DAY_S = 86_400.0


@pytest.mark.parametrize("accepted_days_ago", [0.0, 3650.0])
def test_a_name_goes_by_the_accepted_clock(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, accepted_days_ago: float
) -> None:
    client, keys, now = redis_server.client(), visit_store.VisitKeys(), time.time()
    client.hset(clock_key(), "clock", now - accepted_days_ago * DAY_S)
    monkeypatch.setattr(steady_clock, "is_synchronised", lambda: False)
    began = now - 1000 * DAY_S
    visit = Visit(
        id="v1",
        person="p1",
        state="checked_out",
        version=1,
        code="c",
        host="Ada",
        expected_from=began,
        expected_until=began + 3600,
    )
    with client.pipeline() as pipe:
        event = lifecycle.build_event(None, visit, began, "test")
        visit_store.stage_new(pipe, visit, Person(id="p1", name="Ines"), event, [])
        pipe.execute()
    url = redis_server.url
    config = VisitorsConfig(
        visitors=Visitors(), areas=(), timezone="UTC", instance=0, instances=1, redis_url=url, key_prefix=""
    )
    runtime, deadline = ProcessRuntime("worker-visitors-0", 0), time.monotonic() + 20.0

    def tick() -> None:
        if client.exists("crowdperf:state:visitors:") or time.monotonic() > deadline:
            runtime.stop()

    monkeypatch.setattr(runtime, "tick", tick)
    visitors.main(config, runtime)
    checkpoint = msgspec.msgpack.decode(client.get("crowdperf:state:visitors:"), type=WorkerCheckpoint)
    state = msgspec.msgpack.decode(checkpoint.state, type=visitors.SiteVisitState)
    assert state.expired_at == pytest.approx(now - accepted_days_ago * DAY_S, abs=60.0), "when it looked for names"
    assert bool(client.exists(keys.person("p1"))) is (accepted_days_ago > 0)
