"""PPE violations in a real browser: seen with their evidence, judged by mouse, as Redis has them afterwards."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from crowdperf.events.bus import Publisher
from crowdperf.events.schema import PpeObserved
from crowdperf.events.streams import OBSERVATIONS
from crowdperf.storage.evidence import picture_path
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.test_dashboard_people import sign_in
from tests.integration.test_ppe_worker import YARDS, events, observed, running
from tests.integration.test_web_accounts import People
from tests.support.browser import dashboard
from tests.support.webserver import CONFIG, serving

pytestmark = pytest.mark.browser


def test_a_violation_is_shown_with_its_picture_and_judged_by_mouse(redis_server: RedisServer, tmp_path: Path) -> None:
    cameras = [{"id": name, "name": name.title(), "url": "rtsp://192.0.2.1/"} for name in YARDS]
    begin = time.time() - 30
    with serving(redis_server.url, tmp_path, {**CONFIG, "cameras": cameras}) as server, running(redis_server, tmp_path):
        publisher: Publisher[PpeObserved] = Publisher(redis_server.client(), OBSERVATIONS)
        for n in range(6):
            publisher.publish(observed("yard", n, begin, no_hardhat=0.8))
        wait_until(lambda: len(events(redis_server)) == 2, what="the violation to begin and end")
        (violation,) = {event.violation for event in events(redis_server)}
        for kind in ("crop", "full"):
            path = picture_path(server.paths.evidence, "yard", violation, begin, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((120, 60, 3), (60, 140, 200), np.uint8))
        people = People(server, redis_server)
        with people.browser("otto", "operator") as client, dashboard(server.url) as shown:
            sign_in(shown, server, "otto")
            shown.page.locator(".nav [data-page=ppe]").click()
            shown.wait_for("document.querySelector('.evidence img')?.naturalWidth === 60")
            assert "Without hard hat" in shown.page.locator(".violation").inner_text()
            shown.wait_for("document.querySelector('[data-outcome=missing]')?.textContent === '1'")
            shown.screenshot(ROOT / "var" / "screenshots" / "ppe.png")
            shown.size(360, 800)
            assert shown.overflow_px() == 0
            shown.page.locator("[data-judge=dismissed]").click()
            shown.wait_for("document.querySelectorAll('.violation').length === 0")
            (view,) = client.get("/api/v1/violations").json()["violations"]
            assert (view["review"], view["by"]) == ("dismissed", "otto")
            shown.page.locator("[data-choice=dismissed]").click()
            shown.wait_for("document.querySelector('.violation')?.dataset.review === 'dismissed'")
            shown.wait_for("document.querySelector('.ppe .facts').textContent.includes('0 % right (0 of 1 judged)')")
        address = f"{server.url}/api/v1/violations/{violation}/picture.jpg"
        assert httpx.get(address, params={"kind": "full"}).headers["content-type"] == "image/jpeg"
        assert httpx.get(f"{server.url}/api/v1/violations/nosuch/picture.jpg").status_code == 404
