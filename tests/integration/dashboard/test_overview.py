"""The dashboard in a real browser, against the real web process, with made-up cameras."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from crowdperf.accounts.credentials import SetupSecret
from crowdperf.messaging.schema import CameraGap
from tests.conftest import ROOT, RedisServer, wait_until
from tests.support.browser import dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, serving

pytestmark = pytest.mark.browser
SCREENSHOTS = ROOT / "var" / "screenshots"
ZONE = ZoneInfo(CONFIG["site"]["timezone"])
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
        site.publish_crossing("plaza", "gate", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_total("person", "in", 3)
        site.publish_crossing("plaza", "gate", "in")
        site.publish_crossing("plaza", "gate", "out")
        site.publish_crossing("lobby", "door", "in", "car")
        shown.wait_for_total("person", "in", 4)
        shown.wait_for_total("person", "out", 1)
        shown.wait_for_total("vehicle", "in", 1)
        gate = shown.page.locator("article[data-camera='plaza'] [data-line='gate']")
        wait_until(lambda: gate.inner_text().split() == ["North", "gate", "4", "1"], what="the line's counts")
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
        assert shown.measure_overflow_px() == 0
        shown.screenshot(SCREENSHOTS / f"dashboard-{scheme}-{width}.png")
        shown.page.goto(f"{server.url}/#/system")
        shown.wait_for("document.querySelectorAll('.system tbody tr').length > 5")
        assert shown.measure_overflow_px() == 0


def test_names_from_the_configuration_are_text_and_nothing_else(server: Served, site: SyntheticSite) -> None:
    site.publish_crossing("lobby", "door", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_total("person", "in", 1)
        shown.wait_for("document.querySelectorAll('.event').length === 1")
        assert HOSTILE[:64] in shown.page.locator("article[data-camera='lobby'] h3").inner_text()
        shown.page.goto(f"{server.url}/#/system")
        shown.wait_for("document.querySelectorAll('.system tbody tr').length > 5")
        assert shown.page.evaluate("window.pwned") is None
        assert shown.page.locator("main img, main script").count() == 0


def test_stopped_camera_is_shown_down_without_old_picture(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url) as shown:
        shown.wait_for_picture("plaza")
        site.silence("plaza")
        tile = "article[data-camera='plaza']"
        shown.wait_for(f"document.querySelector(\"{tile} .tile-cover\").textContent.includes('No picture')")
        assert shown.count_shades("plaza") == 1, "the canvas is blank"
        shown.wait_for("document.querySelector('[data-zone=stage] .zone-value').textContent.startsWith('–')")


def test_the_keyboard_opens_a_camera_and_goes_back(server: Served, site: SyntheticSite) -> None:
    site.publish_crossing("plaza", "gate", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_picture("plaza")
        tile = shown.page.locator("article[data-camera='plaza'] a")
        for _ in range(20):
            shown.page.keyboard.press("Tab")
            if tile.evaluate("node => node === document.activeElement"):
                break
        shown.page.keyboard.press("Enter")
        shown.wait_for("document.querySelector('.stage canvas')?.dataset.boxes > 0")
        assert shown.page.locator("h1").inner_text() == "Plaza north"
        shown.wait_for("document.querySelectorAll('.editor .shape').length === 2")
        shown.wait_for("document.querySelector('.today [data-line=gate]').textContent.includes('1')")
        shown.wait_for("document.querySelector('.facts dd').textContent === 'Live'")
        shown.page.go_back()
        shown.wait_for_picture("plaza")
        shown.page.goto(f"{server.url}/#/camera/nosuch")
        shown.wait_for("document.querySelector('main').textContent.includes('no camera nosuch')")


def test_a_line_is_tried_on_the_tracks_of_the_last_minute(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url) as shown:
        shown.page.goto(f"{server.url}/#/camera/plaza")
        shown.page.locator(".shape-item").first.click()
        # Figures walk to the right over a line from the bottom to the top, which is `in` (and jump back at the edge).
        shown.wait_for("/over this line: [1-9]\\d* in/.test(document.querySelector('.tally').textContent)")
        assert shown.page.locator(".handle").count() == 0, "who may not configure moves nothing"


def test_history_shows_what_the_api_counts(server: Served, site: SyntheticSite) -> None:
    noon = datetime.now(ZONE).replace(hour=12, minute=5, second=0, microsecond=0).timestamp()
    for days, crossings in ((1, 3), (8, 2), (40, 5)):
        for _ in range(crossings):
            site.publish_crossing("plaza", "gate", "in", ts=noon - days * 86_400)
    site.publish_crossing("lobby", "door", "out", "car", ts=noon - 86_400)
    gap = CameraGap(id="g", camera="lobby", ts=noon - 86_000, start=noon - 86_400, end=noon - 86_000, cause="stalled")
    site.publish(gap)
    with dashboard(server.url) as shown:
        shown.page.goto(f"{server.url}/#/history")
        shown.page.locator("[data-preset=yesterday]").click()
        shown.wait_for("document.querySelector('[data-figure=in]')?.textContent === '3'")
        assert shown.page.locator("[data-figure=out]").inner_text() == "1"
        assert "Week before: 2 (+50 %)" in shown.page.locator(".card").first.inner_text()
        rows = [row.split() for row in shown.page.locator(".history tbody tr").all_inner_texts()]
        assert [row[-5:-2] for row in rows] == [["0", "1", "-1"], ["3", "0", "3"]]
        shown.page.locator(".history select").first.select_option("plaza")
        shown.wait_for("document.querySelectorAll('.history tbody tr').length === 1")
        assert shown.page.locator("[data-figure=out]").inner_text() == "0"
        shown.page.locator(".history select").first.select_option("")
        shown.page.locator("[data-preset=month]").click()
        shown.wait_for("document.querySelector('[data-figure=in]').textContent === '5'")
        shown.screenshot(SCREENSHOTS / "history.png")
        # The other end follows, so that no more is asked for than the interface gives: a refusal would be a problem.
        long_ago = (datetime.now(ZONE) - timedelta(days=500)).date()
        shown.page.locator(".toolbar input[type=date]").first.fill(long_ago.isoformat())
        shown.wait_for("document.querySelector('[data-figure=in]').textContent === '0'")
        last = shown.page.locator(".toolbar input[type=date]").nth(1).input_value()
        assert last == (long_ago + timedelta(days=399)).isoformat()


def test_every_text_of_the_pages_follows_the_language(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url) as shown:
        shown.page.locator("#language").select_option("de")
        shown.wait_for("document.documentElement.lang === 'de' && document.querySelector('.overview') !== null")
        shown.wait_for_picture("plaza")
        shown.wait_for("document.getElementById('connection').dataset.state === 'live'")
        pages = shown.page.locator(".nav").inner_text().split()
        assert pages == ["Übersicht", "Verlauf", "Alarme", "PSA", "System", "API"]
        assert "Jetzt darin" in shown.page.locator("main").inner_text()


@pytest.mark.parametrize("page", ["camera/plaza", "history"])
@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 3840)])
def test_pages_fit_every_screen(server: Served, site: SyntheticSite, page: str, scheme: str, width: int) -> None:
    with dashboard(server.url, scheme, width, 800) as shown:
        shown.page.goto(f"{server.url}/#/{page}")
        shown.wait_for("document.querySelector('.stage canvas')?.dataset.sequence || document.querySelector('.u-over')")
        assert shown.measure_overflow_px() == 0
        shown.screenshot(SCREENSHOTS / f"{page.split('/')[0]}-{scheme}-{width}.png")


def test_first_administrator_signs_in_by_link_out_and_in_again(server: Served, site: SyntheticSite) -> None:
    secret = SetupSecret(server.paths.sockets).create()
    with dashboard(server.url) as shown:
        page = shown.page
        page.goto(f"{server.url}/setup/#{secret}")
        page.fill("#name", "ada")
        page.fill("#password", "correct horse battery")
        page.fill("#again", "correct horse battery")
        page.click("#submit")
        shown.wait_for("document.querySelector('.account-name')?.textContent === 'ada'")
        page.click("#account button")
        # Who is signed in has a link there as well, to the accounts.
        shown.wait_for("document.querySelector('#account a.button') !== null")
        page.goto(f"{server.url}/#/history")
        page.click("#account a.button")
        page.fill("#name", "ada")
        page.fill("#password", "wrong horse battery")
        page.click("#submit")
        shown.wait_for("document.getElementById('error').textContent.includes('password is wrong')")
        page.fill("#password", "correct horse battery")
        page.click("#submit")
        shown.wait_for("document.querySelector('.history [data-figure=in]') !== null")
        assert page.locator(".account-name").inner_text() == "ada"
        # The browser reports the refusal that this test asks for.
        shown.problems = [text for text in shown.problems if "401" not in text]


def test_the_theme_button_is_remembered(server: Served, site: SyntheticSite) -> None:
    with dashboard(server.url, "light") as shown:
        shown.page.locator("#theme").click()
        shown.open(server.url)
        assert shown.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_first_view_is_small(
    server: Served, site: SyntheticSite, record_property: Callable[[str, object], None]
) -> None:
    sizes: dict[str, int] = {}
    with dashboard(server.url) as shown:

        def weigh(answer: Any) -> None:
            # The live stream has no end to wait for.
            if answer.ok and "/stream" not in answer.url:
                sizes[answer.url] = len(answer.body())

        shown.page.on("response", weigh)
        shown.page.goto("about:blank")
        shown.page.add_init_script(
            """new MutationObserver((_, watching) => {
                if (!document.querySelector('.overview')) return;
                window.interactiveAt = performance.now();
                watching.disconnect();
            }).observe(document, {childList: true, subtree: true});"""
        )
        shown.page.goto(server.url)
        shown.wait_for("window.interactiveAt")
        interactive_ms = shown.page.evaluate("window.interactiveAt")
        wait_until(lambda: shown.page.wait_for_timeout(20) or len(sizes) > 15, what="the files of the page")
    assert sum(sizes.values()) < 200_000
    record_property("figures", f"first view: {sum(sizes.values()) / 1000:.0f} kB, usable after {interactive_ms:.0f} ms")


def test_it_says_that_redis_is_away_and_recovers(
    server: Served, site: SyntheticSite, redis_server: RedisServer
) -> None:
    site.publish_crossing("plaza", "gate", "in")
    with dashboard(server.url) as shown:
        shown.wait_for_total("person", "in", 1)
        site.close()
        redis_server.kill()
        shown.wait_for("document.getElementById('banner').textContent.includes('Redis does not answer')")
        redis_server.start()
        shown.wait_for("document.getElementById('banner').hidden")
        site.publish_crossing("plaza", "gate", "in")
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
