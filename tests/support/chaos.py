"""Faults while a demo camera plays, kill -9 of every kind of process first of all, and what was counted meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crowdperf.demo.ground_truth import SceneTruth
from crowdperf.messaging.redis.client import OUTAGE
from tests.conftest import wait_until
from tests.support.matching import Passage, match_crossings
from tests.support.rtsp_server import Mount, RtspServer
from tests.support.site import Site
from tests.support.sources import began_at, counted, demo_camera, demo_truth, true_passages

KINDS = ("capture", "inference", "tracking", "worker", "web", "redis")
"""Kinds of processes that are killed one at a time."""
FAULTS = ("full", "group", "everything", "readers", "clock", "programs")
"""A Redis that takes no writes, a lost consumer group, kill -9 of all programs at once, clients that never read, a wall
clock that leaps ahead and back, and more programs that fail at once than supervisord's events usually have room for."""
FULL_S = 1.5
"""How long Redis takes no writes: longer than the ring holds frames for."""
STALLED_READERS = 20
LEAPS_S = (10 * 365 * 86_400.0, 7200.0)
"""How far the clock leaps, as with an empty battery and with a wrong time zone; the largest first."""
BYSTANDERS = 30
BYSTANDER = """[program:bystander-{number}]
command=sh -c "test ! -e {outage} && exec sleep 86400"
startsecs=1
startretries=1
stdout_logfile=NONE
stderr_logfile=NONE
"""
"""A program beside the site's own; supervisord gives it up at its second failed start."""
LATE_S = 1.5
"""A counted crossing carries the time of the first sample beyond the line's dead band, after capture's delay."""
STREAMS = ("crowdperf:events", "crowdperf:detections:plaza")
SETTLE_S = 600.0
"""A time that lies so long before a storm is not one of it; storms end well within the smallest leap."""
DELAY_S = 0.5
"""A frame bears the time when capture read it, 0.1 to 0.3 s after what it shows (seen on two busy cores): by so much a
gap begins, and ends, late on the truth's clock."""
FRESH_S = 0.5
"""A frame from so long after a kill was captured, and analysed, by what is left or has come back."""
MECHANISMS = {
    "checkpoint": (
        "tracking/shard.py",
        "stored = self._client.get(state_key(camera.camera_id, self._prefix))",
        "stored, self._consumer.positions[key] = None, STREAM_START",
    ),
    "dedupe": ("storage/counts.py", "track=event.track", 'track=__import__("time").monotonic_ns()'),
}
"""Where each is in the code: file, text, and the text that takes it away."""


class Recovery(NamedTuple):
    """What followed one fault, in seconds after it."""

    kind: str
    restarted_s: float | None
    """Until supervisord had started its new process; None where none was killed."""
    analysed_s: float
    """Until a frame captured `FRESH_S` after the kill had been analysed."""


class Storm(NamedTuple):
    """All faults of a run, and when they were, in Unix seconds."""

    began: float
    ended: float
    recoveries: list[Recovery]


class Verdict(NamedTuple):
    """What became of every true crossing, and what was counted besides."""

    true: int
    stored: int
    """True crossings that are stored."""
    twice: list[str]
    """Ids that are in the history more than once."""
    published_twice: list[str]
    """Ids that are in the events more than once."""
    published_otherwise: set[str]
    """Ids that only history or only the events have."""
    missed: int
    gaps: list[tuple[float, float]]
    """What the site itself says it may have missed."""
    unexplained: list[Passage]
    """Missed outside every gap."""
    surplus: list[Passage]
    """Counted without a true crossing."""

    @property
    def gap_s(self) -> float:
        """Seconds that lie in gaps."""
        return sum(end - start for start, end in self.gaps)


def mixed(kills: int, rng: random.Random) -> list[str]:
    """Return so many victims, of each kind as many as of any other, in a random order."""
    order = [KINDS[number % len(KINDS)] for number in range(kills)]
    rng.shuffle(order)
    return order


