"""PPE violations in a real browser: seen with their evidence, judged by mouse, as Redis has them afterwards."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cv2
import httpx
import numpy as np
import pytest

from crowdperf.messaging.codec import encode
from crowdperf.messaging.publisher import Publisher
from crowdperf.messaging.schema import CameraGap, PpeObserved
from crowdperf.messaging.streams import EVENTS, OBSERVATIONS, stream_key
from crowdperf.storage import violations
from crowdperf.storage.evidence import get_picture_path
from tests.conftest import ROOT, RedisServer, wait_until
from tests.integration.dashboard.test_people import sign_in
from tests.integration.web.test_accounts import People
from tests.integration.workers.test_ppe import YARDS, events, observed, running
from tests.support.browser import Dashboard, dashboard
from tests.support.webserver import CONFIG, TIMEOUT_S, serving

pytestmark = pytest.mark.browser


def test_violation_is_shown_with_picture_and_judged(redis_server: RedisServer, tmp_path: Path) -> None:
    cameras = [{"id": name, "name": name.title(), "url": "rtsp://192.0.2.1/"} for name in YARDS]
    begin = time.time() - 30
    publisher: Publisher[PpeObserved] = Publisher(redis_server.client(), OBSERVATIONS)
    # All of it before the worker looks: between two of these sights of half a minute ago the person would be gone.
    for n in range(6):
        publisher.publish(observed("yard", n, begin, no_hardhat=0.8))
    with serving(redis_server.url, tmp_path, {**CONFIG, "cameras": cameras}) as server, running(redis_server, tmp_path):
        wait_until(lambda: len(events(redis_server)) == 2, what="the violation to begin and end")
        (violation,) = {event.violation for event in events(redis_server)}
        for kind in ("crop", "full"):
            path = get_picture_path(server.paths.evidence, "yard", violation, begin, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((120, 60, 3), (60, 140, 200), np.uint8))
        people = People(server, redis_server)
        with people.browser("otto", "operator") as client, dashboard(server.url) as shown:
            sign_in(shown, server, "otto")
            shown.page.locator(".nav [data-page=ppe]").click()
            shown.wait_for("document.querySelector('.evidence img')?.naturalWidth === 60")
            assert "Without hard hat" in shown.page.locator(".violation").inner_text()
            shown.wait_for("document.querySelector('.trend [data-outcome=missing]')?.textContent === '1'")
            shown.screenshot(ROOT / "var" / "screenshots" / "ppe.png")
            shown.set_size(360, 800)
            assert shown.measure_overflow_px() == 0
            shown.page.locator("[data-judge=dismissed]").click()
            shown.wait_for("document.querySelectorAll('.violation').length === 0")
            (view,) = client.get("/api/v1/violations").json()["violations"]
            assert (view["review"], view["by"]) == ("dismissed", "otto")
            shown.page.locator("[data-choice=dismissed]").click()
            shown.wait_for("document.querySelector('.violation')?.dataset.review === 'dismissed'")
            shown.wait_for("document.querySelector('.ppe .facts').textContent.includes('0 % right (0 of 1 judged)')")
        address = f"{server.url}/api/v1/violations/{violation}/picture.jpg"
        assert httpx.get(address, params={"kind": "full"}, timeout=TIMEOUT_S).headers["content-type"] == "image/jpeg"
        assert httpx.get(f"{server.url}/api/v1/violations/nosuch/picture.jpg", timeout=TIMEOUT_S).status_code == 404


ROWS = {
    # Hours after yesterday's midnight -> zone, item, worn, missing, unsure.
    7: [("stage", "hardhat", 3, 1, 2), ("stage", "vest", 5, 0, 0), ("", "hardhat", 1, 1, 0)],
    8: [("stage", "hardhat", 2, 2, 0), ("stage", "vest", 0, 3, 1)],
    9: [("stage", "hardhat", 0, 0, 4)],
    11: [("stage", "hardhat", 9, 1, 0)],
    -30: [("stage", "hardhat", 1, 7, 0)],
}
OUTCOMES = ("worn", "missing", "unsure")


def shares(rows: list[dict[str, Any]], bucket: Any) -> dict[tuple[Any, ...], list[int]]:
    """(bucket, zone, item) -> worn, missing, unsure, of the interface's rows."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        total = sums.setdefault((bucket(row["hour"]), row["zone"], row["item"]), [0, 0, 0])
        for place, outcome in enumerate(OUTCOMES):
            total[place] += row[outcome]
    return sums


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata"])
def test_the_course_of_compliance_is_what_the_interface_says(
    redis_server: RedisServer, tmp_path: Path, zone: str
) -> None:
    clock = ZoneInfo(zone)
    midnight = datetime.now(clock).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    hours = ((midnight + timedelta(days=1)).timestamp() - midnight.timestamp()) / 3600
    # Where the site's hours begin within the world's, the first that begins in its day.
    first = -(-midnight.timestamp() // 3600)
    pipe = redis_server.client().pipeline()
    for after, rows in ROWS.items():
        for place, item, *numbers in rows:
            for outcome, number in zip(OUTCOMES, numbers):
                name = f"plaza/{place}/{item}/{outcome}"
                pipe.hincrby(violations.hour_key(int(first) + after), name, number)
    pipe.execute()
    start = midnight.timestamp() + 10 * 3600
    away = CameraGap(id="g", camera="plaza", ts=start + 900, start=start, end=start + 900, cause="stalled")
    # Under the id that it had when it came.
    redis_server.client().xadd(stream_key(EVENTS), encode(EVENTS, away), id=f"{int(away.ts * 1000)}-0")
    base = {**CONFIG, "site": {"name": "Riverside plaza", "timezone": zone}}
    with serving(redis_server.url, tmp_path, base) as server, dashboard(server.url) as shown:
        shown.page.goto(f"{server.url}/#/ppe")
        shown.page.locator("[data-preset=yesterday]").click()
        shown.wait_for("document.querySelectorAll('.chart tbody tr').length === 7")

        def asked(days: int) -> list[dict[str, Any]]:
            begin = midnight - timedelta(days=days)
            end = midnight + timedelta(days=1)
            query = {"from": begin.isoformat(), "to": end.isoformat()}
            rows: list[dict[str, Any]] = httpx.get(f"{server.url}/api/v1/ppe/figures", params=query).json()[
                "compliance"
            ]
            return rows

        def listed() -> dict[tuple[Any, ...], list[int]]:
            rows = shown.page.evaluate(
                "[...document.querySelectorAll('.chart tbody tr')].map((row) =>"
                " [Number(row.dataset.time), ...[...row.children].map((cell) => cell.textContent)])"
            )
            names = {"Stage": "stage", "whole picture": "", "hard hat": "hardhat", "vest": "vest"}
            return {(row[0], names[row[3]], names[row[4]]): [int(text) for text in row[6:]] for row in rows}

        offset = midnight.timestamp() % 3600
        expected = shares(asked(0), lambda moment: (moment - offset) // 3600 * 3600 + offset)
        assert len(expected) == 7
        assert listed() == expected
        # The chart itself, by mouse: what the legend says of the bucket under the pointer.
        plot = shown.page.locator(".chart .u-over").bounding_box()
        assert plot is not None
        legends = {}
        for place in (7, 8, 9, 10, 11):
            at = (place + 0.5) / hours
            shown.page.mouse.move(plot["x"] + at * plot["width"], plot["y"] + 40)
            legends[place] = shown.page.locator(".line-legend button b").all_inner_texts()
        assert legends == {
            7: ["50 % (1 of 2)", "75 % (3 of 4)", "100 % (5 of 5)"],
            8: ["–", "50 % (2 of 4)", "0 % (0 of 3)"],
            9: ["–", "–", "–"],
            10: ["–", "–", "–"],
            11: ["–", "90 % (9 of 10)", "–"],
        }
        assert "Gaps: 1" in shown.page.locator(".chart details").first.inner_text()
        assert shades(shown) >= {"line-1", "line-2", "line-3", "sunken"}, "lines and the gap are drawn"
        shown.page.locator(".line-legend button", has_text="vest").click()
        assert "line-3" not in shades(shown), "a line can be left out"
        shown.screenshot(ROOT / "var" / "screenshots" / "ppe-trend.png")

        shown.page.locator(".trend .toolbar").get_by_label("Item").select_option("vest")
        shown.wait_for("document.querySelectorAll('.line-legend button').length === 1")
        shown.page.locator(".trend .toolbar").get_by_label("Item").select_option("")
        shown.page.locator("[data-preset=week]").click()
        shown.wait_for("document.querySelectorAll('.chart tbody tr').length === 4")
        day = lambda moment: datetime.fromtimestamp(moment, clock).replace(hour=0, minute=0).timestamp()  # noqa: E731
        assert listed() == shares(asked(5), day)
        shown.set_size(360, 800)
        assert shown.measure_overflow_px() == 0


def shades(shown: Dashboard) -> set[str]:
    """Return the colours of the chart's canvas."""
    return set(
        shown.page.evaluate(
            """() => {
                const canvas = document.querySelector('.chart canvas');
                const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                const seen = new Set();
                for (let at = 0; at < data.length; at += 4) seen.add(data.slice(at, at + 4).join(','));
                const style = getComputedStyle(document.documentElement);
                const names = ['line-1', 'line-2', 'line-3', 'sunken'];
                return names.filter((name) => {
                    const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
                    const parts = hex.length === 3 ? [...hex].map((c) => c + c) : hex.match(/../g);
                    return seen.has([...parts.map((part) => parseInt(part, 16)), 255].join(','));
                });
            }"""
        )
    )
