"""The site that `./crowdperf.sh run` starts, as its user sees it: config.json as it is shipped, in a real browser."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from crowdperf.accounts.credentials import SetupSecret
from crowdperf.storage import alerts, violations
from crowdperf.visitors.visit_store import VisitKeys
from tests.conftest import ROOT, wait_until
from tests.support.browser import Dashboard, dashboard
from tests.support.site import Site

pytestmark = pytest.mark.browser
SCREENSHOT = ROOT / "var" / "screenshots" / "demo_site.png"
"""What the README shows is a copy of it: docs/dashboard.png."""
CAMERAS = ("plaza", "gate")


@pytest.fixture(scope="module")
def site(demo_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run the demo site until it has data of every kind; at its end no process may be left."""
    folder = tmp_path_factory.mktemp("demo") / "site"
    config = json.loads((ROOT / "config.json").read_text())
    config["web"] = {}
    (folder / "var").mkdir(parents=True)
    (folder / "var" / "demo").symlink_to(demo_clips)
    made = Site(folder, config)
    made.config["web"] = {"port": made.port}
    # The folder of the rendered clips is a link here, and links are followed before media_roots are checked.
    made.config["media_roots"] = [str(demo_clips)]
    made.write_config()
    with made:
        made.wait_ready(90)
        wait_until(
            lambda: {row.camera for row in made.read_crossings()} == set(CAMERAS), 90, "a crossing of each camera"
        )
        wait_until(lambda: len(made.read_crossings()) >= 12, 90, "some crossings")
        client = made.redis()
        wait_until(lambda: client.zcard(violations.index_key()), 90, "somebody without a helmet")
        wait_until(lambda: client.zcard(alerts.index_key()), 90, "an alert")
        yield made
    assert made.find_leftovers() == []


def counted(site: Site, direction: str) -> int:
    """People over all lines today, as Redis holds them."""
    zone = ZoneInfo(site.config["site"]["timezone"])
    midnight = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    return sum(
        row.class_name == "person" and row.direction == direction and row.ts >= midnight
        for row in site.read_crossings()
    )


def agree(site: Site, page: Dashboard, direction: str) -> bool:
    """Check that page, API and Redis have the same number now."""
    reply = site.get(f"/api/v1/counts?class=person&direction={direction}")
    return page.read_total("person", direction) == reply["total"] == counted(site, direction)


def test_the_shipped_configuration_shows_live_counts(site: Site) -> None:
    assert site.redis().scard(VisitKeys().live) == 5, "the reception has its visitors"
    with dashboard(site.url, "light", 1440, 900) as page:
        for camera in CAMERAS:
            page.wait_for_picture(camera)
            page.wait_for_boxes(camera)
        page.wait_for("document.querySelector('.alert-row') !== null")
        page.wait_for("document.querySelector('[data-area=forecourt] .zone-value').textContent !== '–'")
        page.screenshot(SCREENSHOT)
        for direction in ("in", "out"):
            wait_until(lambda direction=direction: agree(site, page, direction), 30, "page, API and Redis to agree")


def test_down_camera_violation_and_visitor_are_handled_by_mouse(site: Site) -> None:
    secret = SetupSecret(site.paths.sockets).read()
    assert secret, "a new site has a setup link"
    with dashboard(site.url, "dark", 1440, 900) as page:
        page.page.on("dialog", lambda dialog: dialog.accept())
        page.page.goto(f"{site.url}/setup/#{secret}")
        for field in ("name", "password", "again"):
            page.page.fill(f"#{field}", "ada" if field == "name" else "correct horse battery")
        page.page.click("#submit")
        page.wait_for("document.querySelector('.account-name') !== null")

        killed = site.wait_for_pid("capture-gate")
        os.kill(killed, signal.SIGKILL)
        site.wait_for_pid("capture-gate", killed)
        page.wait_for_picture("gate", 60_000)
        for direction in ("in", "out"):
            wait_until(lambda direction=direction: agree(site, page, direction), 30, "page, API and Redis to agree")

        page.page.locator(".nav [data-page=ppe]").click()
        page.wait_for("document.querySelector('[data-judge=acknowledged]') !== null")
        first = page.page.locator(".violation").first.get_attribute("data-violation")
        page.page.locator(f"[data-violation='{first}'] [data-judge=acknowledged]").click()
        gone = json.dumps(f"[data-violation='{first}']")
        page.wait_for(f"document.querySelector({gone}) === null")
        row = site.redis().hgetall(violations.violation_key(str(first)))
        assert (row[b"review"], row[b"by"]) == (b"acknowledged", b"ada")

        page.page.locator(".nav [data-page=visitors]").click()
        page.wait_for("document.querySelector('[data-action=check-in]') !== null")
        visit = page.page.locator("tr:has([data-action='check-in'])").first.get_attribute("data-visit")
        page.page.locator(f"tr[data-visit='{visit}'] [data-action='check-in']").click()
        pill = json.dumps(f"tr[data-visit='{visit}'] .pill")
        page.wait_for(f"document.querySelector({pill})?.textContent === 'checked in'")
        assert site.redis().hget(VisitKeys().visit(str(visit)), "state") == b"checked_in"
        # The camera's end breaks off its stream for a moment; evidence may come after its violation.
        page.problems = [text for text in page.problems if "404" not in text]