@contextlib.contextmanager
def plaza(demo_clips: Path, folder: Path, without: Sequence[str] = ()) -> Iterator[tuple[Site, Mount]]:
    """Yield a site with one camera that plays the sparse scene again and again; mechanisms of its code taken away."""
    mount = Mount(demo_clips / "demo_sparse.mp4", fps=10, loop=True, shared_clock=True)
    clock = folder / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    environment = {"PYTHONPATH": str(Path(__file__).parent / "leaping_clock"), "CROWDPERF_TEST_CLOCK": str(clock)}
    with RtspServer({"plaza": mount}) as server:
        truth = demo_truth(demo_clips, "demo_sparse")
        site = Site(folder / "site", {"cameras": [demo_camera("plaza", truth, server.url("plaza"))]}, environment)
        site.paths.supervisor.mkdir()
        (site.paths.supervisor / "bystanders.conf").write_text(
            "".join(BYSTANDER.format(number=number, outage=outage_file(site)) for number in range(BYSTANDERS))
        )
        for mechanism in without:
            site.patch_code(*MECHANISMS[mechanism])
        with site:
            site.wait_ready(90)
            wait_until(lambda: analysed(site), 60, "the first analysed frame")
            yield site, mount


def analysed(site: Site) -> int:
    """Newest analysed frame as tracking published it (milliseconds); 0 while there is none."""
    rows = site.redis().xrevrange("crowdperf:tracks:plaza", count=1)
    if not rows:
        return 0
    entry, _ = rows[0]
    assert isinstance(entry, bytes)
    return int(entry.split(b"-")[0])


def storm(site: Site, kinds: Sequence[str], rng: random.Random) -> Storm:
    """Cause one fault of each of these kinds (of `KINDS` or `FAULTS`), one after the other."""
    began, recoveries = time.time() + 1.0, []
    with contextlib.ExitStack() as readers:
        for kind in kinds:
            if kind in KINDS:
                victim = rng.choice(sorted(name for name in site.get_pids() if name.partition("-")[0] == kind))
                recoveries.append(kill(site, victim))
            else:
                recoveries.append(inject(site, kind, rng, readers))
            let_pass(rng.uniform(0.5, 4.0))
        ended = time.time()
        let_pass(4)
        site.wait_for_pids()
        site.run_ctl("stop", "capture-plaza")
        wait_until(lambda: not site.list_unread_streams(["plaza"]), 60, "everything analysed is recorded")
    return Storm(began, ended, recoveries)


def kill(site: Site, victim: str) -> Recovery:
    """kill -9, then wait until it runs again and frames flow again."""
    pid = site.wait_for_pid(victim)
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    site.wait_for_pid(victim, pid)
    restarted_s = time.time() - killed_at
    wait_until(lambda: is_analysing(site, killed_at), 90, f"frames are analysed again after {victim} was killed")
    return Recovery(victim.partition("-")[0], restarted_s, time.time() - killed_at)


def inject(site: Site, fault: str, rng: random.Random, readers: contextlib.ExitStack) -> Recovery:
    """Cause one of `FAULTS`, then wait until frames flow again; stalled readers stay until `readers` is closed."""
    began, restarted_s = time.time(), None
    if fault == "full":
        client: Any = site.redis()
        limit = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        let_pass(FULL_S)
        client.config_set("maxmemory", limit)
    elif fault == "group":
        client = site.redis()
        names = [(key, row["name"]) for key in STREAMS for row in client.xinfo_groups(key)]
        client.xgroup_destroy(*rng.choice(sorted(names)))
    elif fault == "everything":
        # Bystanders that have just failed stay down: the guard starts them, and nobody waits for it here.
        before = {name: pid for name, pid in site.get_pids().items() if pid}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        for name, pid in before.items():
            site.wait_for_pid(name, pid)
        restarted_s = time.time() - began
    elif fault == "clock":
        set_clock(site, rng.choice(LEAPS_S))
        wait_until(lambda: has_leapt(site), 60, "tracking sees the leap")
        wait_until(lambda: is_analysing(site, began), 90, "frames are analysed after the leap")
        began = time.time()
        set_clock(site, 0.0)
    elif fault == "programs":
        fail_bystanders(site)
    else:
        for _ in range(STALLED_READERS):
            readers.enter_context(open_stalled_reader(site))
    wait_until(lambda: is_analysing(site, began), 90, f"frames are analysed again after {fault}")
    return Recovery(fault, restarted_s, time.time() - began)


