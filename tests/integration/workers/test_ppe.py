"""The PPE worker with a real Redis: two instances say what one says, people judge over real HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import msgspec

from crowdperf.messaging.codec import decode
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import EvidenceRequest, PpeObserved, PpeViolation
from crowdperf.messaging.streams import EVIDENCE_REQUESTS, OBSERVATIONS
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Config, Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.worker_config import build_ppe_config
from crowdperf.storage import violations as stored
from crowdperf.storage.evidence import get_picture_path
from crowdperf.storage.violations import Violation, ViolationUpdate
from crowdperf.web.live.counts import decode_event
from crowdperf.workers.ppe import main
from tests.conftest import RedisServer, wait_until
from tests.integration.web.test_accounts import People
from tests.support.webserver import CONFIG, serving

YARDS = ("yard", "dock", "hall", "gate")


def config(redis_url: str, instances: int) -> Config:
    rule = {"id": "hats", "required": ["hardhat"], "min_dwell_s": 0}
    cameras = [{"id": name, "url": "rtsp://192.0.2.1/", "ppe": [rule]} for name in YARDS]
    base = {"redis": {"url": redis_url}, "workers": {"ppe": instances}, "cameras": cameras}
    return parse(msgspec.json.encode(base))


@contextlib.contextmanager
def running(server: RedisServer, folder: Path, instances: int = 1):
    runtimes = [ProcessRuntime(f"worker-ppe-{n}", 0) for n in range(instances)]
    threads = [
        threading.Thread(
            target=main, args=(build_ppe_config(Deployment(config(server.url, instances), Paths(folder)), n), runtime)
        )
        for n, runtime in enumerate(runtimes)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for runtime in runtimes:
            runtime.stop()
        for thread in threads:
            thread.join(60)


def observed(camera: str, n: int, begin: float, **scores: float) -> PpeObserved:
    return PpeObserved(
        id=f"{camera}:1:{n}:ppe:7", camera=camera, ts=begin + n, track=7, epoch=1, sequence=n, detection=2,
        height_px=200.0, **scores,
    )  # fmt: skip


def events(server: RedisServer) -> list[PpeViolation]:
    found = [decode_event(fields) for _, fields in server.client().xrange("crowdperf:events")]
    return [event for event in found if isinstance(event, PpeViolation)]


def test_two_instances_give_the_same_violations_as_one(redis_server: RedisServer, tmp_path: Path) -> None:
    begin = time.time() - 20
    rows = [observed(name, n, begin, no_hardhat=0.8) for n in range(6) for name in YARDS]
    rows += [observed(name, n, begin, hardhat=0.8) for n in range(6, 20) for name in YARDS]
    outcomes = []
    for instances in (1, 2):
        redis_server.client().flushall()
        publisher: Publisher[PpeObserved] = Publisher(redis_server.client(), OBSERVATIONS)
        for row in rows:
            publisher.publish(row)
        with running(redis_server, tmp_path, instances):
            wait_until(lambda: len(events(redis_server)) == 8, what="four violations, opened and closed")
        outcomes.append(sorted((event.id, event.state, event.cause, event.votes) for event in events(redis_server)))
        asked = redis_server.client().xrange("crowdperf:evidence:requests")
        requests = [decode(EVIDENCE_REQUESTS, row) for _, row in asked]
        assert {(row.camera, row.detection) for row in requests} == {(name, 2) for name in YARDS}
    assert outcomes[0] == outcomes[1]


def test_page_of_violations_is_full_and_splits_no_moment(redis_server: RedisServer, tmp_path: Path) -> None:
    pipe = redis_server.client().pipeline()
    for number in range(450):
        # Three at a time, as people of one frame are seen; every third one is on another camera.
        row = Violation(
            id=f"v{number}", rule="hats", camera="lobby" if number % 3 == 0 else "plaza", zone="", track=number,
            items=["hardhat"], first_seen=1_700_000_000 + number // 3 / 1000 + 0.0004, last_seen=0, frames=1, votes="",
            ongoing=False, cause="gone",
        )  # fmt: skip
        stored.stage(pipe, ViolationUpdate(row, True))
    pipe.execute()
    with serving(redis_server.url, tmp_path, CONFIG) as server:
        people = People(server, redis_server)
        for who, expected in (
            (people.browser("vera", "viewer"), 450),
            (people.browser("lena", "viewer", ["lobby"]), 150),
        ):
            for limit in (50, 100, 500):
                found, sizes, query = [], [], {"limit": limit, "review": "open"}
                while query:
                    page = who.get("/api/v1/violations", params=query).json()
                    found += [view["violation"]["id"] for view in page["violations"]]
                    sizes.append(len(page["violations"]))
                    query = {**query, "before": page["next"]} if page["next"] else {}
                assert len(found) == len(set(found)) == expected
                assert min(sizes[:-1], default=limit) >= limit


def test_a_violation_is_judged_and_the_rules_precision_follows(redis_server: RedisServer, tmp_path: Path) -> None:
    begin = time.time() - 30
    cameras = [{"id": name, "url": "rtsp://192.0.2.1/"} for name in YARDS]
    publisher: Publisher[PpeObserved] = Publisher(redis_server.client(), OBSERVATIONS)
    # All of it before the worker looks: between two of these sights of half a minute ago the person would be gone.
    for name in ("yard", "dock", "hall"):
        for n in range(6):
            publisher.publish(observed(name, n, begin, no_hardhat=0.8))
    with serving(redis_server.url, tmp_path, {**CONFIG, "cameras": cameras}) as server, running(redis_server, tmp_path):
        people = People(server, redis_server)
        operator, viewer = people.browser("otto", "operator"), people.browser("vera", "viewer")
        wait_until(lambda: len(events(redis_server)) == 6, what="the people to be gone")
        rows = operator.get("/api/v1/violations?review=open").json()["violations"]
        assert sorted(row["violation"]["camera"] for row in rows) == ["dock", "hall", "yard"]
        assert {row["violation"]["cause"] for row in rows} == {"gone"}
        address = "/api/v1/violations/{}/review"
        first, second, third = (row["violation"]["id"] for row in rows)
        assert viewer.post(address.format(first), json={"review": "dismissed"}).status_code == 403
        judged = operator.post(address.format(first), json={"review": "dismissed", "note": "a hood"}).json()
        assert (judged["review"], judged["by"], judged["note"]) == ("dismissed", "otto", "a hood")
        assert operator.post(address.format(first), json={"review": "dismissed"}).status_code == 409
        for name in (first, second, third):
            assert operator.post(address.format(name), json={"review": "acknowledged"}).status_code == 200
        assert operator.post(address.format(third), json={"review": "dismissed"}).status_code == 200
        figures = operator.get("/api/v1/ppe/figures").json()
        judgements = sorted((row["acknowledged"], row["dismissed"], row["precision"]) for row in figures["rules"])
        assert judgements == [(0, 1, 0.0), (1, 0, 1.0), (1, 0, 1.0)]
        assert sum(row["missing"] for row in figures["compliance"]) == 3
        request = decode(EVIDENCE_REQUESTS, redis_server.client().xrange("crowdperf:evidence:requests")[0][1])
        assert isinstance(request, EvidenceRequest)
        assert get_picture_path(tmp_path, request.camera, request.id, request.ts, "crop").name.endswith("-crop.jpg")
