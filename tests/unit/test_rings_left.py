"""A run of the tests finds the rings that it has left in shared memory."""

from __future__ import annotations

from pathlib import Path

from crowdperf.frames.segment import open_folder
from crowdperf.settings.environment import Paths
from tests.support import rings


def test_what_a_test_or_its_site_leaves_is_found(tmp_path: Path) -> None:
    site = Paths(tmp_path / "site" / "var")
    site.data.mkdir(parents=True)
    own = rings.make_ring_path("lobby").parent
    both = {site.rings, own}
    assert not both & rings.find_leftovers(tmp_path)
    try:
        open_folder(site.rings)
        open_folder(own)
        assert both <= rings.find_leftovers(tmp_path)
    finally:
        site.rings.rmdir()
    rings.remove_made()
    assert not both & rings.find_leftovers(tmp_path)
