"""The dashboard in a real browser, against the real web process, with made-up cameras."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, RedisServer
from tests.support.browser import dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, serving

pytestmark = pytest.mark.browser
SCREENSHOTS = ROOT / "var" / "screenshots"
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    base = copy.deepcopy(CONFIG)
    base["cameras"][1]["name"] = HOSTILE[:64]
    base["cameras"][1]["lines"][0]["name"] = HOSTILE[:64]
    base["cameras"][1]["zones"][0]["name"] = HOSTILE[:64]
    with serving(redis_server.url, tmp_path, base) as served:
        yield served


@pytest.fixture
def site(server: Served, redis_server: RedisServer) -> Iterator[SyntheticSite]:
    made = SyntheticSite(server.config, server.paths, redis_server.url)
    made.start()
    yield made
    made.close()


def test_counts_come_by_push_and_cameras_show_live_pictures(server: Served, site: SyntheticSite) -> None:
    for _ in range(3):
        site.cross("plaza", "gate", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_total("person", "in", 3)
        site.cross("plaza", "gate", "in")
        site.cross("plaza", "gate", "out")
        site.cross("lobby", "door", "in", "car")
        shown.wait_for_total("person", "in", 4)
        shown.wait_for_total("person", "out", 1)
        shown.wait_for_total("vehicle", "in", 1)
        gate = shown.page.locator("article[data-camera='plaza'] [data-line='gate']")
        assert gate.inner_text().split() == ["North", "gate", "4", "1"]
        shown.wait_for_picture("plaza")
        shown.wait_for_picture("lobby")
        shown.wait_for("document.querySelector('[data-zone=stage] .zone-value').textContent.includes('/ 4')")
        shown.wait_for("document.querySelectorAll('.event').length === 6")
        shown.wait_for("document.querySelector('.strip dd').textContent === '2 of 2'")
        shown.screenshot(SCREENSHOTS / "dashboard.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 780), (1440, 900), (3840, 2160)])
def test_it_fits_every_screen_in_both_themes(
    server: Served, site: SyntheticSite, scheme: str, width: int, height: int
) -> None:
    with dashboard(server.url, scheme, width, height) as shown:
        assert shown.page.evaluate("document.documentElement.dataset.theme") == scheme
        shown.wait_for_picture("plaza")
        assert shown.overflow_px() == 0
        shown.screenshot(SCREENSHOTS / f"dashboard-{scheme}-{width}.png")
        shown.page.goto(f"{server.url}/#/system")
        shown.wait_for("document.querySelectorAll('.system tbody tr').length > 5")
        assert shown.overflow_px() == 0


def test_names_from_the_configuration_are_text_and_nothing_else(server: Served, site: SyntheticSite) -> None:
    site.cross("lobby", "door", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_total("person", "in", 1)
        shown.wait_for("document.querySelectorAll('.event').length === 1")
        assert HOSTILE[:64] in shown.page.locator("article[data-camera='lobby'] h3").inner_text()
        shown.page.goto(f"{server.url}/#/system")
        shown.wait_for("document.querySelectorAll('.system tbody tr').length > 5")
        assert shown.page.evaluate("window.pwned") is None
        assert shown.page.locator("main img, main script").count() == 0


def test_a_camera_that_stops_is_shown_as_down_without_its_old_picture(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url) as shown:
        shown.wait_for_picture("plaza")
        site.silence("plaza")
        tile = "article[data-camera='plaza']"
        shown.wait_for(f"document.querySelector(\"{tile} .tile-cover\").textContent.includes('No picture')")
        assert shown.shades("plaza") == 1, "the canvas is blank"
        shown.wait_for("document.querySelector('[data-zone=stage] .zone-value').textContent.startsWith('–')")


def test_the_keyboard_enlarges_a_camera_and_esc_closes_it(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url) as shown:
        shown.wait_for_picture("plaza")
        tile = shown.page.locator("article[data-camera='plaza'] button")
        for _ in range(20):
            shown.page.keyboard.press("Tab")
            if tile.evaluate("node => node === document.activeElement"):
                break
        shown.page.keyboard.press("Enter")
        shown.wait_for("document.querySelector('dialog').open")
        shown.wait_for("document.querySelector('dialog canvas').dataset.sequence")
        shown.page.keyboard.press("Escape")
        shown.wait_for("!document.querySelector('dialog').open")
        assert tile.evaluate("node => node === document.activeElement"), "the focus is back where it was"


def test_the_theme_button_is_remembered(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url, "light") as shown:
        shown.page.locator("#theme").click()
        shown.open(server.url)
        assert shown.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_it_says_that_redis_is_away_and_recovers(
    server: Served, site: SyntheticSite, redis_server: RedisServer
) -> None:
    site.cross("plaza", "gate", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_total("person", "in", 1)
        site.close()
        redis_server.kill()
        shown.wait_for("document.getElementById('banner').textContent.includes('Redis does not answer')")
        redis_server.start()
        shown.wait_for("document.getElementById('banner').hidden")
        site.cross("plaza", "gate", "in")
        shown.wait_for_total("person", "in", 2)
        # The requests that met the outage are the point of this test, not a defect of the page.
        shown.problems = [text for text in shown.problems if "503" not in text]


def test_a_site_without_cameras_says_what_to_do(redis_server: RedisServer, tmp_path: Path) -> None:
    with serving(redis_server.url, tmp_path, {"site": {"name": "New site"}}) as server, dashboard(server.url) as shown:
        assert "No cameras yet" in shown.page.locator("main").inner_text()


def test_the_api_page_works_under_the_strict_policy(server: Served) -> None:
    with dashboard(server.url) as shown:
        shown.page.goto(f"{server.url}/docs/")
        shown.wait_for("document.querySelectorAll('.operation').length >= 10")
        assert "/api/v1/counts" in shown.page.locator("main").inner_text()
