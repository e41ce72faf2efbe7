"""kill -9 of every kind of process while a demo camera plays: all comes back, and every crossing is there once.

The short form kills each three times. CROWDPERF_LONG=1 kills each twenty times, and then shows that the verdict falls
when a mechanism that it rests on is taken out of the code (cheaper controls of the same mechanisms, at the shard and at
the recorder, are always run: tests/integration/test_tracking_shard.py, test_workers.py).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from crowdperf.demo.truth import Truth
from crowdperf.events.connection import OUTAGE
from tests.conftest import wait_until
from tests.support.matching import match
from tests.support.rtsp_server import Mount, RtspServer
from tests.support.site import Site
from tests.support.sources import began_at, counted, demo_camera, demo_truth, true_passages

pytestmark = pytest.mark.alone
LONG = os.environ.get("CROWDPERF_LONG") == "1"
ROUNDS = 20 if LONG else 3
KINDS = ("capture", "inference", "tracking", "worker", "web", "redis")
LATE_S = 1.5
"""A counted crossing carries the time of the first sample beyond the line's dead band, after capture's delay."""
SLACK_S = 1.0
MECHANISMS = {
    "checkpoint": ("tracking/shard.py", "= self._client.get(state_key(camera.camera_id, self._prefix))", "= None"),
    "dedupe": ("storage/crossings.py", "track=event.track", 'track=__import__("time").monotonic_ns()'),
}
"""Where each is in the code: file, text, and the text that takes it away."""


@contextmanager
def plaza(demo_clips: Path, folder: Path, without: Sequence[str] = ()) -> Iterator[tuple[Site, Mount]]:
    """A site with one camera that plays the sparse scene again and again; mechanisms of its code taken away."""
    mount = Mount(demo_clips / "demo_sparse.mp4", fps=10, loop=True, shared_clock=True)
    with RtspServer({"plaza": mount}) as server:
        truth = demo_truth(demo_clips, "demo_sparse")
        # Two instances of each worker that counts: what one says twice, or neither, is found.
        workers = {"recorder": 2, "areas": 2, "housekeeping": 2}
        camera = demo_camera("plaza", truth, server.url("plaza"))
        site = Site(folder / "site", {"cameras": [camera], "workers": workers})
        for mechanism in without:
            site.change_code(*MECHANISMS[mechanism])
        with site:
            site.wait_ready(90)
            wait_until(lambda: analysed(site), 60, "the first analysed frame")
            yield site, mount


def analysed(site: Site) -> int:
    """Newest analysed frame as tracking published it (milliseconds); 0 while there is none."""
    rows = site.redis().xrevrange("crowdperf:tracks:plaza", count=1)
    return int(rows[0][0].split(b"-")[0]) if rows else 0


def storm(site: Site, kinds: Sequence[str], rng: random.Random) -> tuple[float, float]:
    """Kill one program of each kind, one after the other; Unix seconds of the beginning and the end."""
    began = time.time() + 1.0
    for kind in kinds:
        kill(site, rng.choice(sorted(name for name in site.pids() if name.partition("-")[0] == kind)))
        let_pass(rng.uniform(0.5, 4.0))
    ended = time.time()
    let_pass(4)
    site.ctl("stop", "capture-plaza")
    wait_until(lambda: not site.unread(["plaza"]), 60, "everything analysed is recorded")
    return began, ended


def kill(site: Site, victim: str) -> None:
    """kill -9, then wait until it runs again and frames flow again."""
    pid = site.pids()[victim]
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.pids().get(victim, 0) not in (0, pid), 60, f"{victim} is started again")
    wait_until(lambda: goes_on(site, killed_at), 90, f"frames are analysed again after {victim} was killed")


def let_pass(seconds: float) -> None:
    """Let the camera's time go on: what is tested is when the next kill comes, nothing waits for an effect."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, seconds + 5, "the pause between two kills")


def goes_on(site: Site, killed_at: float) -> bool:
    """Whether a frame from after the kill has been analysed."""
    try:
        return analysed(site) > (killed_at + 0.5) * 1000
    except OUTAGE:
        return False


def verdict(site: Site, mount: Mount, truth: Truth, began: float, ended: float) -> str:
    """Every true crossing is stored exactly once or lies inside a recorded gap; the figures.

    Raises:
        AssertionError: not so.
    """
    stored_ids = Counter(row.id for row in site.crossings())
    twice = [name for name, times in stored_ids.items() if times > 1]
    assert twice == [], f"stored twice: {twice}"
    said = Counter(event["id"] for event in site.events("LineCrossed"))
    twice = [name for name, times in said.items() if times > 1]
    assert twice == [], f"said twice: {twice}"
    assert set(said) == set(stored_ids)
    true = [row for row in true_passages(truth, began_at(mount), ended) if row.at >= began]
    result = match(true, counted(site, "plaza"), LATE_S)
    gaps = [(float(row["start"]), float(row["end"])) for row in site.events("CameraGap")]
    unexplained = [
        row for row in result.missed if not any(start - SLACK_S <= row.at <= end + SLACK_S for start, end in gaps)
    ]
    surplus = [row for row in result.surplus if began + LATE_S < row.at < ended - LATE_S]
    assert unexplained == [], f"missed outside every gap {gaps}"
    assert surplus == [], f"counted without a true crossing; gaps {gaps}"
    assert len(result.pairs) >= len(true) / 2, "so much lies in gaps that nothing was tested"
    lost_s = sum(end - start for start, end in gaps)
    return (
        f"{len(true)} true crossings, {len(result.pairs)} stored once, {len(result.missed)} in {len(gaps)} recorded "
        f"gaps of {lost_s:.0f} s in all"
    )


def test_every_crossing_survives_kill_9_of_anything(
    demo_clips: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(20)
    order = list(KINDS) * ROUNDS
    rng.shuffle(order)
    with plaza(demo_clips, tmp_path) as (site, mount):
        began, ended = storm(site, order, rng)
        figures = verdict(site, mount, demo_truth(demo_clips, "demo_sparse"), began, ended)
    record_property("figures", f"chaos: {len(order)} kills, {figures}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("without", "complaint"), [(["checkpoint"], "said twice"), (["checkpoint", "dedupe"], "stored twice")]
)
def test_without_its_mechanisms_the_verdict_falls(
    without: list[str], complaint: str, demo_clips: Path, tmp_path: Path
) -> None:
    with plaza(demo_clips, tmp_path, without) as (site, mount):
        wait_until(lambda: len(site.crossings()) >= 3, 60, "some crossings that can come again")
        began, ended = storm(site, ["tracking"] * 2, random.Random(21))
        with pytest.raises(AssertionError, match=complaint):
            verdict(site, mount, demo_truth(demo_clips, "demo_sparse"), began, ended)
