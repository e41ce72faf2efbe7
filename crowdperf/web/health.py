"""Serve /healthz, /readyz, /metrics and /debug."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from litestar import Response, Router, get

from crowdperf.accounts.principal import Principal
from crowdperf.frames.ring import RingUnavailable
from crowdperf.messaging.process_metrics import decode_snapshot, metrics_key
from crowdperf.messaging.redis.client import NOT_WRITABLE_ERRORS, OUTAGE, AnyClient, RedisPermissionError
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.runtime.metrics_table import METRICS, Kind
from crowdperf.web import metrics_report
from crowdperf.web.live.pictures import RingState, RingView
from crowdperf.web.parameters import UNAVAILABLE, errors
from crowdperf.web.problems import FORBIDDEN_DETAIL, NO_WRITES_DETAIL, ApiProblem
from crowdperf.web.rates import StreamRate
from crowdperf.web.schemas import Health
from crowdperf.web.state import AppDependency, AppState, ContextDependency, RequestContext

T = TypeVar("T")
MAX_SNAPSHOT_AGE_S = 10.0
PROBE_KEY = "crowdperf:probe"
"""Written for a moment, to see whether Redis accepts writes."""
REQUIRED_PROCESSES = ("inference", "tracking")
"""Processes that counting needs."""


async def read_snapshots(app: AppState) -> list[ProcessSnapshot]:
    """Read the newest snapshot of every process.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis does not answer.
    """
    client: AnyClient = app.redis
    names = [name async for name in client.scan_iter(match=metrics_key("*", app.prefix), count=1000)]
    decoded = [_decode_snapshot(raw) for raw in (await client.mget(names) if names else [])]
    snapshots = [snapshot for snapshot in decoded if snapshot is not None]
    app.rates.update(snapshots)
    return snapshots


def _decode_snapshot(raw: bytes | None) -> ProcessSnapshot | None:
    """Decode a snapshot. None: its process ended between the two commands, or has another version."""
    try:
        return decode_snapshot(raw or b"")
    except msgspec.DecodeError:
        return None


@get("/healthz", need="open", summary="Is the web process alive", tags=["operations"], responses=UNAVAILABLE)
async def healthz(app: AppDependency) -> Health:
    """200 while the web process serves. Other processes are not asked."""
    if app.get_feed_error() is not None:
        raise ApiProblem(
            HTTPStatus.SERVICE_UNAVAILABLE, "live updates have ended by a defect; the log has the traceback"
        )
    return Health()


@get("/readyz", need="open", summary="Does the site count", tags=["operations"], responses=UNAVAILABLE)
async def readyz(app: AppDependency) -> Health:
    """200 while Redis accepts writes and inference and tracking run; 503 with the reasons otherwise."""
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
    """List which needed processes do not run, are silent, or have no model."""
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
                row.get_text("last_error") or "inference is loading its model"
                for row in of_kind
                if not row.get_text("model")
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
async def metrics(context: ContextDependency) -> Response[str]:
    """Counters, gauges and histograms of every process, text format 0.0.4."""
    snapshots = filter_snapshots(context, await read_snapshots(context.app))
    live = await asyncio.to_thread(_read_views, context, RingView.is_live)
    return Response(
        metrics_report.render(snapshots, live, await _measure_streams(context)),
        media_type="text/plain",
        headers={"Content-Type": metrics_report.CONTENT_TYPE},
    )


@get("/debug", need="read", summary="State of every camera and process", tags=["operations"], responses=errors(503))
async def debug_report(context: ContextDependency) -> dict[str, Any]:
    """Per camera: frame rates, drops, FFmpeg restarts, last error, ring. Per process: pid, uptime, memory.

    Per stream: expected and measured rate; `streams_ok` is false where they part.
    """
    app = context.app
    snapshots = filter_snapshots(context, await read_snapshots(app))
    rings = await asyncio.to_thread(_read_views, context, lambda view: (view.is_live(), _read_ring_state(view)))
    streams = await _measure_streams(context)
    return {
        "streams_ok": all(row.state in ("ok", "unknown") for row in streams),
        "streams": streams,
        "cameras": {
            camera.id: metrics_report.build_camera_report(
                camera, snapshots, app.rates, *rings.get(camera.id, (False, None))
            )
            for camera in context.get_cameras()
        },
        "processes": {
            row.process: metrics_report.build_process_report(row, app.rates, app.now())
            for row in sorted(snapshots, key=lambda row: row.process)
        },
    }


async def _measure_streams(context: RequestContext) -> list[StreamRate]:
    rates = await context.app.stream_rates.measure(context.app.redis, context.app.config)
    return [row for row in rates if not row.camera or context.principal.can_see(row.camera)]


def can_see_program(context: RequestContext, name: str) -> bool:
    """Check whether the principal may see a program: that of a camera has the camera's id in its name."""
    head, _, camera = name.partition("-")
    if head != "capture" or context.principal.can_see(camera):
        return True
    # The program of a group names no camera.
    is_camera = any(row.id == camera for row in context.app.config.cameras)
    return not is_camera and re.fullmatch(r"group-\d+", camera) is not None


def filter_snapshots(context: RequestContext, snapshots: list[ProcessSnapshot]) -> list[ProcessSnapshot]:
    """Remove what a principal with a list of cameras may not see: processes and values of others.

    Values of areas and channels are removed as well.
    """
    if context.principal.cameras is None:
        return snapshots
    return [_filter_values(context.principal, row) for row in snapshots if can_see_program(context, row.process)]


def _filter_values(principal: Principal, snapshot: ProcessSnapshot) -> ProcessSnapshot:
    def is_visible(kind: Kind, name: str, key: str) -> bool:
        spec = METRICS.get((kind, name))
        labels = spec.split_key(key) if spec else [("unknown", name)]
        return not labels or (labels[0][0] == "camera" and principal.can_see(labels[0][1]))

    def filter_table(kind: Kind, table: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        rows = {
            name: {key: value for key, value in row.items() if is_visible(kind, name, key)}
            for name, row in table.items()
        }
        return {name: row for name, row in rows.items() if row}

    return msgspec.structs.replace(
        snapshot,
        counters=filter_table("counter", snapshot.counters),
        gauges=filter_table("gauge", snapshot.gauges),
        texts=filter_table("text", snapshot.texts),
    )


def _read_views(context: RequestContext, read: Callable[[RingView], T]) -> dict[str, T]:
    """Read the rings of the visible cameras. Blocks for a moment: call it in a thread."""
    views = context.app.tiles.views.items()
    return {camera: read(view) for camera, view in views if context.principal.can_see(camera)}


def _read_ring_state(view: RingView) -> RingState | None:
    try:
        return view.read_state()
    except RingUnavailable:
        return None


router = Router("/", route_handlers=[healthz, readyz, metrics, debug_report])
