"""Screen readers and weak eyes: axe finds nothing serious on any page, in both themes, on a desk and a telephone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from crowdperf.accounts.credentials import SetupSecret
from crowdperf.messaging.schema import CameraGap
from crowdperf.storage import alerts, violations
from crowdperf.storage.alerts import AlertDoc, AlertUpdate
from crowdperf.storage.violations import Compliance, Violation, ViolationUpdate
from tests.conftest import ROOT, RedisServer
from tests.integration.dashboard.test_people import sign_in
from tests.integration.web.test_accounts import PASSWORD, People
from tests.support.browser import Dashboard, dashboard
from tests.support.npm import node_modules
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, serving

pytestmark = pytest.mark.browser
HOOK = {"type": "webhook", "id": "guards", "url": "https://hooks.example/x"}
CROWD = {"id": "crowd", "event": "ZoneChanged", "schedule": [{"days": ["mon"]}], "escalate": []}
ALERTS = {
    "channels": [HOOK],
    "quiet_hours": [{"start": "22:00", "end": "06:00"}],
    "rules": [{**CROWD, "channels": ["guards"], "escalate": [{"after_s": 60, "channels": ["guards"]}]}],
}
HALL = {"id": "hall", "name": "Main hall", "limit": 50, "doors": [{"camera": "plaza", "line": "gate"}]}
PAGES = {
    "#/": ".overview .alert-row",
    "#/camera/plaza": ".facts dd",
    "#/add": ".source-form",
    "#/history": ".history tbody tr",
    "#/alerts": ".alert-card [data-action], [data-channel]",
    "#/ppe": ".violation + li, .line-legend button",
    "#/visitors": "tr[data-visit] [data-action]",
    "#/roll-call/CALL": ".roll-call li",
    "#/accounts": "[data-user] select",
    "#/system": "[data-stage], [data-process]",
    "login/": "#form",
    "setup/": "#form",
    "kiosk/": "#staff",
    "docs/": ".operation",
}
"""Address -> what is there once the page is shown."""
HIDDEN_PX = """() => {
    const own = document.querySelector('.nav [aria-current]').getBoundingClientRect();
    return Math.round(Math.max(0, -own.left, own.right - document.documentElement.clientWidth));
}"""
"""By how much the shown page's own name is out of sight."""


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    visitors = {"briefing": "Mind the forklifts.", "nda_version": "3"}
    base = {**CONFIG, "areas": [HALL], "alerts": ALERTS, "visitors": visitors}
    with serving(redis_server.url, tmp_path, base) as served:
        yield served


@pytest.fixture
def site(server: Served, redis_server: RedisServer) -> Iterator[SyntheticSite]:
    made = SyntheticSite(server.config, server.paths, redis_server.url)
    made.make_metrics("inference").count("stage_infer_s", 1.0)
    made.start()
    yield made
    made.close()


