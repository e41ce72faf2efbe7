"""The site that `./crowdperf.sh run` starts, as its user sees it: config.json as it is shipped, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

from crowdperf.storage import alerts, violations
from crowdperf.visitors.store import Keys
from tests.conftest import ROOT, wait_until
from tests.support.browser import dashboard
from tests.support.site import Site

SCREENSHOT = ROOT / "var" / "screenshots" / "demo_site.png"
"""What the README shows is a copy of it: docs/dashboard.png."""


def test_the_shipped_configuration_shows_live_counts(demo_clips: Path, tmp_path: Path) -> None:
    config = json.loads((ROOT / "config.json").read_text())
    config["web"] = {}
    (tmp_path / "site" / "var").mkdir(parents=True)
    (tmp_path / "site" / "var" / "demo").symlink_to(demo_clips)
    site = Site(tmp_path / "site", config)
    site.config["web"] = {"port": site.port}
    # The folder of the rendered clips is a link here, and links are followed before media_roots are checked.
    site.config["media_roots"] = [str(demo_clips)]
    site.write_config()
    with site:
        site.wait_ready(90)
        cameras = [camera["id"] for camera in config["cameras"]]
        wait_until(lambda: {row.camera for row in site.crossings()} == set(cameras), 90, "a crossing of each camera")
        wait_until(lambda: len(site.crossings()) >= 12, 90, "some crossings")
        client = site.redis()
        assert client.scard(Keys().live) == 5, "the reception has its visitors"
        wait_until(lambda: client.zcard(violations.index_key()), 90, "somebody without a helmet")
        wait_until(lambda: client.zcard(alerts.index_key()), 90, "an alert")
        with dashboard(site.url, "light", 1440, 900) as page:
            for camera in cameras:
                page.wait_for_picture(camera)
                page.wait_for_boxes(camera)
            page.screenshot(SCREENSHOT)
            people = sum(row.klass == "person" for row in site.crossings())
            wait_until(lambda: page.total("person", "in") + page.total("person", "out") >= people, 20, "counts by push")
    assert site.leftovers() == []
