"""The page of alerts in a real browser: rules made and changed there, and what they raise answered there."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from crowdperf.accounts.credentials import SetupSecret
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import AlertChanged, Event
from crowdperf.messaging.streams import EVENTS
from crowdperf.settings.alerts import AlertRule
from crowdperf.storage import alerts as stored
from crowdperf.storage.alerts import AlertDoc, AlertUpdate
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.dashboard.test_people import sign_in
from tests.integration.supervision.test_supervision import camera, clip
from tests.integration.web.test_accounts import PASSWORD, People
from tests.support.browser import Dashboard, dashboard
from tests.support.site import Site
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

pytestmark = pytest.mark.browser
SCREENSHOTS = ROOT / "var" / "screenshots"
HOOK = {"type": "webhook", "id": "guards", "url": "https://hooks.example/x"}
BOSS = {"type": "mqtt", "id": "house", "host": "mqtt.example"}
FULL = {
    "id": "full",
    "name": "Everything set",
    "event": "LineCrossed",
    "cameras": ["lobby"],
    "lines": ["door"],
    "classes": ["person", "truck"],
    "schedule": [{"days": ["mon", "sun"], "start": "22:30", "end": "05:15"}, {"start": "12:00", "end": "13:00"}],
    "min_duration_s": 1.5,
    "severity": "critical",
    "channels": ["house"],
    "observe_quiet_hours": False,
    "dedupe_s": 17,
    "max_per_hour": 3,
    "close_after_s": 61.5,
    "escalate": [{"after_s": 90, "channels": ["guards"]}, {"after_s": 900, "channels": ["guards", "house"]}],
    "enabled": False,
}
"""Every setting of a rule that fits its event is another than its default."""
CROWD = {"id": "crowd", "event": "ZoneChanged", "zones": ["stage"], "above": 7, "cameras": ["plaza"]}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config.json"
    alerts = {
        "rules": [FULL, CROWD],
        "channels": [HOOK, BOSS],
        "quiet_hours": [{"start": "22:00", "end": "06:00"}],
    }
    file.write_text(json.dumps({**CONFIG, "alerts": alerts}))
    monkeypatch.setenv("CROWDPERF_CONFIG", str(file))
    monkeypatch.setenv("CROWDPERF_DATA", str(tmp_path / "data"))
    return file


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path, config: Path) -> Iterator[Served]:
    with serving(redis_server.url, tmp_path / "served", json.loads(config.read_text())) as served:
        yield served


@pytest.fixture
def people(server: Served, redis_server: RedisServer) -> People:
    return People(server, redis_server)


def written(config: Path, name: str) -> AlertRule:
    """Read a rule from the file, defaults included."""
    rows = json.loads(config.read_text())["alerts"]["rules"]
    return msgspec.convert(next(row for row in rows if row["id"] == name), AlertRule)


def rule_of(document: dict[str, Any]) -> AlertRule:
    return msgspec.convert(document, AlertRule)


def alert(number: int, **more: Any) -> AlertDoc:
    base: dict[str, Any] = {
        "id": f"a{number}", "rule": "crowd", "severity": "warning", "camera": "plaza", "subject": "stage",
        "title": "Too many", "detail": f"number {number}", "event": "e", "raised_at": time.time() - 60 + number,
        "last_at": time.time(), "count": 1,
    }  # fmt: skip
    return AlertDoc(**{**base, **more})


def raise_(server: RedisServer, doc: AlertDoc, state: Any = "open") -> None:
    """Store and publish an alert as the worker does."""
    pipe = server.client().pipeline()
    stored.stage(pipe, AlertUpdate(doc, state))
    pipe.execute()
    publisher: Publisher[Event] = Publisher(server.client(), EVENTS)
    publisher.publish(
        AlertChanged(
            id=f"{doc.id}:{state}", camera=doc.camera, ts=time.time(), alert=doc.id, rule=doc.rule, state=state
        )
    )


def shown_alerts(shown: Dashboard) -> list[str]:
    return shown.page.evaluate("[...document.querySelectorAll('.alert-card')].map((row) => row.dataset.alert)")


def opened(shown: Dashboard, server: Served) -> None:
    shown.page.goto(f"{server.url}/#/alerts")
    shown.wait_for("document.querySelectorAll('[data-rule]').length > 0")


def test_saving_a_rule_keeps_its_other_fields(server: Served, people: People, config: Path) -> None:
    people.add("otto", "operator")
    with dashboard(server.url) as shown:
        sign_in(shown, server, "otto")
        opened(shown, server)
        shown.page.locator("[data-rule=full] [data-do=edit]").click()
        shown.wait_for("document.querySelector('dialog[open] [data-field=lines] input:checked')")
        shown.page.locator("dialog [data-field=name]").press("Enter")
        shown.wait_for("document.querySelector('dialog') === null")
        assert written(config, "full") == rule_of(FULL)
        assert shown.page.evaluate("document.activeElement.closest('[data-rule]').dataset.rule") == "full"

        shown.page.locator("[data-rule=crowd] [data-do=edit]").click()
        shown.page.locator("dialog [data-field=event]").select_option("Alert")
        shown.page.locator("dialog [data-field=breaches] input[value=loitering]").check()
        shown.page.locator("dialog button[type=submit]").click()
        shown.wait_for("document.querySelector('[data-rule=crowd]').textContent.includes('loitering')")
        expected = {
            "id": "crowd",
            "event": "Alert",
            "zones": ["stage"],
            "cameras": ["plaza"],
            "breaches": ["loitering"],
        }
        assert written(config, "crowd") == rule_of(expected), "what the new event cannot be filtered by is gone"

        shown.page.locator("[data-rule=crowd] [data-do=disable]").click()
        shown.wait_for("document.querySelector('[data-rule=crowd] [data-do=enable]')")
        assert written(config, "crowd") == rule_of({**expected, "enabled": False})
        remove = shown.page.locator("[data-rule=crowd] .danger")
        remove.click()
        assert len(json.loads(config.read_text())["alerts"]["rules"]) == 2, "the first press asks"
        remove.click()
        shown.wait_for("document.querySelector('[data-rule=crowd]') === null")
        assert [row["id"] for row in json.loads(config.read_text())["alerts"]["rules"]] == ["full"]


def test_refusal_is_shown_in_the_dialog_and_escape_closes_it(server: Served, people: People, config: Path) -> None:
    people.add("otto", "operator")
    before = config.read_bytes()
    with dashboard(server.url, "dark") as shown:
        sign_in(shown, server, "otto")
        opened(shown, server)
        shown.page.get_by_role("button", name="Add a rule").click()
        shown.page.keyboard.type("Too many in the lobby")
        shown.page.locator("dialog [data-field=max_per_hour]").evaluate("(node) => node.closest('details').open = true")
        shown.page.locator("dialog [data-field=max_per_hour]").fill("0")
        shown.page.locator("dialog button[type=submit]").click()
        shown.wait_for("document.querySelector('dialog [role=alert]').textContent.includes('max_per_hour')")
        shown.screenshot(SCREENSHOTS / "alert-rule.png")
        shown.page.keyboard.press("Escape")
        shown.wait_for("document.querySelector('dialog') === null")
        assert config.read_bytes() == before
        shown.problems = [text for text in shown.problems if "400" not in text]


def test_alerts_are_filtered_and_answered_by_the_keyboard_alone(
    server: Served, people: People, redis_server: RedisServer
) -> None:
    for number in range(30):
        raise_(redis_server, alert(number))
    raise_(redis_server, alert(30, severity="critical", camera="lobby", rule="full", escalated=2))
    raise_(redis_server, alert(31), "closed")
    with people.browser("otto", "operator") as client, dashboard(server.url) as shown:
        sign_in(shown, server, "otto")
        opened(shown, server)
        shown.wait_for("document.querySelectorAll('.alert-card').length === 25")
        assert "escalated, step 2" in shown.page.locator("[data-alert=a30]").inner_text()
        shown.page.get_by_role("button", name="Show more").click()
        shown.wait_for("document.querySelectorAll('.alert-card').length === 31")
        for label, value in (("Rule", "full"), ("Camera", "lobby"), ("Severity", "critical")):
            shown.page.locator(".toolbar").get_by_label(label).select_option(value)
            shown.wait_for("document.querySelectorAll('.alert-card').length === 1")
            assert shown_alerts(shown) == ["a30"]
            shown.page.locator(".toolbar").get_by_label(label).select_option("")
            shown.wait_for("document.querySelectorAll('.alert-card').length === 25")
        shown.page.locator("[data-choice=closed]").click()
        shown.wait_for("document.querySelectorAll('.alert-card').length === 1")
        assert shown_alerts(shown) == ["a31"]
        assert shown.page.locator(".alert-card button").count() == 0, "what is closed stays closed"

        shown.page.locator("[data-choice=open]").click()
        shown.wait_for("document.querySelectorAll('.alert-card').length === 25")
        shown.page.locator("[data-alert=a29] [data-action=acknowledge]").focus()
        shown.page.keyboard.press("Enter")
        shown.wait_for("document.querySelector('[data-alert=a29]') === null")
        shown.wait_for("document.activeElement.closest('[data-alert]')?.dataset.alert === 'a28'")
        shown.page.keyboard.press("Enter")
        shown.wait_for("document.querySelector('[data-alert=a28]') === null")
        # Another one comes while somebody is at a button: the button stays theirs.
        shown.wait_for("document.activeElement.closest('[data-alert]')?.dataset.alert === 'a27'")
        raise_(redis_server, alert(40, camera="lobby"))
        shown.wait_for("document.querySelector('[data-alert=a40]') !== null")
        assert shown.page.evaluate("document.activeElement.closest('[data-alert]').dataset.alert") == "a27"
        rows = client.get("/api/v1/alerts?state=acknowledged").json()["alerts"]
        assert [(row["alert"]["id"], row["acknowledged_by"]) for row in rows] == [("a29", "otto"), ("a28", "otto")]


def test_who_may_only_look_sees_alerts_and_rules_and_no_button(
    server: Served, people: People, redis_server: RedisServer
) -> None:
    raise_(redis_server, alert(1))
    with dashboard(server.url, "light", 360, 800) as shown:
        opened(shown, server)
        shown.wait_for("document.querySelectorAll('.alert-card').length === 1")
        assert shown.page.locator(".alerts-page button:not([data-choice])").all_inner_texts() == ["Show more"]
        assert shown.page.locator(".alerts-page button:not([data-choice])").is_hidden()
        assert shown.page.locator("[data-channel]").count() == 0
        assert shown.measure_overflow_px() == 0
        people.add("otto", "operator")
        sign_in(shown, server, "otto")
        opened(shown, server)
        shown.wait_for("document.querySelectorAll('[data-channel]').length === 2")
        assert shown.page.locator("[data-channel=house]").inner_text().split()[0] == "house"


def test_new_rule_raises_an_alert_that_is_acknowledged(tmp_path: Path) -> None:
    source = clip(tmp_path)
    config = {
        "media_roots": [str(tmp_path)],
        "cameras": [camera("lobby", source), camera("door", clip(tmp_path, "other.mp4"))],
    }
    with Site(tmp_path / "site", config) as site, httpx.Client(base_url=site.url, timeout=TIMEOUT_S) as api:
        site.wait_for_web()
        secret = SetupSecret(site.paths.sockets)
        wait_until(lambda: secret.read() is not None, what="the setup link")
        with dashboard(site.url) as shown:
            shown.page.goto(f"{site.url}/setup/#{secret.read()}")
            for field in ("name", "password", "again"):
                shown.page.fill(f"#{field}", "ada" if field == "name" else PASSWORD)
            shown.page.click("#submit")
            shown.wait_for("document.querySelector('.account-name') !== null")
            shown.page.locator(".nav [data-page=alerts]").click()
            shown.wait_for("document.querySelector('.alerts-page')?.textContent.includes('No rule yet')")
            shown.page.get_by_role("button", name="Add a rule").click()
            # By keyboard: the dialog begins at the name, then come the event and the severity.
            shown.page.keyboard.type("Lobby is gone")
            shown.page.keyboard.press("Tab")
            shown.page.keyboard.type("Camera aw")
            shown.page.keyboard.press("Tab")
            shown.page.keyboard.type("crit")
            shown.page.locator("dialog [data-field=cameras] input[value=lobby]").check()
            shown.page.locator("dialog button[type=submit]").click()
            shown.wait_for("document.querySelector('[data-rule=lobby-is-gone]') !== null")
            assert "Saved" in shown.page.locator(".alerts-page [data-tone=good]").inner_text()
            made = {"id": "lobby-is-gone", "name": "Lobby is gone", "event": "CameraChanged", "cameras": ["lobby"]}
            saved = json.loads((site.folder / "config.json").read_text())["alerts"]["rules"]
            assert saved == [{**made, "severity": "critical"}]

            def listed() -> list[str]:
                try:
                    return [row["id"] for row in api.get("/api/v1/alert-rules").json()["rules"]]
                except httpx.TransportError:
                    return []

            wait_until(lambda: listed() == ["lobby-is-gone"], 60, "the rule in the interface")
            captures = site.wait_for_pid("capture-lobby")
            source.unlink()
            os.kill(captures, signal.SIGKILL)
            shown.wait_for("document.querySelector('.alert-card')?.textContent.includes('lobby is')")
            assert shown.page.locator(".alert-card").get_attribute("data-severity") == "critical"
            name = shown.page.locator(".alert-card").get_attribute("data-alert")
            shown.screenshot(SCREENSHOTS / "alerts-page.png")
            shown.page.locator(".alert-card [data-action=acknowledge]").focus()
            shown.page.keyboard.press("Enter")
            shown.wait_for("document.querySelector('.alert-card').dataset.state === 'acknowledged'")
            assert "taken by ada" in shown.page.locator(".alert-card").inner_text()
            (view,) = api.get("/api/v1/alerts").json()["alerts"]
            row = site.redis().hgetall(stored.alert_key(str(name)))
            assert (view["alert"]["id"], view["state"], view["acknowledged_by"]) == (name, "acknowledged", "ada")
            assert (row[b"state"], row[b"acknowledged_by"]) == (b"acknowledged", b"ada")

            shown.page.locator("[data-rule=lobby-is-gone] [data-do=disable]").click()
            shown.wait_for("document.querySelectorAll('.alert-card').length === 0")
            shown.page.locator("[data-choice=closed]").click()
            shown.wait_for("document.querySelector('.alert-card')?.dataset.state === 'closed'")
            assert site.redis().hget(stored.alert_key(str(name)), "state") == b"closed"
            # A change restarts the web process: what the page asks for in that moment is refused, and asked again.
            shown.problems = [text for text in shown.problems if "ERR_" not in text and "503" not in text]
    assert site.find_leftovers() == []
