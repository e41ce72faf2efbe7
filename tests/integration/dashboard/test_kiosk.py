"""The kiosk reads a badge's code with its device's camera: a real Chromium whose camera shows a film of a phone."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import segno

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.dashboard.test_people import sign_in
from tests.support.browser import dashboard
from tests.support.people import People
from tests.support.webserver import CONFIG, Served, serving

pytestmark = pytest.mark.browser


@pytest.fixture
def server(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base = {**CONFIG, "visitors": {"briefing": "Mind the forklifts."}}
    with serving(redis_server.url, tmp_path_factory.mktemp("web"), base) as served:
        yield served


def film(code: str, folder: Path) -> Path:
    """Render a video of a phone with the code, slightly rotated and blurred."""
    picture, path = folder / "code.png", folder / "phone.mjpeg"
    segno.make(code, error="q", micro=False).save(str(picture), scale=8, border=4)
    filters = "scale=260:260,pad=640:480:(ow-iw)/2:(oh-ih)/2:gray,rotate=0.15:c=gray,gblur=0.9,fps=10,format=yuvj420p"
    command = [
        "-loglevel",
        "error",
        "-loop",
        "1",
        "-i",
        str(picture),
        "-t",
        "2",
        "-vf",
        filters,
        "-q:v",
        "4",
        str(path),
    ]
    subprocess.run([find_ffmpeg(), *command], check=True)
    return path


def test_a_code_that_is_held_up_checks_in_once(server: Served, redis_server: RedisServer, tmp_path: Path) -> None:
    people = People(server, redis_server)
    with people.browser("rita", "reception") as desk:
        visit = desk.post("/api/v1/visits", json={"name": "Grace Hopper", "host": "Ada", "walk_in": True}).json()
        flags = (
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={film(visit['code'], tmp_path)}",
        )
        with dashboard(server.url, flags=flags) as shown:
            sent: list[str] = []
            shown.page.on("request", lambda request: sent.append(request.url) if "/kiosk/" in request.url else None)
            sign_in(shown, server, "rita")
            shown.page.goto(f"{server.url}/kiosk/")
            shown.page.locator("#limit").click()
            shown.page.locator("#briefing").check()
            shown.page.locator("#camera").click()
            shown.wait_for("document.getElementById('done').textContent.includes('Welcome, Grace Hopper')")
            shown.screenshot(ROOT / "var" / "screenshots" / "kiosk.png")
            reads = int(shown.page.locator("#view").get_attribute("data-reads") or 0)
            shown.wait_for(f"Number(document.getElementById('view').dataset.reads) >= {reads + 3}")
            assert state(desk, visit["id"]) == "checked_in", "it stays in sight: nobody has left"
            assert [url.rpartition("/")[2] for url in sent if "/api/" in url] == [visit["code"]]
            shown.page.locator("#camera").click()
            assert shown.page.locator("#view").is_hidden()
            # Without the camera as before: the same code, typed.
            shown.page.locator("#code").fill(visit["code"])
            shown.page.locator("#submit").click()
            wait_until(lambda: state(desk, visit["id"]) == "checked_out", what="the check-out")


def test_a_link_makes_a_browser_the_kiosk(server: Served, redis_server: RedisServer) -> None:
    people = People(server, redis_server)
    with people.browser("root", "admin") as root, dashboard(server.url) as shown:
        link = root.post("/api/v1/kiosks", json={"name": "entrance"}).json()["link"]
        shown.page.goto(server.url + link)
        shown.page.locator("#briefing").wait_for()
        assert shown.page.url == f"{server.url}/kiosk/", "the secret leaves the address"
        shown.page.goto(server.url)
        shown.page.locator("#code").wait_for()
        assert shown.page.url == f"{server.url}/kiosk/", "it has no other page"
        # Many a tablet starts with a stored address: the link, which has been opened.
        shown.page.goto("about:blank")
        shown.page.goto(server.url + link)
        shown.page.locator("#briefing").wait_for()
        assert shown.page.locator("#error").is_hidden()


def state(desk: httpx.Client, visit: str) -> str:
    return str(desk.get(f"/api/v1/visits/{visit}").json()["state"])


def test_a_code_counts_again_when_it_was_out_of_sight(server: Served) -> None:
    shows = """async () => {
        const { Sight, AWAY_MS } = await import("/js/sight.js");
        const sight = new Sight();
        const later = 1000 + AWAY_MS;
        return [["A", 0], ["A", 900], ["A", later], ["B", later + 1], ["B", later + 2], ["A", later + 3],
            ["A", 2 * later + 4]].map(([code, at]) => sight.shows(code, at));
    }"""
    with dashboard(server.url) as shown:
        assert shown.page.evaluate(shows) == [True, False, True, True, False, True, True]


def test_the_kiosk_alone_may_use_a_camera(server: Served) -> None:
    def policy(path: str) -> str:
        return httpx.get(f"{server.url}{path}").headers["Permissions-Policy"]

    assert "camera=(self)" in policy("/kiosk/")
    for path in ("/", "/login/", "/api/v1/kiosk/X", "/js/kiosk.js"):
        assert "camera=()" in policy(path), path
