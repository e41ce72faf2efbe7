"""Alerts over real HTTP: seen by who may see the camera, answered by who may judge."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from crowdperf.events.bus import Publisher
from crowdperf.events.schema import AlertChanged, Event, ZoneChanged
from crowdperf.events.streams import EVENTS
from crowdperf.rule_slices import notify_slice
from crowdperf.runtime import Runtime
from crowdperf.web.entries import decoded_event
from crowdperf.workers.notify.process import main
from tests.conftest import RedisServer, wait_until
from tests.integration.test_web_accounts import People
from tests.support.webserver import CONFIG, Served, serving

RULE = {"id": "crowd", "name": "Too many", "event": "ZoneChanged", "dedupe_s": 0}


@pytest.fixture
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = {**CONFIG, "alerts": {"rules": [RULE], "max_age_s": 86_400}}
    with serving(redis_server.url, tmp_path_factory.mktemp("web"), base) as served:
        yield served


@contextlib.contextmanager
def notifying(server: Served) -> Iterator[None]:
    runtime = Runtime("worker-notify-0", 0)
    slice_ = notify_slice(server.config, server.paths, 0)
    thread = threading.Thread(target=main, args=(slice_, runtime), daemon=True)
    thread.start()
    yield
    runtime.stop()
    thread.join(20)


def stage(n: int, occupancy: int) -> ZoneChanged:
    return ZoneChanged(
        id=f"plaza:1:{n}:stage:zone_in:0", camera="plaza", ts=time.time(), zone="stage", change="in",
        klass="person", track=n, occupancy=occupancy, epoch=1, sequence=n,
    )  # fmt: skip


def test_an_alert_is_acknowledged_by_who_may_and_still_closes(server: Served, redis_server: RedisServer) -> None:
    people = People(server, redis_server)
    operator, viewer = people.browser("otto", "operator"), people.browser("vera", "viewer")
    elsewhere = people.browser("lena", "operator", ["lobby"])
    publisher: Publisher[Event] = Publisher(redis_server.client(), EVENTS)
    with notifying(server):
        publisher.publish(stage(1, 5))
        wait_until(lambda: operator.get("/api/v1/alerts?state=open").json()["alerts"], what="the alert")
        (view,) = viewer.get("/api/v1/alerts").json()["alerts"]
        assert view["alert"]["detail"] == "Plaza north: 5 in Stage, more than 4"
        assert elsewhere.get("/api/v1/alerts").json()["alerts"] == []
        address = f"/api/v1/alerts/{view['alert']['id']}"
        assert viewer.post(f"{address}/acknowledge").status_code == 403
        assert elsewhere.post(f"{address}/acknowledge").status_code == 404
        done = operator.post(f"{address}/acknowledge").json()
        assert (done["state"], done["acknowledged_by"]) == ("acknowledged", "otto")
        again = operator.post(f"{address}/acknowledge")
        assert (again.status_code, "acknowledged already" in again.json()["detail"]) == (409, True)
        publisher.publish(stage(2, 1))
        wait_until(lambda: operator.get("/api/v1/alerts?state=closed").json()["alerts"], what="the end")
        assert operator.post(f"{address}/close").status_code == 409
    events = [decoded_event(fields) for _, fields in redis_server.client().xrange("crowdperf:events")]
    changed = [(event.state, event.by) for event in events if isinstance(event, AlertChanged)]
    assert changed == [("acknowledged", "otto"), ("closed", "")]
    assert operator.get("/api/v1/alerts?state=asleep").status_code == 400
