"""A Redis whose user has an ACL: the documented one is enough, and what is missing is one line and never a loss."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from crowdperf.cli import check, dead_letters
from crowdperf.messaging.outbox import Outbox
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.redis import acl
from crowdperf.messaging.redis.client import OUTAGE, RedisPermissionError, connect
from crowdperf.messaging.schema import LineCrossed
from crowdperf.messaging.streams import EVENTS
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Installation
from crowdperf.settings.process_config import WorkerConfig
from crowdperf.settings.site import Retention
from crowdperf.workers.housekeeping import Housekeeper
from crowdperf.workers.leases import Leases
from crowdperf.workers.recorder import main as recorder_main
from crowdperf.workers.sharded_consumer import ShardedConsumer
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.cli.test_bad_input import site_with, wait_for_analysis, wait_for_log
from tests.integration.messaging.test_background_sender import detections
from tests.integration.supervision.test_supervision import camera, clip
from tests.support.counting_logic import WORKER, Clock, Tally
from tests.support.installation import make_installation
from tests.support.webserver import TIMEOUT_S, serving

NOW = 1_800_000_000.0
USER = "crowdperf"
COMMANDS = [acl._parse_command(trial) for trial in acl.TRIALS]


class Limited:
    """A server's user `crowdperf`, whose rules the test changes."""

    def __init__(self, server: RedisServer) -> None:
        self.admin: Any = server.client()
        self.url = f"unix://{USER}:pw@{server.socket}"
        self.client: Any = connect(self.url)

    def may(self, rules: str) -> None:
        self.admin.execute_command("ACL", "SETUSER", USER, "reset", "on", ">pw", *rules.split())

    def refused(self) -> int:
        """How often Redis has refused anybody something in this test."""
        return sum(row["count"] for row in self.admin.acl_log())


@pytest.fixture
def user(redis_server: RedisServer) -> Iterator[Limited]:
    made = Limited(redis_server)
    made.admin.execute_command("ACL", "LOG", "RESET")
    yield made
    made.admin.execute_command("ACL", "DELUSER", USER)


def crossing(n: int, ts: float = NOW) -> LineCrossed:
    return LineCrossed(
        id=f"lobby:5:{n}:door:in:0", camera="lobby", ts=ts + n, line="door", direction="in", class_name="person",
        track=n, epoch=5, sequence=n,
    )  # fmt: skip


def make_config(user: Limited, role: str, prefix: str = "") -> WorkerConfig:
    return WorkerConfig(role=role, instance=0, retention=Retention(), redis_url=user.url, key_prefix=prefix)


class Recording:
    """The recorder's process as a thread."""

    def __init__(self, user: Limited, prefix: str = "") -> None:
        self.runtime = ProcessRuntime("worker-recorder-0", 0)
        self.thread = threading.Thread(target=recorder_main, args=(make_config(user, "recorder", prefix), self.runtime))

    def __enter__(self) -> Recording:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.stop()
        self.thread.join(TIMEOUT_S)


def documented() -> dict[str, str]:
    """Key prefix -> the rules that docs/redis.md gives for it."""
    lines = re.findall(r"^ACL SETUSER \w+ on >PASSWORD (.+)$", (ROOT / "docs" / "redis.md").read_text(), re.MULTILINE)
    return {line.removeprefix("~").partition("person_logs")[0]: line for line in lines}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert not [row for row in caplog.records if row.exc_info], "a traceback"
    return [row.getMessage() for row in caplog.records if row.levelno >= logging.WARNING]


def test_the_documented_rules_are_those_that_are_checked() -> None:
    assert documented() == {prefix: acl.build_acl_rules(prefix) for prefix in ("", "north:")}
    page = (ROOT / "docs" / "redis.md").read_text()
    for command in (*COMMANDS, *acl.TRANSACTION_COMMANDS):
        assert f"`{command}`" in page, command


