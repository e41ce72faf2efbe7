"""Areas, heatmaps and the system page in a real browser, beside what Redis and the interface say."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from crowdperf.messaging.schema import AreaChanged
from crowdperf.storage import density, occupancy
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.dashboard.test_people import sign_in
from tests.integration.web.test_accounts import People
from tests.support.browser import dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

pytestmark = pytest.mark.browser
SCREENSHOTS = ROOT / "var" / "screenshots"
HALL = {"id": "hall", "name": "Main hall", "limit": 50, "doors": [{"camera": "plaza", "line": "gate"}]}


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with serving(redis_server.url, tmp_path, {**CONFIG, "areas": [HALL]}) as served:
        yield served


@pytest.fixture
def site(server: Served, redis_server: RedisServer) -> Iterator[SyntheticSite]:
    made = SyntheticSite(server.config, server.paths, redis_server.url)
    made.start()
    yield made
    made.close()


def test_area_shows_its_uncertainty_and_follows_events(
    server: Served, site: SyntheticSite, redis_server: RedisServer
) -> None:
    now = occupancy.AreaSnapshot(
        area="hall", occupancy=42, uncertainty=3.2, entries=60, exits=18, since=time.time(), next_reset=None,
        at=time.time(), limit=50, over_limit=False,
    )  # fmt: skip
    occupancy.stage_area(redis_server.client(), now)
    with dashboard(server.url) as shown:
        hall = "document.querySelector('[data-area=hall]')"
        shown.wait_for(f"{hall}?.textContent.includes('42 ± 3 / 50')")
        site.publish(
            AreaChanged(id="a", camera="plaza", ts=time.time(), area="hall", occupancy=53, uncertainty=3.4,
                        entries=71, exits=18, cause="crossing")
        )  # fmt: skip
        shown.wait_for(f"{hall}.textContent.includes('53 ± 3 / 50') && {hall}.dataset.level === 'over'")
        assert shown.measure_overflow_px() == 0


def test_where_people_stood_is_drawn_over_the_picture(
    server: Served, site: SyntheticSite, redis_server: RedisServer
) -> None:
    hour = int(time.time()) // 3600 * 3600
    density.stage(redis_server.client(), "plaza", hour, {9 * 32 + 16: 600, 9 * 32 + 17: 60}, 1)
    with dashboard(server.url) as shown:
        shown.page.goto(f"{server.url}/#/camera/plaza")
        shown.wait_for("document.querySelector('.stage canvas')?.dataset.sequence")
        shown.page.locator("[data-heat=week]").click()
        shown.wait_for("!document.querySelector('canvas.heatmap').hidden")
        alpha = "document.querySelector('canvas.heatmap').getContext('2d').getImageData({}, 9, 1, 1).data[3]"
        assert shown.page.evaluate(alpha.format(16)) > shown.page.evaluate(alpha.format(17)) > 0
        assert shown.page.evaluate(alpha.format(3)) == 0
        assert "10 min" in shown.page.locator(".heat-control").inner_text()
        shown.screenshot(SCREENSHOTS / "heatmap.png")


def test_the_system_page_shows_what_the_interface_says(
    server: Served, site: SyntheticSite, redis_server: RedisServer
) -> None:
    people = People(server, redis_server)
    redis_server.client().xadd("crowdperf:dead:events:recorder", {"_why": "test"})
    for share, value in (("50", 41.6), ("95", 90.2), ("99", 1234.4)):
        site.make_metrics("tracking-0").set_gauge(f"crossing_lag_p{share}_ms", value)
    site.make_metrics("inference").set_gauge("stage_infer_ms", 17.26)
    site.make_metrics("inference").count("stage_infer_s", 0.5)
    with people.browser("ada", "admin") as client, dashboard(server.url, "dark") as shown:
        sign_in(shown, server, "ada")
        shown.page.goto(f"{server.url}/#/system")
        shown.wait_for("document.querySelectorAll('[data-process]').length > 4")

        def agree() -> bool:
            answer = client.get("/api/v1/system").json()
            names = shown.page.evaluate(
                "[...document.querySelectorAll('[data-process]')].map((row) => row.dataset.process)"
            )
            return set(names) == {row["name"] for row in answer["processes"]}

        wait_until(agree, what="page and interface to name the same processes")
        assert "Dead letters: events:recorder: 1" in shown.page.locator(".system").inner_text()
        shown.wait_for("document.querySelector('[data-fact=versions]').textContent.includes('litestar')")
        shown.wait_for("document.querySelector('[data-latency=crossings]')?.textContent.endsWith('42 ms90 ms1,234 ms')")
        assert shown.page.locator("[data-latency=boxes]").inner_text().split()[-3:] == ["–", "–", "–"]
        assert "17.3 ms" in shown.page.locator("[data-stage=infer]").inner_text()
        assert httpx.get(f"{server.url}/api/v1/system", timeout=TIMEOUT_S).status_code == 200
        # The synthetic site writes tracks, but has no inference that writes detections.
        shown.wait_for("document.querySelector('[data-stream=detections] [data-state=bad]')")
        assert "Too few\nPlaza north, Lobby" in shown.page.locator("[data-stream=detections]").inner_text()
        shown.wait_for("document.querySelector('[data-stream=audit] [data-state=good]')")
        shown.set_size(390, 800)
        assert shown.measure_overflow_px() == 0
        shown.set_size(1440, 1600)
        shown.screenshot(SCREENSHOTS / "system.png")
