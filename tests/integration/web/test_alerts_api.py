"""Alerts over real HTTP: seen by who may see the camera, answered by who may judge."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdperf.messaging.process_metrics import publish_snapshot
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AlertChanged, Event, ZoneChanged
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Deployment
from crowdperf.settings.worker_config import build_notify_config
from crowdperf.storage import alerts as stored
from crowdperf.storage.alerts import AlertDoc, AlertUpdate
from crowdperf.web.live.counts import decode_event
from crowdperf.workers.notify.process import main
from tests.conftest import RedisServer, wait_until
from tests.integration.web.test_accounts import People
from tests.support.receivers import hook
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, serving

RULE = {"id": "crowd", "name": "Too many", "event": "ZoneChanged", "dedupe_s": 0}
CROSSED = {"id": "crossed", "event": "LineCrossed", "severity": "info", "channels": ["hook"], "max_per_hour": 3600}
HOOK = {"type": "webhook", "id": "hook", "url_env": "HOOK_ADDRESS", "attempts": 1}


@pytest.fixture
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = {**CONFIG, "alerts": {"rules": [RULE], "max_age_s": 86_400}}
    with serving(redis_server.url, tmp_path_factory.mktemp("web"), base) as served:
        yield served


@contextlib.contextmanager
def notifying(server: Served) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime("worker-notify-0", 0)
    config = build_notify_config(Deployment(server.config, server.paths), 0)
    thread = threading.Thread(target=main, args=(config, runtime), daemon=True)
    thread.start()
    yield runtime
    runtime.stop()
    thread.join(60)


def stage(n: int, occupancy: int) -> ZoneChanged:
    return ZoneChanged(
        id=f"plaza:1:{n}:stage:zone_in:0", camera="plaza", ts=time.time(), zone="stage", change="in",
        class_name="person", track=n, occupancy=occupancy, epoch=1, sequence=n,
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
        entry, *_ = people.browser("root", "admin").get("/api/v1/audit?who=otto").json()["entries"]
        assert (entry["action"], entry["target"]) == ("alert.acknowledged", view["alert"]["id"])
        again = operator.post(f"{address}/acknowledge")
        assert (again.status_code, "acknowledged already" in again.json()["detail"]) == (409, True)
        publisher.publish(stage(2, 1))
        wait_until(lambda: operator.get("/api/v1/alerts?state=closed").json()["alerts"], what="the end")
        assert operator.post(f"{address}/close").status_code == 409
    events = [decode_event(fields) for _, fields in redis_server.client().xrange("crowdperf:events")]
    changed = [(event.state, event.by) for event in events if isinstance(event, AlertChanged)]
    assert changed == [("acknowledged", "otto"), ("closed", "")]
    assert operator.get("/api/v1/alerts?state=asleep").status_code == 400


def test_a_page_of_alerts_never_ends_among_those_of_one_moment(server: Served, redis_server: RedisServer) -> None:
    viewer = People(server, redis_server).browser("vera", "viewer")
    pipe = redis_server.client().pipeline()
    for number in range(450):
        # Three at a time, as rules about the same event raise them; every third one is critical and escalated.
        third = number % 3 == 0
        alert = AlertDoc(
            id=f"a{number}", rule=f"rule-{number % 3}", severity="critical" if third else "info", camera="plaza",
            subject="", title="t", detail="d", event="e", raised_at=1_700_000_000 + number // 3 / 1000 + 0.0004,
            last_at=0, count=1, escalated=int(third),
        )  # fmt: skip
        stored.stage(pipe, AlertUpdate(alert, "acknowledged" if third else "open"))
    pipe.execute()

    def listed(**query: str | int) -> list[str]:
        found: list[str] = []
        page = viewer.get("/api/v1/alerts", params=query).json()
        while True:
            found += [view["alert"]["id"] for view in page["alerts"]]
            if page["next"] is None:
                return found
            page = viewer.get("/api/v1/alerts", params={**query, "before": page["next"]}).json()

    everything = {f"a{number}" for number in range(450)}
    for limit in (50, 100, 500):
        found = listed(limit=limit)
        assert set(found) == everything
        assert len(found) == 450, "and none comes twice"
    thirds = {f"a{number}" for number in range(0, 450, 3)}
    for query in (
        {"severity": "critical"},
        {"rule": "rule-0"},
        {"escalated": "true"},
        {"state": "acknowledged,closed"},
    ):
        assert set(listed(limit=40, **query)) == thirds, query
    assert listed(camera="lobby") == []


def test_the_channels_say_how_they_deliver(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hook() as receiver:
        monkeypatch.setenv("HOOK_ADDRESS", receiver.url)
        receiver.answers = [(200, {}), (404, {}), (200, {})]
        alerts = {"rules": [CROSSED], "channels": [HOOK], "allow_private": ["127.0.0.0/8"], "max_age_s": 86_400}
        with serving(redis_server.url, tmp_path, {**CONFIG, "alerts": alerts}) as server, notifying(server) as runtime:
            people = People(server, redis_server)
            operator = people.browser("otto", "operator")

            def channel() -> dict[str, Any]:
                # As the worker's own thread does every two seconds.
                publish_snapshot(redis_server.client(), runtime)
                (row,) = operator.get("/api/v1/alert-channels").json()["channels"]
                return dict(row)

            before = channel()
            assert (before["type"], before["sent"], before["last_sent"], before["waiting"]) == ("webhook", 0, None, 0)
            assert (before["attempts"], before["next_attempt"], before["problem"]) == (1, None, "")
            site = SyntheticSite(server.config, server.paths, redis_server.url)
            try:
                site.publish_crossing("plaza", "gate", "in")
                wait_until(lambda: channel()["sent"] == 1, what="the first delivery")
                assert channel()["last_sent"] is not None
                site.publish_crossing("lobby", "door", "in")
                wait_until(lambda: channel()["dead_letters"] == 1, what="the dead letter")
                failed = channel()
                assert (failed["failed"], failed["waiting"], "404" in failed["problem"]) == (1, 0, True)
                assert receiver.url not in operator.get("/api/v1/alert-channels").text, "its address is a secret"
            finally:
                site.close()
            assert people.browser("vera", "viewer").get("/api/v1/alert-channels").status_code == 403
            answer = operator.get("/api/v1/alert-rules").json()
            assert answer["channels"] == ["hook"]
            kinds = {row["event"]: row for row in answer["kinds"]}
            assert kinds["LineCrossed"]["filters"] == ["lines", "classes"]
            assert "stalled" in kinds["CameraChanged"]["states"]
            assert answer["blank"]["dedupe_s"] == 300