@pytest.mark.parametrize("prefix", ["", "north:"])
def test_the_documented_user_can_do_all_of_a_small_site(
    user: Limited, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user.may(documented()[prefix])
    publisher: Publisher[LineCrossed] = Publisher(user.client, EVENTS, prefix)
    with Recording(user, prefix) as recording:
        for n in range(20):
            publisher.publish(crossing(n))
        publisher.publish(crossing(99, NOW - 400 * 86_400))
        wait_until(lambda: recording.runtime.metrics.get_counter("crossings_recorded") == 21, what="all are recorded")
    runtime = ProcessRuntime("worker-housekeeping-0", 0)
    Housekeeper(user.client, make_config(user, "housekeeping", prefix), runtime).sweep(NOW + 60, 0.0)
    assert user.admin.zcard(f"{prefix}person_logs") == 20, "the old one is expired"
    assert runtime.metrics.snapshot("x", 0).gauges["redis_used_bytes"][""] > 0
    outbox = Outbox(user.client, prefix)
    outbox.put(detections(9, 1))
    assert outbox.flush(0.0) == 1
    if not prefix:
        with serving(user.url, tmp_path) as served, httpx.Client(base_url=served.url, timeout=TIMEOUT_S) as client:
            day = {"from": "2027-01-15T00:00:00Z", "to": "2027-01-16T00:00:00Z"}
            assert client.get("/api/v1/counts", params=day).json()["total"] == 20
            assert len(client.get("/api/v1/events", params={**day, "type": "LineCrossed"}).json()["events"]) == 20
            assert client.post("/api/v1/session", json={"name": "nobody", "password": "x" * 12}).status_code == 401
            assert client.get("/metrics").status_code == 200
    assert acl.find_missing_permissions(user.client, prefix) == []
    assert user.refused() == 0
    assert [key for key in user.admin.keys("*check*") if b":check:" in key] == [], "what was tried is gone"
    assert not [line for line in warnings(caplog) if "Redis" in line]


@pytest.mark.parametrize("command", [*COMMANDS, *acl.TRANSACTION_COMMANDS])
def test_each_command_that_is_missing_is_found(user: Limited, command: str) -> None:
    named = command.lower().replace(" ", "|")
    user.may(f"{acl.build_acl_rules()} -{named}")
    assert acl.find_missing_permissions(user.client) == [f"+{named}"]
    assert user.admin.keys("*") == []


@pytest.mark.parametrize("pattern", acl.get_key_patterns())
def test_each_key_that_is_missing_is_found(user: Limited, pattern: str) -> None:
    user.may(acl.build_acl_rules().replace(f"~{pattern} ", f"%R~{pattern} "))
    assert acl.find_missing_permissions(user.client) == [f"~{pattern}"]
    user.may(acl.build_acl_rules().replace(f"~{pattern} ", ""))
    assert acl.find_missing_permissions(user.client) == [f"~{pattern}"]


def test_the_history_is_as_it_was_when_it_was_tried(user: Limited) -> None:
    user.admin.zadd("person_logs", {"a": 1.0})
    assert acl.find_missing_permissions(user.admin) == []
    assert user.admin.zrange("person_logs", 0, -1, withscores=True) == [(b"a", 1.0)]
    assert user.admin.keys("*") == [b"person_logs"]


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (acl.build_acl_rules().replace("~person_logs ", ""), "~person_logs"),
        (f"{acl.build_acl_rules()} -bitfield", "+bitfield"),
        (f"{acl.build_acl_rules()} -xreadgroup", "XREADGROUP crowdperf:events"),
    ],
)
def test_recorder_logs_a_refusal_once_and_loses_nothing(
    user: Limited, rules: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    publisher: Publisher[LineCrossed] = Publisher(user.admin, EVENTS)
    for n in range(20):
        publisher.publish(crossing(n))
    user.may(rules)
    with Recording(user) as recording:
        wait_until(lambda: user.refused() > 6, what="many attempts")
        assert recording.thread.is_alive()
        (line,) = warnings(caplog)
        assert named in line
        assert "Remedy" in line
        assert user.admin.exists("person_logs") == 0, "nothing is half done"
        user.may(acl.build_acl_rules())
        wait_until(lambda: recording.runtime.metrics.get_counter("crossings_recorded") == 20, what="all are recorded")
    assert user.admin.exists("crowdperf:dead:events:recorder") == 0
    counted = list(user.admin.scan_iter("crowdperf:counts:day:*"))
    assert sum(int.from_bytes(user.admin.get(key)[-4:], "big") for key in counted) == 20


def test_housekeeping_without_info_goes_on_with_the_rest(user: Limited, caplog: pytest.LogCaptureFixture) -> None:
    user.may(acl.build_acl_rules().replace("+info", ""))
    user.admin.zadd("person_logs", {"old": 1.0})
    user.admin.xgroup_create("crowdperf:detections:gone", "tracking", id="0", mkstream=True)
    for n in range(1, 1001):
        user.admin.xadd("crowdperf:detections:gone", {"d": b"x"}, id=f"1-{n}")
    user.admin.xgroup_setid("crowdperf:detections:gone", "tracking", "1-1000")
    housekeeper = Housekeeper(
        user.client, make_config(user, "housekeeping"), ProcessRuntime("worker-housekeeping-0", 0)
    )
    housekeeper.sweep(NOW, 0.0)
    housekeeper.sweep(NOW, 15.0)
    assert user.admin.xlen("crowdperf:detections:gone") < 200
    assert user.admin.zcard("person_logs") == 0
    (line,) = warnings(caplog)
    assert "the memory of Redis is not watched" in line
    assert "'info'" in line


def test_the_api_answers_503_with_what_is_refused(
    user: Limited, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user.may(acl.build_acl_rules().replace("~person_logs ", ""))
    with serving(user.url, tmp_path) as served, httpx.Client(base_url=served.url, timeout=TIMEOUT_S) as client:
        reply = client.get("/api/v1/events?from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z&type=LineCrossed")
        assert reply.status_code == 503
        assert reply.headers["content-type"] == "application/problem+json"
        assert "person_logs" in reply.json()["detail"]
        assert "Remedy" in reply.json()["detail"]
        user.may(f"{acl.build_acl_rules()} -set")
        reply = client.get("/readyz")
        assert reply.status_code == 503
        assert "'set'" in reply.json()["reasons"][0]
        user.may(acl.build_acl_rules())
        assert client.get("/api/v1/counts").status_code == 200
    assert [line for line in warnings(caplog) if "ZRANGEBYSCORE person_logs" in line]


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (acl.build_acl_rules().replace("~person_logs ", ""), "person_logs"),
        (f"{acl.build_acl_rules()} -xread", "XREAD crowdperf:events"),
    ],
)
def test_live_updates_that_are_refused_are_said_once_and_go_on(
    user: Limited, rules: str, named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    user.may(rules)
    with serving(user.url, tmp_path) as served:

        def up() -> bool:
            return bool(served.runtime.metrics.snapshot("x", 0).gauges.get("redis_up", {}).get(""))

        wait_until(lambda: user.refused() > 4, what="many attempts")
        assert not up()
        user.may(acl.build_acl_rules())
        wait_until(up, what="the feed goes on")
    (line,) = [line for line in warnings(caplog) if "live updates pause" in line]
    assert named in line
    assert caplog.text.count("reading live updates") <= 2


def test_a_worker_whose_state_is_refused_buries_nothing(user: Limited) -> None:
    publisher: Publisher[LineCrossed] = Publisher(user.admin, EVENTS)
    publisher.publish(crossing(1))
    leases = Leases(user.client, WORKER, 0, 1, "worker-tally-0")
    member = ShardedConsumer(user.client, Tally(), leases, Metrics(), Clock(), lambda: NOW)
    user.may(f"{acl.build_acl_rules()} -xadd")
    for _ in range(10):
        member.start()
        with pytest.raises(OUTAGE, match="XADD crowdperf:events"):
            member.step(block_ms=1)
    user.may(acl.build_acl_rules())
    member.start()
    assert member.step(block_ms=1) == 1
    assert user.admin.exists(f"crowdperf:dead:events:{WORKER}") == 0


def test_detections_that_are_refused_wait(user: Limited, caplog: pytest.LogCaptureFixture) -> None:
    user.may(f"{acl.build_acl_rules()} -xadd")
    outbox = Outbox(user.client)
    outbox.put(detections(9, 1))
    for now in range(10, 100, 10):
        assert outbox.flush(float(now)) == 0
    (line,) = warnings(caplog)
    assert "XADD crowdperf:detections:" in line
    user.may(acl.build_acl_rules())
    assert outbox.flush(100.0) == 1


def _refusals(user: Limited) -> list[Callable[[], Any]]:
    client = user.client
    return [
        lambda: client.set("crowdperf:a", "s3cret"),
        lambda: client.pipeline().set("crowdperf:a", "s3cret").execute(),
        lambda: client.pipeline(transaction=False).set("crowdperf:a", "s3cret").execute(),
        lambda: client.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "crowdperf:a", "s3cret"),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_refusal_names_command_and_key_and_never_a_value(user: Limited, number: int) -> None:
    user.may(f"{acl.build_acl_rules()} -set")
    with pytest.raises(RedisPermissionError) as refused:
        _refusals(user)[number]()
    assert re.match(r"(SET|EVAL) crowdperf:a: ", str(refused.value))
    assert "'set'" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_no_error_of_a_transaction_names_a_value(user: Limited) -> None:
    client: Any = user.admin
    client.set("crowdperf:a", "x")
    with pytest.raises(redis.ResponseError, match="HSET crowdperf:a: WRONGTYPE") as wrong:
        client.pipeline().hset("crowdperf:a", "name", "s3cret").execute()
    assert "s3cret" not in str(wrong.value)


def test_check_says_what_is_missing_and_how_to_give_it(user: Limited, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"redis": {"url": user.url, "key_prefix": "north:"}, "cameras": []}))

    def finding() -> check.Finding:
        found = check.collect_findings(Installation(tmp_path))
        return next(row for row in found if row.text.startswith("Redis"))

    user.may(f"{acl.build_acl_rules('north:').replace('~north:person_logs ', '')} -zadd -info")
    assert not finding().ok
    assert "does not allow its user +zadd +info ~north:person_logs. Remedy" in finding().text
    assert f"ACL SETUSER <user> {acl.build_acl_rules('north:')}" in finding().text
    user.may(acl.build_acl_rules("north:"))
    assert finding().ok
    user.admin.execute_command("ACL", "SETUSER", USER, "resetpass", ">another")
    user.client.connection_pool.disconnect()
    assert not finding().ok
    assert "correct the login in redis.url" in finding().text


