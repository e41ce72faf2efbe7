"""For machines and engineers: is it alive, is it ready, what does it measure, what is wrong."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Response, Router, get

from crowdperf.accounts.permissions import Principal
from crowdperf.events.clients import Forbidden
from crowdperf.events.connection import NO_WRITES, OUTAGE
from crowdperf.events.metrics import decode, metrics_key
from crowdperf.frames.ring import RingUnavailable
from crowdperf.runtime import Snapshot
from crowdperf.web import debug, prometheus
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import REFUSED, UNAVAILABLE
from crowdperf.web.pictures import RingState, RingView
from crowdperf.web.problems import FORBIDS, REFUSES, Problem
from crowdperf.web.replies import Health

FRESH_S = 10.0
PROBE = "crowdperf:probe"
"""Written, for a moment, to see whether Redis takes writes."""
NEEDED = ("inference", "tracking")
"""Kinds of process without which nothing is counted."""


async def snapshots(site: Context) -> list[Snapshot]:
    """What every process published last.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    # Any: redis-py types its replies differently from release to release.
    client: Any = site.redis
    names = [name async for name in client.scan_iter(match=metrics_key("*", site.prefix), count=1000)]
    decoded = [_decoded(raw) for raw in (await client.mget(names) if names else [])]
    found = [snapshot for snapshot in decoded if snapshot is not None]
    site.rates.see(found)
    return found


def _decoded(raw: bytes | None) -> Snapshot | None:
    """None for a process that ended between the two commands, or is of another version."""
    try:
        return decode(raw or b"")
    except msgspec.DecodeError:
        return None


@get("/healthz", need="open", summary="Is the web process alive", tags=["operations"], responses=UNAVAILABLE)
async def healthz(site: SiteContext) -> Health:
    """200 while the process serves. It asks nobody else."""
    if site.feed_error() is not None:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "live updates have ended by a defect; the log has the traceback")
    return Health()


@get("/readyz", need="open", summary="Does the site count", tags=["operations"], responses=UNAVAILABLE)
async def readyz(site: SiteContext) -> Health:
    """200 when Redis takes writes and inference and tracking published a snapshot within 10 s; 503 with the reasons."""
    try:
        await site.redis.set(f"{site.prefix}{PROBE}", b"", px=1)
        reasons = unready(await snapshots(site), site.now())
    except NO_WRITES as error:
        reasons = [f"{REFUSES} ({error}). Remedy: see the disk and memory of its machine."]
    except Forbidden as error:
        reasons = [f"{FORBIDS}: {error}"]
    except OUTAGE:
        reasons = ["Redis does not answer"]
    if reasons:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the site does not count at present", reasons)
    return Health()


def unready(found: list[Snapshot], now: float) -> list[str]:
    """What of the needed processes is missing or old."""
    reasons = []
    for kind in NEEDED:
        of_kind = [row for row in found if row.process == kind or row.process.startswith(f"{kind}-")]
        if not of_kind:
            reasons.append(f"{kind} does not run")
        reasons += [
            f"{row.process} has been silent for {now - row.at:.0f} s" for row in of_kind if now - row.at > FRESH_S
        ]
        if kind == "inference":
            reasons += [
                row.texts.get("last_error", {}).get("") or "inference is loading its model"
                for row in of_kind
                if not row.texts.get("model", {}).get("")
            ]
    return reasons


@get(
    "/metrics",
    need="read",
    summary="Prometheus metrics",
    tags=["operations"],
    responses={**REFUSED, **UNAVAILABLE},
    media_type="text/plain",
)
async def metrics(site: SiteContext, who: Who) -> Response[str]:
    """Counters and gauges of every process, text format 0.0.4."""
    found = [seen_by(who, snapshot) for snapshot in await snapshots(site)]
    live = await asyncio.to_thread(_live, site, who)
    return Response(
        prometheus.render(found, live), media_type="text/plain", headers={"Content-Type": prometheus.CONTENT_TYPE}
    )


@get(
    "/debug",
    need="read",
    summary="State of every camera and process",
    tags=["operations"],
    responses={**REFUSED, **UNAVAILABLE},
)
async def debug_report(site: SiteContext, who: Who) -> dict[str, Any]:
    """Per camera: frame rates, drops by cause, FFmpeg restarts, last error, ring. Per process: pid, uptime, memory."""
    found = [seen_by(who, snapshot) for snapshot in await snapshots(site)]
    live, rings = await asyncio.to_thread(lambda: (_live(site, who), _rings(site, who)))
    return debug.report(site.cameras(who), found, site.rates, rings, live, site.now())


def seen_by(who: Principal, snapshot: Snapshot) -> Snapshot:
    """The snapshot without what it says of cameras that `who` may not see."""
    if who.cameras is None:
        return snapshot

    def cut(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        # A capture process has one camera, and may leave its name out.
        if not who.sees(snapshot.process.removeprefix(debug.CAPTURE)) and snapshot.process.startswith(debug.CAPTURE):
            return {}
        rows = {
            name: {label: value for label, value in row.items() if not label or who.sees(label.partition("/")[0])}
            for name, row in table.items()
        }
        return {name: row for name, row in rows.items() if row}

    return msgspec.structs.replace(
        snapshot, counters=cut(snapshot.counters), gauges=cut(snapshot.gauges), texts=cut(snapshot.texts)
    )


def _live(site: Context, who: Principal) -> dict[str, bool]:
    return {camera: view.live() for camera, view in site.tiles.views.items() if who.sees(camera)}


def _rings(site: Context, who: Principal) -> dict[str, RingState | None]:
    return {camera: _ring(view) for camera, view in site.tiles.views.items() if who.sees(camera)}


def _ring(view: RingView) -> RingState | None:
    try:
        return view.state()
    except RingUnavailable:
        return None


router = Router("/", route_handlers=[healthz, readyz, metrics, debug_report])