def set_clock(site: Site, lead_s: float) -> None:
    """Let the clock of all the site's programs be so far ahead, from now on."""
    with Path(site.environment["CROWDPERF_TEST_CLOCK"]).open("r+b", buffering=0) as file:
        file.write(struct.pack("d", lead_s))


def has_leapt(site: Site) -> bool:
    """Check whether tracking's clock is ahead of this process's."""
    snapshot = site.read_snapshot("tracking-0")
    return snapshot is not None and snapshot.at - time.time() > min(LEAPS_S) / 2


def outage_file(site: Site) -> Path:
    """Return the file that keeps bystanders from starting."""
    return site.folder / "outage"


def fail_bystanders(site: Site) -> None:
    """Let all bystanders fail at once. They may start again afterwards; nobody waits for it here."""
    outage_file(site).touch()
    for name, pid in site.get_pids().items():
        if name.startswith("bystander-") and pid:
            os.kill(pid, signal.SIGKILL)

    def have_failed() -> bool:
        return sum(state == "FATAL" for state in site.get_states().values()) >= BYSTANDERS

    wait_until(have_failed, 60, "supervisord gives all bystanders up")
    outage_file(site).unlink()


def open_stalled_reader(site: Site) -> socket.socket:
    """Ask for the live pictures of every camera, and never read any."""
    site.wait_for_web()
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", site.port))
    reader.sendall(
        b"GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    return reader


def let_pass(seconds: float) -> None:
    """Let the camera's time go on: what is tested is when the next kill comes, nothing waits for an effect."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, seconds + 5, "the pause between two kills")


def is_analysing(site: Site, killed_at: float) -> bool:
    """Check whether a frame from after the kill has been analysed."""
    try:
        return analysed(site) > (killed_at + FRESH_S) * 1000
    except OUTAGE:
        return False


def without_leap(ts: float, began: float) -> float:
    """Return the true time of what a site saw in a storm since `began`, also where its clock had leapt."""
    return next((ts - leap for leap in LEAPS_S if ts - leap > began - SETTLE_S), ts)


def judge(site: Site, mount: Mount, truth: SceneTruth, began: float, ended: float) -> Verdict:
    """Compare what the site has stored and published with the truth."""
    stored_ids = Counter(row.id for row in site.read_crossings())
    published = Counter(event["id"] for event in site.read_events("LineCrossed"))
    true = [row for row in true_passages(truth, began_at(mount), ended) if row.at >= began]
    rows = [row._replace(at=without_leap(row.at, began)) for row in counted(site, "plaza")]
    result = match_crossings(true, rows, LATE_S)
    gaps = [
        (without_leap(float(row["start"]), began), without_leap(float(row["end"]), began))
        for row in site.read_events("CameraGap")
    ]
    return Verdict(
        true=len(true),
        stored=len(result.pairs),
        twice=[name for name, times in stored_ids.items() if times > 1],
        published_twice=[name for name, times in published.items() if times > 1],
        published_otherwise=set(published) ^ set(stored_ids),
        missed=len(result.missed),
        gaps=gaps,
        unexplained=[row for row in result.missed if not any(start - DELAY_S <= row.at <= end for start, end in gaps)],
        surplus=[row for row in result.surplus if began + LATE_S < row.at < ended - LATE_S],
    )