def test_a_command_that_is_refused_ends_with_that(user: Limited, tmp_path: Path) -> None:
    user.may(f"{acl.build_acl_rules()} -scan")
    with pytest.raises(ConfigError, match="Redis refuses: SCAN 0: User crowdperf has no permissions"):
        dead_letters.main(["list"], make_installation(tmp_path, user.url))


def test_site_runs_as_documented_user_and_survives_revocation(user: Limited, tmp_path: Path) -> None:
    user.may(acl.build_acl_rules())
    with site_with(tmp_path, [dict(camera("good", clip(tmp_path)))], redis={"url": user.url}) as site:
        site.wait_ready(90)
        wait_for_analysis(site)
        assert [(row["object"], row["context"]) for row in user.admin.acl_log()] == []
        before = site.wait_for_pids()
        user.may(f"{acl.build_acl_rules()} -set")
        wait_for_log(site, "tracking-0", "SET crowdperf:state:tracking:good", "Remedy")
        wait_for_log(site, "web", "metrics are not published", "SET crowdperf:metrics:web")
        user.may(f"{acl.build_acl_rules()} -xadd")
        wait_for_log(site, "inference", "XADD crowdperf:detections:good", "Remedy")
        user.may(f"{acl.build_acl_rules()} -set")
        wait_until(lambda: site.get_status("/readyz") == 503, 30, "/readyz sees it")
        assert site.get_status("/healthz") == 200
        user.may(acl.build_acl_rules())
        wait_for_analysis(site)
        site.wait_ready(60)
        assert site.get_pids() == before, "something was restarted"
        assert "Traceback" not in site.collect_logs()
        assert site.read_events("CameraGap") == [], "what was analysed meanwhile waited in memory"
