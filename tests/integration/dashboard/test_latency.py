"""How long a crossing takes from Redis to the figure on an open page: by push, in a real browser."""

from __future__ import annotations

import time

import pytest

from tests.support.browser import dashboard
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import Served

pytestmark = pytest.mark.browser
CROSSINGS = 40
FIGURE = "[data-total='person.in']"
WATCH = f"""() => {{
    window.shown = {{}};
    const node = document.querySelector("{FIGURE}");
    const note = () => {{ window.shown[node.textContent] ??= performance.timeOrigin + performance.now(); }};
    new MutationObserver(note).observe(node, {{childList: true, characterData: true, subtree: true}});
}}"""


def test_a_crossing_is_on_the_page_at_once(server: Served, site: SyntheticSite, record_property) -> None:
    site.start()
    with dashboard(server.url) as shown:
        shown.wait_for_picture("plaza")
        site.publish_crossing("plaza", "gate", "in")
        shown.wait_for_total("person", "in", 1)
        shown.page.evaluate(WATCH)
        asked: list[str] = []
        shown.page.on("request", lambda request: asked.append(request.url))
        sent = []
        for number in range(CROSSINGS):
            sent.append(time.time())
            site.publish_crossing("plaza", "gate", "in")
            shown.wait_for_total("person", "in", number + 2)
        seen = shown.page.evaluate("window.shown")
        late = sorted(seen[str(number + 2)] - at * 1e3 for number, at in enumerate(sent))
        # Totals come by push alone. The chart of hours is a request, seconds after a crossing.
        assert [url for url in asked if ("/counts" in url and "group=hour" not in url) or "/stream" in url] == []
    assert len(late) == CROSSINGS, "the page was never loaded anew, and showed every figure"
    record_property(
        "figures",
        f"a crossing from its publication in Redis to the figure on the page, live pictures beside it: "
        f"p50 {late[len(late) // 2]:.0f} ms, p90 {late[int(len(late) * 0.9)]:.0f} ms, largest {late[-1]:.0f} ms",
    )
