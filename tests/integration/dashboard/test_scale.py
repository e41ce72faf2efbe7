"""The dashboard of a large site, and of a long day: what is not seen costs nothing, what is old is let go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer, wait_until
from tests.support.browser import Dashboard, dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, serving

pytestmark = pytest.mark.browser
CAMERAS = 100
ROUNDS = 60 if os.environ.get("CROWDPERF_LONG") else 3
EVENTS = 400
"""Per round."""
GROWTH = 1.15
"""Of heap and nodes from the second round to the last."""


@pytest.fixture
def large(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[Served, SyntheticSite]]:
    line = {"id": "door", "name": "Door", "p1": [0.2, 0.6], "p2": [0.8, 0.6]}
    cameras = [
        {"id": f"camera-{number:03}", "url": f"rtsp://192.0.2.{number}/", "lines": [line]} for number in range(CAMERAS)
    ]
    with serving(redis_server.url, tmp_path, {**CONFIG, "cameras": cameras}) as served:
        site = SyntheticSite(served.config, served.paths, redis_server.url)
        yield served, site
        site.close()


def test_of_a_hundred_cameras_only_those_on_the_screen_are_sent(large: tuple[Served, SyntheticSite]) -> None:
    server, site = large
    with dashboard(server.url) as shown:

        def watched() -> float:
            gauges = server.runtime.metrics.snapshot("web", 0).gauges
            return gauges.get("live_cameras_watched", {}).get("", 0)

        def shows(camera: str) -> None:
            """One frame is enough, unless a busy machine looks at it when it is too old to be shown."""

            def shown_now() -> bool:
                site.write_frame(camera, 0.0)
                return shown.page.evaluate(
                    f"'sequence' in document.querySelector('[data-camera={camera}] canvas').dataset"
                )

            wait_until(shown_now, what=f"the picture of {camera}")

        shown.wait_for(f"document.querySelectorAll('.tile').length === {CAMERAS}")
        wait_until(lambda: 0 < watched() < CAMERAS / 4, what="only visible tiles to be watched")
        shows("camera-000")
        tile = "document.querySelector('[data-camera=camera-000] canvas').dataset"
        assert int(shown.page.evaluate(f"{tile}.width")) < 640, "a small tile gets a small picture"
        shown.page.locator("article[data-camera='camera-099']").scroll_into_view_if_needed()
        shows("camera-099")
        wait_until(lambda: 0 < watched() < CAMERAS / 4, what="only visible tiles to be watched")
        assert shown.measure_overflow_px() == 0


def test_the_page_says_what_it_has_received(large: tuple[Served, SyntheticSite]) -> None:
    """What the quality of its pictures is chosen by."""
    server, site = large
    with dashboard(server.url) as shown:
        with shown.page.expect_websocket() as live:
            shown.page.reload()
        with live.value.expect_event("framesent", lambda frame: '"seen":' in frame and '"seen":0' not in frame):
            site.write_frame("camera-000", 0.0)


def test_a_tab_that_stays_open_does_not_grow(redis_server: RedisServer, tmp_path: Path) -> None:
    with serving(redis_server.url, tmp_path) as server:
        site = SyntheticSite(server.config, server.paths, redis_server.url)
        site.start()
        try:
            with dashboard(server.url) as shown:
                shown.wait_for_picture("plaza")
                sizes = [fill(shown, site, number + 1) for number in range(ROUNDS)]
        finally:
            site.close()
    (heap, nodes), (heap_then, nodes_then) = sizes[1], sizes[-1]
    assert heap_then < GROWTH * heap, sizes
    assert nodes_then < GROWTH * nodes, sizes


def fill(shown: Dashboard, site: SyntheticSite, number: int) -> tuple[float, int]:
    """Publish a round of crossings and visit every page; return bytes of the heap and number of nodes."""
    for _ in range(EVENTS):
        site.publish_crossing("plaza", "gate", "in")
    for page in ("history", "camera/plaza", "system", ""):
        shown.page.evaluate(f"location.hash = '#/{page}'")
        shown.wait_for(f"document.querySelector('main > [data-page={page.split('/')[0] or 'overview'}]') !== null")
    shown.wait_for_total("person", "in", EVENTS * number)
    session = shown.page.context.new_cdp_session(shown.page)
    session.send("HeapProfiler.collectGarbage")
    counters = session.send("Memory.getDOMCounters")
    heap = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return heap, counters["nodes"]
