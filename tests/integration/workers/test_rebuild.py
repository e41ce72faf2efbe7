"""A worker that finds a state of another version goes on with what Redis has stored besides it."""

from __future__ import annotations

import time

import msgspec
import pytest

from crowdperf.messaging import codec
from crowdperf.messaging.schema import Alert
from crowdperf.messaging.streams import EVENTS, stream_key
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.visitors import Visitors
from crowdperf.settings.worker_config import VisitorsConfig
from crowdperf.storage import alerts, occupancy
from crowdperf.storage.occupancy import AreaSnapshot
from crowdperf.visitors import visit as lifecycle
from crowdperf.visitors import visit_store
from crowdperf.visitors.visit import Person, Visit
from crowdperf.workers import areas, visitors
from crowdperf.workers.worker_logic import WorkerCheckpoint, state_key
from tests.conftest import RedisServer
from tests.support.alerting import ALERT

DAY_S = 86_400.0


def test_a_visit_leaves_the_evacuation_list(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    client, keys, began = redis_server.client(), visit_store.VisitKeys(), time.time() - 2 * DAY_S
    visit = Visit(
        id="v1",
        person="p1",
        state="checked_in",
        version=1,
        code="c",
        host="Ada",
        expected_from=began,
        expected_until=began + 3600,
        checked_in_at=began,
    )
    with client.pipeline() as pipe:
        event = lifecycle.build_event(None, visit, began, "test")
        visit_store.stage_new(pipe, visit, Person(id="p1", name="Ines"), event, [])
        pipe.execute()
    config = VisitorsConfig(
        visitors=Visitors(),
        areas=(),
        timezone="UTC",
        instance=0,
        instances=1,
        redis_url=redis_server.url,
        key_prefix="",
    )
    newest = client.xinfo_stream(stream_key(EVENTS))["last-generated-id"]
    client.hset("crowdperf:positions:visitors", "0", newest)
    client.sadd("crowdperf:cameras:visitors", "")
    state = msgspec.msgpack.encode({"version": 99})
    client.set(state_key("visitors", ""), msgspec.msgpack.encode(WorkerCheckpoint(newest, b"", state)))
    runtime, deadline = ProcessRuntime("worker-visitors-0", 0), time.monotonic() + 20.0

    def tick() -> None:
        if not client.scard(keys.live) or time.monotonic() > deadline:
            runtime.stop()

    monkeypatch.setattr(runtime, "tick", tick)
    assert client.smembers(keys.live) == {b"v1"}
    visitors.main(config, runtime)
    assert client.hget(keys.visit("v1"), "state") == b"checked_out"


def test_open_documents_are_found(redis_server: RedisServer) -> None:
    client = redis_server.client()
    snapshot = AreaSnapshot(
        area="hall",
        occupancy=7,
        uncertainty=1.0,
        entries=9,
        exits=2,
        since=1.0,
        next_reset=None,
        at=2.0,
        limit=5,
        over_limit=True,
    )
    opened = Alert(
        id="a1",
        camera="c",
        ts=2.0,
        rule="occupancy",
        state="opened",
        alert="a1",
        area="hall",
        value=7.0,
        limit=5.0,
        opened_at=2.0,
    )
    with client.pipeline() as pipe:
        for n in range(450):
            alert = msgspec.structs.replace(ALERT, id=f"crowd:{n}", raised_at=ALERT.raised_at + n)
            alerts.stage(pipe, alerts.AlertUpdate(alert, "closed" if n % 2 else "open", 1.0))
        occupancy.stage_area(pipe, snapshot)
        pipe.xadd(stream_key(EVENTS), codec.encode(EVENTS, opened))
        pipe.execute()
    views = list(alerts.DOCUMENTS.iter_views(client))
    assert [view.alert.id for view in views] == [f"crowd:{n}" for n in reversed(range(450))]
    assert [view.state for view in views[:2]] == ["closed", "open"]
    assert areas.load_documents(client) == [snapshot, opened]
