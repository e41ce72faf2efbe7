"""Visitors, roll calls and alerts in a real browser: what is pressed there is what the interface says afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AreaChanged, Event
from crowdperf.messaging.streams import EVENTS
from crowdperf.storage import occupancy as areas
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.web.test_accounts import PASSWORD, People
from tests.integration.web.test_alerts_api import RULE, notifying, stage
from tests.support.browser import Dashboard, dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

pytestmark = pytest.mark.browser


@pytest.fixture
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = {**CONFIG, "alerts": {"rules": [RULE], "max_age_s": 86_400}}
    with serving(redis_server.url, tmp_path_factory.mktemp("web"), base) as served:
        yield served


@pytest.fixture
def people(server: Served, redis_server: RedisServer) -> People:
    return People(server, redis_server)


def sign_in(shown: Dashboard, server: Served, name: str) -> None:
    shown.page.goto(f"{server.url}/login/")
    shown.page.fill("#name", name)
    shown.page.fill("#password", PASSWORD)
    shown.page.click("#submit")
    shown.wait_for("document.querySelector('.account-name') !== null")


def states(client: httpx.Client) -> list[str]:
    return [visit["state"] for visit in client.get("/api/v1/visits").json()["visits"]]


def test_a_visitor_is_taken_in_found_in_a_drill_and_checked_out(server: Served, people: People) -> None:
    with people.browser("rita", "reception") as client, dashboard(server.url) as shown:
        sign_in(shown, server, "rita")
        shown.page.locator(".nav [data-page=visitors]").click()
        form = shown.page.locator(".invitation")
        form.locator("input").nth(0).fill("Grace Hopper")
        form.locator("input").nth(3).fill("Ada")
        form.locator("input[type=checkbox]").check()
        form.locator("button").click()
        shown.wait_for("document.querySelector('tr[data-visit] .pill')?.textContent === 'arrived'")
        shown.page.locator("[data-action='check-in']").click()
        shown.wait_for("document.querySelector('tr[data-visit] .pill').textContent === 'checked in'")
        assert states(client) == ["checked_in"]
        shown.wait_for("document.querySelector('[data-figure=\"visitors.on_site_count\"]').textContent === '1'")
        shown.screenshot(ROOT / "var" / "screenshots" / "visitors.png")
        shown.set_size(360, 780)
        box = shown.page.locator("[data-action='check-out']").bounding_box()
        assert box["x"] + box["width"] < 360, "on a telephone the buttons are on the screen"
        assert shown.measure_overflow_px() == 0
        shown.set_size(1440, 900)
        shown.page.get_by_role("button", name="Drill").click()
        shown.wait_for("document.querySelector('.progress')?.textContent.startsWith('0 of 1')")
        call = shown.page.evaluate("location.hash.split('/').pop()")
        visit = client.get("/api/v1/visits").json()["visits"][0]["id"]
        # Another device finds her: this one hears of it by itself.
        client.post(f"/api/v1/roll-calls/{call}/visits/{visit}", json={"state": "safe"})
        shown.wait_for("document.querySelector('.progress').textContent.startsWith('1 of 1')")
        shown.page.get_by_role("button", name="End").click()
        shown.wait_for("document.querySelector('.progress').textContent.startsWith('Ended')")
        shown.page.locator(".nav [data-page=visitors]").click()
        shown.page.locator("[data-action='check-out']").click()
        shown.wait_for("document.querySelector('tr[data-visit] .pill').textContent === 'checked out'")
        assert states(client) == []


def test_roll_call_compares_cameras_with_the_list(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hall = {"id": "hall", "name": "Hall", "doors": [{"camera": "plaza", "line": "gate"}]}
    base = {**CONFIG, "areas": [hall], "visitors": {"staff_baseline": {"hall": 2}}}
    client = redis_server.client()
    with serving(redis_server.url, tmp_path_factory.mktemp("web"), base) as served:
        people = People(served, redis_server)
        with people.browser("rita", "reception") as desk, dashboard(served.url) as shown:
            guest = {"name": "Grace Hopper", "host": "Ada", "areas": ["hall"], "walk_in": True}
            visit = desk.post("/api/v1/visits", json=guest).json()["id"]
            assert desk.post(f"/api/v1/visits/{visit}/check-in", json={}).status_code == 200
            areas.stage_area(client, now_of(7))
            call = desk.post("/api/v1/roll-calls", json={"drill": True}).json()["id"]
            sign_in(shown, served, "rita")
            shown.page.goto(f"{served.url}/#/roll-call/{call}")
            panel = shown.page.locator(".roll-call [data-area=hall]")
            panel.locator("li[data-visit]").wait_for()
            text = panel.inner_text()
            assert "1 on the list · 2 staff · cameras counted 7 ± 1 at the beginning" in text
            assert "Cameras counted 4 more than are on the list, staff included." in text
            assert "Cameras there: Plaza north. Last crossing, by whomever: in by Plaza north, North gate" in text
            shown.wait_for("document.querySelector('[data-area=hall] .panel-head').innerText.includes('7 inside now')")
            shown.screenshot(ROOT / "var" / "screenshots" / "roll_call.png")
            publisher: Publisher[Event] = Publisher(client, EVENTS)
            publisher.publish(
                AreaChanged(
                    id="area:hall:1",
                    camera="plaza",
                    ts=time.time(),
                    area="hall",
                    occupancy=2,
                    uncertainty=1.0,
                    entries=8,
                    exits=6,
                    cause="crossing",
                )
            )
            shown.wait_for("document.querySelector('[data-area=hall] .panel-head').innerText.includes('2 inside now')")
            shown.set_size(360, 800)
            assert shown.measure_overflow_px() == 0


def now_of(occupancy: int) -> areas.AreaSnapshot:
    return areas.AreaSnapshot(
        area="hall", occupancy=occupancy, uncertainty=1.0, entries=8, exits=1, since=1.0, next_reset=None, at=2.0,
        limit=None, over_limit=False, last_door="plaza/gate", last_entered=True, last_at=time.time(),
    )  # fmt: skip


def test_who_may_not_see_visitors_is_not_led_to_them(server: Served) -> None:
    with dashboard(server.url) as shown:
        assert shown.page.locator(".nav [data-page=visitors]").is_hidden()


def test_administrator_adds_account_for_one_camera_and_token(server: Served, people: People) -> None:
    people.add("ada", "admin")
    with dashboard(server.url) as shown:
        sign_in(shown, server, "ada")
        shown.page.locator(".account-name").click()
        form = shown.page.locator(".accounts form").first
        form.locator("input").nth(0).fill("bob")
        form.locator("input").nth(1).fill(PASSWORD)
        form.locator("button").click()
        shown.wait_for("document.querySelector('[data-user=bob]')")
        shown.page.locator("[data-user=bob] select[multiple]").select_option(["lobby"])
        bob = people.browser("bob")
        wait_until(lambda: [row["id"] for row in bob.get("/api/v1/cameras").json()["cameras"]] == ["lobby"], what="one")
        reset = shown.page.locator(".accounts form").nth(1)
        reset.locator("input").nth(0).fill("bob")
        reset.locator("input").nth(1).fill("another good one")
        reset.locator("input[type=checkbox]").check()
        reset.locator("button").click()
        wait_until(lambda: bob.get("/api/v1/session").json()["signed_in"] is False, what="bob is signed out")
        tokens = shown.page.locator(".accounts form").nth(2)
        tokens.locator("input").first.fill("nightly export")
        tokens.locator("input[type=password]").fill(PASSWORD)
        tokens.locator("button").click()
        shown.wait_for("document.querySelector('.accounts code')?.textContent.length > 20")
        token = shown.page.locator(".accounts code").inner_text()
        reply = httpx.get(
            f"{server.url}/api/v1/cameras", headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S
        )
        assert len(reply.json()["cameras"]) == 3
        shown.set_size(360, 800)
        assert shown.measure_overflow_px() == 0
        shown.page.reload()
        shown.wait_for("document.querySelector('.accounts')?.textContent.includes('token.create')")
        assert token not in shown.page.locator(".accounts").inner_text()


def test_an_alert_appears_by_itself_and_is_taken_by_mouse(
    server: Served, people: People, redis_server: RedisServer
) -> None:
    publisher: Publisher[Event] = Publisher(redis_server.client(), EVENTS)
    site = SyntheticSite(server.config, server.paths, redis_server.url)
    with people.browser("otto", "operator") as client, notifying(server), dashboard(server.url) as shown:
        sign_in(shown, server, "otto")
        assert shown.page.locator(".alerts li").count() == 0
        publisher.publish(stage(1, 5))
        shown.wait_for("document.querySelector('.alert-row')?.textContent.includes('5 in Stage, more than 4')")
        shown.page.locator(".alert-row button", has_text="Acknowledge").click()
        shown.wait_for("document.querySelector('.alert-row').textContent.includes('taken by otto')")
        (view,) = client.get("/api/v1/alerts").json()["alerts"]
        assert (view["state"], view["acknowledged_by"]) == ("acknowledged", "otto")
        shown.screenshot(ROOT / "var" / "screenshots" / "alerts.png")
        shown.page.locator(".alert-row button", has_text="Close").click()
        shown.wait_for("document.querySelectorAll('.alert-row').length === 0")
        wait_until(lambda: client.get("/api/v1/alerts?state=closed").json()["alerts"], what="the closed alert")
    site.close()


def test_alert_raised_while_the_page_connects_is_shown(
    server: Served, people: People, redis_server: RedisServer
) -> None:
    """The page has its alerts, and the stream of live events has not begun: what comes now is in neither by itself."""
    publisher: Publisher[Event] = Publisher(redis_server.client(), EVENTS)
    held: list[Any] = []
    with people.browser("otto", "operator") as client, notifying(server), dashboard(server.url) as shown:
        shown.page.route("**/api/v1/stream*", lambda route: held.append(route))
        with shown.page.expect_response(lambda answer: "/api/v1/alerts?state=acknowledged" in answer.url):
            sign_in(shown, server, "otto")
        shown.page.wait_for_load_state("domcontentloaded")
        publisher.publish(stage(1, 5))
        wait_until(lambda: client.get("/api/v1/alerts?state=open").json()["alerts"], what="the alert")
        wait_until(lambda: shown.page.wait_for_timeout(10) or held, what="the page asking for the stream")
        for route in held:
            route.continue_()
        shown.wait_for("document.querySelector('.alert-row')?.textContent.includes('5 in Stage, more than 4')")
