"""For machines and engineers: is it alive, is it ready, what does it measure, what is wrong."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Response, Router, get

from crowdperf.accounts.principal import Principal
from crowdperf.frames.ring import RingUnavailable
from crowdperf.messaging.process_metrics import decode_snapshot, metrics_key
from crowdperf.messaging.redis.client import NOT_WRITABLE_ERRORS, OUTAGE, RedisPermissionError
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.web import metrics_report
from crowdperf.web import metrics_report as debug
from crowdperf.web.auth import PrincipalDependency
from crowdperf.web.live.pictures import RingState, RingView
from crowdperf.web.parameters import UNAVAILABLE, errors
from crowdperf.web.problems import FORBIDDEN_DETAIL, NO_WRITES_DETAIL, ApiProblem
from crowdperf.web.schemas import Health
from crowdperf.web.state import AppDependency, AppState

MAX_SNAPSHOT_AGE_S = 10.0
PROBE_KEY = "crowdperf:probe"
"""Written, for a moment, to see whether Redis takes writes."""
REQUIRED_PROCESSES = ("inference", "tracking")
"""Kinds of process without which nothing is counted."""


async def read_snapshots(app: AppState) -> list[ProcessSnapshot]:
    """What every process published last.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    # Any: redis-py types its replies differently from release to release.
    client: Any = app.redis
    names = [name async for name in client.scan_iter(match=metrics_key("*", app.prefix), count=1000)]
    decoded = [_decode_snapshot(raw) for raw in (await client.mget(names) if names else [])]
    found = [snapshot for snapshot in decoded if snapshot is not None]
    app.rates.update(found)
    return found


def _decode_snapshot(raw: bytes | None) -> ProcessSnapshot | None:
    """None for a process that ended between the two commands, or is of another version."""
    try:
        return decode_snapshot(raw or b"")
    except msgspec.DecodeError:
        return None


@get("/healthz", need="open", summary="Is the web process alive", tags=["operations"], responses=UNAVAILABLE)
async def healthz(app: AppDependency) -> Health:
    """200 while the process serves. It asks nobody else."""
    if app.get_feed_error() is not None:
        raise ApiProblem(
            HTTPStatus.SERVICE_UNAVAILABLE, "live updates have ended by a defect; the log has the traceback"
        )
    return Health()


@get("/readyz", need="open", summary="Does the site count", tags=["operations"], responses=UNAVAILABLE)
async def readyz(app: AppDependency) -> Health:
    """200 when Redis takes writes and inference and tracking published a snapshot within 10 s; 503 with the reasons."""
    try:
        await app.redis.set(f"{app.prefix}{PROBE_KEY}", b"", px=1)
        reasons = find_problems(await read_snapshots(app), app.now())
    except NOT_WRITABLE_ERRORS as error:
        reasons = [f"{NO_WRITES_DETAIL} ({error}). Remedy: see the disk and memory of its machine."]
    except RedisPermissionError as error:
        reasons = [f"{FORBIDDEN_DETAIL}: {error}"]
    except OUTAGE:
        reasons = ["Redis does not answer"]
    if reasons:
        raise ApiProblem(HTTPStatus.SERVICE_UNAVAILABLE, "the site does not count at present", reasons)
    return Health()


def find_problems(snapshots: list[ProcessSnapshot], now: float) -> list[str]:
    """What of the needed processes is missing or old."""
    reasons = []
    for kind in REQUIRED_PROCESSES:
        of_kind = [row for row in snapshots if row.process == kind or row.process.startswith(f"{kind}-")]
        if not of_kind:
            reasons.append(f"{kind} does not run")
        reasons += [
            f"{row.process} has been silent for {now - row.at:.0f} s"
            for row in of_kind
            if now - row.at > MAX_SNAPSHOT_AGE_S
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
    responses=errors(503),
    media_type="text/plain",
)
async def metrics(app: AppDependency, principal: PrincipalDependency) -> Response[str]:
    """Counters and gauges of every process, text format 0.0.4."""
    found = [filter_snapshot(principal, snapshot) for snapshot in await read_snapshots(app)]
    live = await asyncio.to_thread(_read_live_states, app, principal)
    return Response(
        metrics_report.render(found, live),
        media_type="text/plain",
        headers={"Content-Type": metrics_report.CONTENT_TYPE},
    )


@get(
    "/debug",
    need="read",
    summary="State of every camera and process",
    tags=["operations"],
    responses=errors(503),
)
async def debug_report(app: AppDependency, principal: PrincipalDependency) -> dict[str, Any]:
    """Per camera: frame rates, drops by cause, FFmpeg restarts, last error, ring. Per process: pid, uptime, memory."""
    found = [filter_snapshot(principal, snapshot) for snapshot in await read_snapshots(app)]
    live, rings = await asyncio.to_thread(
        lambda: (_read_live_states(app, principal), _read_ring_states(app, principal))
    )
    return debug.build_report(app.get_cameras(principal), found, app.rates, rings, live, app.now())


def filter_snapshot(principal: Principal, snapshot: ProcessSnapshot) -> ProcessSnapshot:
    """The snapshot without what it says of cameras that `who` may not see."""
    if principal.cameras is None:
        return snapshot

    def cut(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        # A capture process has one camera, and may leave its name out.
        if not principal.can_see(snapshot.process.removeprefix(debug.CAPTURE_PREFIX)) and snapshot.process.startswith(
            debug.CAPTURE_PREFIX
        ):
            return {}
        rows = {
            name: {
                label: value for label, value in row.items() if not label or principal.can_see(label.partition("/")[0])
            }
            for name, row in table.items()
        }
        return {name: row for name, row in rows.items() if row}

    return msgspec.structs.replace(
        snapshot, counters=cut(snapshot.counters), gauges=cut(snapshot.gauges), texts=cut(snapshot.texts)
    )


def _read_live_states(app: AppState, principal: Principal) -> dict[str, bool]:
    return {camera: view.is_live() for camera, view in app.tiles.views.items() if principal.can_see(camera)}


def _read_ring_states(app: AppState, principal: Principal) -> dict[str, RingState | None]:
    return {camera: _read_ring_state(view) for camera, view in app.tiles.views.items() if principal.can_see(camera)}


def _read_ring_state(view: RingView) -> RingState | None:
    try:
        return view.read_state()
    except RingUnavailable:
        return None


router = Router("/", route_handlers=[healthz, readyz, metrics, debug_report])
