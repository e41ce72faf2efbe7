"""Visitors over real HTTP, a real Redis and the real worker: the reception's day, and two who act at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest

from crowdperf.messaging.schema import RollCallChanged, VisitorChanged, VisitorNotice
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Deployment
from crowdperf.settings.worker_config import build_notify_config, build_visitors_config
from crowdperf.storage import occupancy as areas
from crowdperf.storage import violations
from crowdperf.storage.violations import Violation, ViolationUpdate
from crowdperf.visitors import visit_store
from crowdperf.web.live.counts import decode_event
from crowdperf.web.parameters import format_rfc3339
from crowdperf.workers import visitors
from crowdperf.workers.notify import process as notify
from tests.conftest import RedisServer, wait_until
from tests.integration.web.test_accounts import People
from tests.support.receivers import mailbox
from tests.support.webserver import CONFIG, Served, serving

AREAS = [{"id": "lab", "name": "Lab", "doors": [{"camera": "plaza", "line": "gate"}]}]
RULES = {"briefing": "Mind the forklifts.", "nda_version": "2", "overstay_grace_s": 0, "staff_baseline": {"lab": 2}}


@pytest.fixture(scope="module")
def _reception(_redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = {**CONFIG, "areas": AREAS, "visitors": RULES}
    with serving(_redis_session.url, tmp_path_factory.mktemp("web"), base) as served:
        yield served


@pytest.fixture
def server(_reception: Served, redis_server: RedisServer) -> Served:
    return _reception


@pytest.fixture
def desk(server: Served, redis_server: RedisServer) -> httpx.Client:
    return People(server, redis_server).browser("rosa", "reception")


@pytest.fixture
def boss(server: Served, redis_server: RedisServer) -> httpx.Client:
    return People(server, redis_server).browser("ada", "admin")


@contextlib.contextmanager
def running(main: Any, worker_config: Any, name: str) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(name, 0)
    thread = threading.Thread(target=main, args=(worker_config, runtime), daemon=True)
    thread.start()
    try:
        yield runtime
    finally:
        runtime.stop()
        thread.join(60)
        assert not thread.is_alive()


def invite(client: httpx.Client, **more: Any) -> dict[str, Any]:
    reply = client.post("/api/v1/visits", json={"name": "Grace Hopper", "host": "Ada", "areas": ["lab"], **more})
    assert reply.status_code == 201, reply.text
    return reply.json()


def act(client: httpx.Client, visit: dict[str, Any], action: str, **step: Any) -> httpx.Response:
    return client.post(f"/api/v1/visits/{visit['id']}/{action}", json=step)


def read_events(server: RedisServer, kind: type) -> list[Any]:
    events = [decode_event(fields) for _, fields in server.client().xrange("crowdperf:events")]
    return [event for event in events if isinstance(event, kind)]


def count(server: RedisServer, occupancy: int) -> None:
    """What worker-areas shows of the lab."""
    now = areas.AreaSnapshot(
        area="lab", occupancy=occupancy, uncertainty=1.0, entries=20, exits=3, since=1.0, next_reset=None, at=2.0,
        limit=None, over_limit=False, last_door="plaza/gate", last_entered=True, last_at=2.0,
    )  # fmt: skip
    areas.stage_area(server.client(), now)


def test_a_day_at_the_reception(desk: httpx.Client, redis_server: RedisServer) -> None:
    visit = invite(desk, company="Navy", email="grace@navy.example", host_email="ada@site.example", purpose="compiler")
    assert visit["state"] == "invited"
    badge = desk.get(f"/api/v1/visits/{visit['id']}/badge")
    assert "Grace Hopper" in badge.text
    svg = desk.get(f"/api/v1/visits/{visit['id']}/badge.svg")
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert svg.text.startswith("<svg xmlns=")
    assert "viewBox" in svg.text, "a picture that is drawn smaller would be cut"
    refused = desk.post(f"/api/v1/kiosk/{visit['code']}", json={})
    assert (refused.status_code, "briefing" in refused.json()["detail"]) == (409, True)
    inside = desk.post(f"/api/v1/kiosk/{visit['code'].lower()}", json={"briefing": True, "nda_version": "2"})
    assert (inside.status_code, inside.json()["state"]) == (200, "checked_in")
    assert act(desk, visit, "enter", area="lab").json()["state"] == "on_site"
    assert desk.post(f"/api/v1/kiosk/{visit['code']}", json={}).json()["state"] == "checked_out"
    assert act(desk, visit, "check-in").status_code == 409
    assert act(desk, visit, "dance").status_code == 404
    events = read_events(redis_server, VisitorChanged)
    assert [event.state for event in events] == ["invited", "checked_in", "on_site", "checked_out"]
    assert "Grace" not in str(redis_server.client().xrange("crowdperf:events"))
    assert redis_server.client().xlen("crowdperf:audit") >= 4
    assert desk.get("/api/v1/visits").json()["visits"] == []
    day = desk.get("/api/v1/visits", params={"from": format_rfc3339(time.time() - 60)}).json()["visits"]
    assert [row["name"] for row in day] == ["Grace Hopper"]


def test_only_one_of_two_who_act_at_once_succeeds(desk: httpx.Client, redis_server: RedisServer) -> None:
    visit = invite(desk, walk_in=True)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: act(desk, visit, "deny", reason="no", version=1).status_code, range(8)))
    assert sorted(replies) == [200] + [409] * 7
    assert [event.state for event in read_events(redis_server, VisitorChanged)] == ["arrived", "denied"]


def test_the_watch_list_needs_a_second_person(desk: httpx.Client, boss: httpx.Client) -> None:
    entry = {"kind": "watch", "name": "grace hopper", "reason": "took the bug home"}
    own = boss.post("/api/v1/watch-list", json={**entry, "kind": "block"}).json()
    assert boss.post(f"/api/v1/watch-list/{own['id']}/approve").status_code == 409, "nobody approves the own proposal"
    listing = desk.post("/api/v1/watch-list", json=entry).json()
    assert invite(desk)["listed"] == ""
    assert desk.post(f"/api/v1/watch-list/{listing['id']}/approve").status_code == 403
    assert boss.post(f"/api/v1/watch-list/{listing['id']}/approve").status_code == 200
    visit = invite(desk, walk_in=True)
    assert visit["listed"] == "watch"
    step = {"briefing": True, "nda_version": "2"}
    assert act(desk, visit, "check-in", **step).status_code == 409
    assert act(desk, visit, "approve").status_code == 403
    assert act(boss, visit, "approve").status_code == 200
    assert act(desk, visit, "check-in", **step).json()["approved_by"] == "ada"
    assert boss.delete(f"/api/v1/watch-list/{listing['id']}").status_code == 204


def test_a_person_blocked_after_the_invitation_stays_out(desk: httpx.Client, boss: httpx.Client) -> None:
    visit = invite(desk)
    entry = {"kind": "block", "name": "grace hopper", "reason": "took the bug home"}
    listing = desk.post("/api/v1/watch-list", json=entry).json()
    assert boss.post(f"/api/v1/watch-list/{listing['id']}/approve").status_code == 200
    step = {"briefing": True, "nda_version": "2"}
    refused = desk.post(f"/api/v1/kiosk/{visit['code']}", json=step)
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "this visit needs the reception. Remedy: ask there.",
    )
    assert "watch-list" in act(desk, visit, "check-in", **step).json()["detail"], "the reception is told why"
    assert desk.get(f"/api/v1/visits/{visit['id']}").json()["listed"] == "block"
    assert boss.post(f"/api/v1/visits/{visit['id']}/approve", json={}).status_code == 409
    assert boss.delete(f"/api/v1/watch-list/{listing['id']}").status_code == 204
    assert desk.post(f"/api/v1/kiosk/{visit['code']}", json=step).json()["state"] == "checked_in"


def test_an_evacuation_is_marked_from_several_devices_at_once(desk: httpx.Client, redis_server: RedisServer) -> None:
    rows = [invite(desk, name=f"Guest {n}", walk_in=True) for n in range(12)]
    for row in rows:
        assert act(desk, row, "check-in", briefing=True, nda_version="2").status_code == 200
    count(redis_server, 17)
    call = desk.post("/api/v1/roll-calls", json={"drill": True}).json()
    (place,) = call["places"]
    assert (place["title"], place["cameras"], place["listed"], place["staff"]) == ("Lab", "Plaza north", 12, 2)
    assert (place["counted"], place["unlisted"], place["last_door"]) == (17, 3, "Plaza north, North gate")
    assert [mark["state"] for mark in call["marks"]] == ["missing"] * 12
    address = f"/api/v1/roll-calls/{call['id']}"
    with ThreadPoolExecutor(6) as pool:
        marks = pool.map(lambda row: desk.post(f"{address}/visits/{row['id']}", json={"state": "safe"}), rows[:11])
        assert {reply.status_code for reply in marks} == {200}
    after = desk.get(address).json()
    assert sum(mark["state"] == "safe" for mark in after["marks"]) == 11
    # While it goes on the cameras' number is the newest; then it is what they counted at the end.
    count(redis_server, 4)
    assert [place["inside"] for place in desk.get(address).json()["places"]] == [4]
    assert desk.post(f"{address}/end").json()["ended_by"] == "rosa"
    count(redis_server, 0)
    assert [(place["counted"], place["inside"]) for place in desk.get(address).json()["places"]] == [(17, 4)]
    late = desk.post(f"{address}/visits/{rows[11]['id']}", json={"state": "safe"})
    assert late.status_code == 409
    report = desk.get(f"{address}/report").text
    assert "Drill" in report
    assert "11 of 12 people safe, 1 missing. The cameras counted 3 more" in report
    assert desk.get(f"{address}/report.csv").text.count("safe") == 11
    states = [event.state for event in read_events(redis_server, RollCallChanged)]
    assert (states[0], states[-1], states.count("safe")) == ("started", "ended", 11)


def test_who_is_on_site_and_put_on_the_list_is_a_notice(
    desk: httpx.Client, boss: httpx.Client, redis_server: RedisServer
) -> None:
    inside, outside = (invite(desk, name=name, walk_in=True) for name in ("Zoë Weiß", "Ada Byron"))
    for visit in (inside, outside):
        act(desk, visit, "check-in", briefing=True, nda_version="2")
    entry = desk.post("/api/v1/watch-list", json={"kind": "block", "name": "zoe weiss", "reason": "took a bug"}).json()
    assert read_events(redis_server, VisitorNotice) == [], "it does not count yet"
    for _ in range(2):
        assert boss.post(f"/api/v1/watch-list/{entry['id']}/approve").status_code == 200
    notices = [(event.visit, event.notice) for event in read_events(redis_server, VisitorNotice)]
    assert notices == [(inside["id"], "watch_listed")], "once"
    listed = {row["id"]: row["listed"] for row in desk.get("/api/v1/visits").json()["visits"]}
    assert listed == {inside["id"]: "possible", outside["id"]: ""}
    assert act(desk, inside, "check-out").json()["state"] == "checked_out"


def test_one_persons_data_is_exported_and_erased(
    desk: httpx.Client, boss: httpx.Client, redis_server: RedisServer
) -> None:
    visit = invite(desk, email="grace@navy.example", purpose="compiler", walk_in=True)
    act(desk, visit, "check-in", briefing=True, nda_version="2")
    address = f"/api/v1/people/{visit['person']}"
    entry = {"kind": "watch", "name": "grace HOPPER", "reason": "took the bug home"}
    desk.post("/api/v1/watch-list", json=entry)
    call = desk.post("/api/v1/roll-calls", json={"drill": True}).json()
    assert [mark["name"] for mark in call["marks"]] == ["Grace Hopper"]
    roll_call = f"/api/v1/roll-calls/{call['id']}"
    marked = desk.post(f"{roll_call}/visits/{visit['id']}", json={"state": "safe"}).json()
    assert (marked["name"], marked["host"]) == ("Grace Hopper", "Ada")
    assert "Grace Hopper" in desk.get(f"{roll_call}/report").text
    assert desk.get(f"{address}/export").status_code == 403
    export = boss.get(f"{address}/export").json()
    assert [row["reason"] for row in export["watch_list"]] == ["took the bug home"]
    assert [mark["state"] for mark in export["roll_calls"][call["id"]]] == ["safe"]
    assert (export["person"]["email"], export["visits"][0]["purpose"]) == ("grace@navy.example", "compiler")
    assert boss.delete(address).status_code == 409, "who is on site has to be found in an evacuation"
    act(desk, visit, "check-out")
    late = invite(desk, person=visit["person"], email="grace@navy.example", walk_in=True)
    act(desk, late, "deny", reason="smelled of moths")
    seen = {"camera": "plaza", "zone": "", "track": 1, "items": ["hardhat"], "first_seen": 1.0, "last_seen": 2.0}
    row = Violation(id="v", rule="hat", frames=3, votes="", ongoing=False, cause="", **seen)
    violations.stage(redis_server.client(), ViolationUpdate(row, new=True))
    note = {"review": "dismissed", "note": "that was grace HOPPER, with a hood"}
    assert boss.post("/api/v1/violations/v/review", json=note).status_code == 200
    assert boss.get(f"{address}/export").json()["notes"] == {"v": note["note"]}
    texts = ("Grace", "grace@", "moths", "hood")
    assert [text for text in texts if text not in everything(redis_server)] == []
    assert boss.delete(address).json() == {"visits": 2, "notes": 1}
    assert boss.get(f"{address}/export").status_code == 404
    client = redis_server.client()
    left = b"".join(b"".join(client.hgetall(name).values()) for name in client.keys("crowdperf:visitors:visit:*"))
    assert b"compiler" not in left
    assert b"checked_out" in left, "the visit stays for the figures"
    assert not client.keys("crowdperf:visitors:person:*")
    [mark] = desk.get(roll_call).json()["marks"]
    assert (mark["name"], mark["host"], mark["state"]) == (visit["id"], "", "safe")
    assert "Grace" not in desk.get(f"{roll_call}/report").text
    boss.delete(f"/api/v1/watch-list/{export['watch_list'][0]['id']}")
    assert [text for text in texts if text in everything(redis_server)] == []


def everything(server: RedisServer) -> str:
    """All that is stored, whatever its type."""
    client = server.client()
    client.config_set("rdbcompression", "no")
    return "".join(client.dump(name).decode("latin-1") for name in client.keys("*"))


def test_entries_leave_the_watch_list_after_their_time(desk: httpx.Client, redis_server: RedisServer) -> None:
    for name in ("Eve", "Mallory"):
        desk.post("/api/v1/watch-list", json={"kind": "block", "name": name, "reason": "stole a drill"})
    entries = desk.get("/api/v1/watch-list").json()["entries"]
    visit_store.VisitKeys().stage_forget(redis_server.client(), entries[1]["added_at"])
    assert [row["name"] for row in desk.get("/api/v1/watch-list").json()["entries"]] == ["Mallory"]


def test_names_go_when_the_retention_is_over(desk: httpx.Client, redis_server: RedisServer) -> None:
    gone, live = invite(desk, purpose="secret plan", walk_in=True), invite(desk, name="Alan", walk_in=True)
    act(desk, gone, "deny", reason="late")
    visit_store.VisitKeys().stage_expiry(redis_server.client(), time.time() + 10)
    client = redis_server.client()
    assert client.hget(f"crowdperf:visitors:visit:{gone['id']}", "purpose") == b""
    assert client.hget(f"crowdperf:visitors:visit:{gone['id']}", "state") == b"denied"
    assert not client.exists(f"crowdperf:visitors:person:{gone['person']}")
    assert client.exists(f"crowdperf:visitors:person:{live['person']}"), "who is there stays"


def test_time_changes_visits_and_the_host_gets_mail(
    server: Served, desk: httpx.Client, redis_server: RedisServer
) -> None:
    with mailbox("right") as box, contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("MAIL_PASSWORD", "right")
        channel = {
            "type": "email",
            "id": "hosts",
            "host": "127.0.0.1",
            "port": box.port,
            "security": "none",
            "sender": "crowdperf@site.example",
            "to_host": True,
            "user": "crowdperf",
            "password_env": "MAIL_PASSWORD",
        }
        alerts = {
            "channels": [channel],
            "rules": [{"id": "host", "name": "Visitor", "event": "VisitorNotice", "channels": ["hosts"]}],
        }
        config = msgspec.convert({**msgspec.to_builtins(server.config), "alerts": alerts}, type(server.config))
        stack.enter_context(
            running(visitors.main, build_visitors_config(Deployment(config, server.paths), 0), "worker-visitors-0")
        )
        stack.enter_context(
            running(notify.main, build_notify_config(Deployment(config, server.paths), 0), "worker-notify-0")
        )
        visit = invite(desk, walk_in=True, host_email="ada@site.example")
        wait_until(lambda: box.letters, what="the host's mail")
        assert box.letters[0]["To"] == "ada@site.example"
        assert "Grace Hopper" in str(box.letters[0].get_payload())
        act(desk, visit, "check-in", briefing=True, nda_version="2")
        # The expected time ends: the stored fields are set as if two hours had passed.
        over = {"expected_until": time.time() - 1, "version": 3}
        row = lifecycle_event(redis_server, visit["id"], over)
        update = visit_store.VisitUpdate(
            visit=visit["id"],
            expected_version=2,
            fields=over,
            expected_from=row.expected_from,
            is_live=True,
            events=[row],
        )
        visit_store.stage_update(redis_server.client(), update)
        wait_until(
            lambda: "overstayed" in [e.state for e in read_events(redis_server, VisitorChanged)], what="the overstay"
        )
        shown = desk.get(f"/api/v1/visits/{visit['id']}").json()
        assert (shown["state"], shown["version"]) == ("overstayed", 4)
        wait_until(
            lambda: "overstayed" in [e.notice for e in read_events(redis_server, VisitorNotice)], what="the notice"
        )


def lifecycle_event(server: RedisServer, visit: str, over: dict[str, Any]) -> VisitorChanged:
    """The event of a change that a test makes."""
    last = [event for event in read_events(server, VisitorChanged) if event.visit == visit][-1]
    fields = {**over, "previous": last.state, "id": f"visit:{visit}:3"}
    return msgspec.structs.replace(last, **fields)


def test_the_demos_visitors_come_once_and_never_again(desk: httpx.Client, redis_server: RedisServer) -> None:
    client = redis_server.client()
    assert visitors.seed_demo_visits(client, time.time()) == 5
    shown = desk.get("/api/v1/visits").json()["visits"]
    assert sorted(row["state"] for row in shown) == ["arrived", "checked_in", "invited", "invited", "on_site"]
    assert all(row["name"] for row in shown)
    assert act(desk, {"id": "demo-1"}, "check-out").json()["state"] == "checked_out"
    assert visitors.seed_demo_visits(client, time.time()) == 0
    assert desk.get("/api/v1/visits/demo-1").json()["state"] == "checked_out"


def test_two_instances_of_the_worker_change_visits_as_one_does(server: Served, redis_server: RedisServer) -> None:
    outcomes = []
    # The demo's visits, half a day later: two are over since long, two never came.
    begin = time.time() - 12 * 3600
    for instances in (1, 2):
        redis_server.client().flushall()
        visitors.seed_demo_visits(redis_server.client(), begin)
        rules = {**RULES, "night_check_out": time.strftime("%H:%M", time.gmtime(time.time() + 7200))}
        raw = {**msgspec.to_builtins(server.config), "visitors": rules, "workers": {"visitors": instances}}
        config = msgspec.convert({**raw, "site": {"timezone": "UTC"}}, type(server.config))
        with contextlib.ExitStack() as stack:
            for n in range(instances):
                worker_config = build_visitors_config(Deployment(config, server.paths), n)
                stack.enter_context(running(visitors.main, worker_config, f"worker-visitors-{n}"))
            wait_until(lambda: len(read_events(redis_server, VisitorChanged)) == 9, what="four changes of five visits")
        outcomes.append(
            sorted((event.id, event.state, event.by) for event in read_events(redis_server, VisitorChanged))
        )
    assert outcomes[0] == outcomes[1]
    assert [state for _, state, by in outcomes[0] if not by] == ["overstayed", "overstayed", "no_show", "no_show"]