def fill(site: SyntheticSite, redis_server: RedisServer, client: httpx.Client) -> str:
    """Something of everything that pages show; returns the id of a roll call."""
    now = time.time()
    site.publish_crossing("plaza", "gate", "in")
    site.publish(CameraGap(id="g", camera="plaza", ts=now, start=now - 60, end=now, cause="stalled"))
    pipe = redis_server.client().pipeline()
    for number, (severity, state) in enumerate((("warning", "open"), ("critical", "acknowledged"), ("info", "closed"))):
        doc = AlertDoc(
            id=f"a{number}", rule="crowd", severity=severity, camera="plaza", subject="", title="Too many", detail="5",
            event="e", raised_at=now - number, last_at=now, count=3, escalated=number,
        )  # fmt: skip
        alerts.stage(pipe, AlertUpdate(doc, state))
        row = Violation(
            id=f"v{number}", rule="helmet", camera="plaza", zone="stage", track=1, items=["hardhat"], first_seen=now,
            last_seen=now + 3, frames=3, votes="", ongoing=number > 0, cause="",
        )  # fmt: skip
        violations.stage(pipe, ViolationUpdate(row, new=True))
        outcome = ("worn", "missing", "unsure")[number]
        count = Compliance(camera="plaza", zone="stage", item="hardhat", outcome=outcome, hour=int(now // 3600))
        violations.stage_compliance(pipe, count)
    pipe.execute()
    token = {"label": "nightly", "permissions": ["read"], "days": 9, "password": PASSWORD}
    client.post("/api/v1/tokens", json=token).raise_for_status()
    for name in ("Grace", "Ada"):
        visit = client.post("/api/v1/visits", json={"name": name, "host": "Ada", "walk_in": True}).json()
        step = {"version": visit["version"], "briefing": True, "nda_version": "3"}
        if name == "Ada":
            client.post(f"/api/v1/visits/{visit['id']}/check-in", json=step).raise_for_status()
    return str(client.post("/api/v1/roll-calls", json={"drill": True}).json()["id"])


def serious(shown: Dashboard, axe: str) -> list[tuple[str, str]]:
    """(rule, element) of what axe calls serious or critical on the page as it is now."""
    shown.page.evaluate(axe)
    result = shown.page.evaluate("() => axe.run({resultTypes: ['violations']})")
    assert len(result["passes"]) > 10, "the rules ran"
    return [
        (row["id"], node["html"][:160])
        for row in result["violations"]
        if row["impact"] in ("serious", "critical")
        for node in row["nodes"]
    ]


def test_axe_finds_nothing_serious_on_any_page(server: Served, site: SyntheticSite, redis_server: RedisServer) -> None:
    axe = (node_modules() / "axe-core" / "axe.min.js").read_text()
    people = People(server, redis_server)
    secret = SetupSecret(server.paths.sockets).create()
    with people.browser("ada", "admin") as client, dashboard(server.url) as shown:
        call = fill(site, redis_server, client)
        sign_in(shown, server, "ada")
        found: dict[str, list[tuple[str, str]]] = {}
        overflow: dict[str, int] = {}
        for name, ready in PAGES.items():
            address = name.replace("CALL", call)
            shown.page.goto(f"{server.url}/{address}{f'#{secret}' if name == 'setup/' else ''}")
            shown.wait_for(" && ".join(f"document.querySelector('{part}')" for part in ready.split(", ")))
            for width, scheme in itertools.product((1440, 360), ("light", "dark")):
                seen = f"{scheme}-{width}-{name.strip('#/').replace('/', '-')}"
                shown.set_size(width, 900)
                shown.set_scheme(scheme)
                overflow[seen] = shown.measure_overflow_px()
                found[seen] = serious(shown, axe)
                if shown.page.locator(".nav [aria-current]").count():
                    overflow[f"{seen} in the row of pages"] = shown.page.evaluate(HIDDEN_PX)
                shown.screenshot(ROOT / "var" / "screenshots" / "access" / f"{seen}.png")
        shown.page.goto(f"{server.url}/#/alerts")
        shown.wait_for("document.querySelector('[data-do=edit]')")
        shown.page.locator("[data-do=edit]").click()
        shown.wait_for("document.querySelector('dialog[open]')")
        found["a rule"] = serious(shown, axe)
        shown.page.goto(f"{server.url}/kiosk/")
        shown.page.locator("#limit").click()
        shown.wait_for("!document.getElementById('form').hidden")
        found["a kiosk"] = serious(shown, axe)
        overflow["a kiosk"] = shown.measure_overflow_px()
        shown.screenshot(ROOT / "var" / "screenshots" / "access" / "kiosk-form.png")
        assert {name: rows for name, rows in found.items() if rows} == {}
        assert {name: pixels for name, pixels in overflow.items() if pixels} == {}
        # The violations have no pictures here.
        shown.problems = [text for text in shown.problems if "404" not in text]
