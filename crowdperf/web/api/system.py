"""The installation: processes, queues, dead letters, models, capacity, versions and free resources."""

from __future__ import annotations

import asyncio
import platform
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import psutil
from litestar import Router, get, post
from litestar.params import PathParameter
from msgspec import Meta, Struct

from crowdperf.messaging.codec import dead_key
from crowdperf.runtime.control_group import find_usable_cores
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.runtime.metrics_table import DROP_CAUSES
from crowdperf.runtime.timings import STAGES
from crowdperf.settings.base import ConfigError
from crowdperf.supervision.control import SupervisorClient
from crowdperf.supervision.processes import PROCESSES
from crowdperf.web.health import can_see_program, filter_snapshots, read_snapshots
from crowdperf.web.parameters import errors, format_rfc3339
from crowdperf.web.problems import ApiProblem
from crowdperf.web.schemas import Time
from crowdperf.web.state import AppState, ContextDependency, RequestContext

PACKAGES = (
    "crowdperf", "litestar", "msgspec", "numpy", "openvino", "redis", "supervisor", "torch", "ultralytics", "uvicorn",
)  # fmt: skip
STAGES_DESCRIPTION = (
    "collect: find the due frames. copy: out of the ring. preprocess: colour, scaling, padding. infer: the network. "
    "postprocess: boxes out of its output. publish: encode and send. ppe: the second model, all its stages."
)
LATENCY_GAUGES: tuple[tuple[Literal["boxes", "tracks", "crossings"], str], ...] = (
    ("boxes", "frame_age"),
    ("tracks", "tracking_lag"),
    ("crossings", "crossing_lag"),
)
"""Latency -> the gauges that the processes publish."""
ProcessPath = Annotated[str, PathParameter(description="The program's name.", max_length=64)]


class ProcessReply(Struct, kw_only=True):
    """One program of supervisord, with the newest metrics of its process."""

    name: str
    state: Annotated[str, Meta(examples=["RUNNING"])]
    description: str
    pid: int
    started: Time | None
    rss_bytes: int | None = None
    cpu_percent: float | None = None
    does: str = ""


class QueueReply(Struct, kw_only=True):
    """One consumer group of one stream."""

    stream: str
    group: str
    length: int
    pending: int
    """Delivered but not acknowledged."""
    lag: int | None
    """Not delivered yet; null if Redis does not know."""


class DeadLettersReply(Struct, kw_only=True):
    """Messages that a consumer could not handle; `crowdperf dead-letters` shows and redrives them."""

    box: str
    letters: int


class MachineReply(Struct, kw_only=True):
    """Free resources of the machine."""

    cores: Annotated[int, Meta(description="That this site may use: fewer than the machine's by a CPU quota.")]
    cpu_percent: float
    memory_bytes: int
    memory_free_bytes: int
    shm_bytes: int
    shm_free_bytes: int
    disk_free_bytes: int


class CapacityReply(Struct, kw_only=True):
    """Load of the inference process, and what it has left."""

    fps_analysed: float
    infer_ms: float
    """Per batch."""
    batch_size: float
    busy: float
    """Share of the time in use; near 1 nothing is left."""
    drops_per_s: float
    cameras_left: int | None
    """How many more cameras of the present rate would fit; null while idle."""


class LatencyReply(Struct, kw_only=True):
    """Milliseconds from a picture's first byte to its results, over the newest thousand.

    Null before the first. Of several tracking processes the slowest is shown.
    """

    what: Annotated[
        Literal["boxes", "tracks", "crossings"],
        Meta(description="Published boxes, tracks with occupancy, or crossings among the events."),
    ]
    p50_ms: Annotated[float | None, Meta(examples=[48.2])]
    p95_ms: Annotated[float | None, Meta(examples=[90.5])]
    p99_ms: Annotated[float | None, Meta(examples=[120.0])]


class StageReply(Struct, kw_only=True):
    """Time that one stage of inference takes."""

    stage: Annotated[str, Meta(description=STAGES_DESCRIPTION, examples=["infer"])]
    ms_per_frame: Annotated[float, Meta(description="Recent mean.", examples=[21.4])]
    share: Annotated[float, Meta(description="Recent share of the process's time.", examples=[0.31])]


class SystemReply(Struct, kw_only=True):
    """State of the installation."""

    supervised: bool
    """False: supervisord does not answer, so only processes with metrics are listed."""
    processes: list[ProcessReply]
    queues: list[QueueReply]
    dead_letters: list[DeadLettersReply]
    models: dict[str, str]
    capacity: CapacityReply
    latency: list[LatencyReply]
    stages: list[StageReply]
    """Empty while inference is not running."""
    machine: MachineReply
    versions: dict[str, str]


class RestartReply(Struct, kw_only=True):
    """The programs that restart now."""

    restarts: list[str]


@get("/system", need="read", summary="The installation", responses=errors(503))
async def system(context: ContextDependency) -> SystemReply:
    """Return processes, queues and their lags, dead letters, models, capacity and versions."""
    snapshots = await read_snapshots(context.app)
    visible = filter_snapshots(context, snapshots)
    rows, machine = await asyncio.gather(
        asyncio.to_thread(_read_program_table, Path(context.app.config.sockets)),
        asyncio.to_thread(_measure_machine, Path(context.app.config.sockets)),
    )
    by_name = {row.process: row for row in visible}
    listed: list[dict[str, Any]] = [{"name": row.process, "pid": row.pid, "start": row.started_at} for row in visible]
    return SystemReply(
        supervised=rows is not None,
        processes=[
            _to_process_reply(context.app, row, by_name.get(row["name"]))
            for row in rows or listed
            if can_see_program(context, row["name"])
        ],
        queues=await _read_queues(context),
        dead_letters=await _count_dead_letters(context.app),
        models={
            role: next(filter(None, (row.get_text(name) for row in snapshots)), "")
            for role, name in (("person", "model"), ("ppe", "ppe_model"), ("device", "device"))
        },
        capacity=_estimate_capacity(context.app, snapshots),
        latency=[_to_latency_reply(snapshots, what, name) for what, name in LATENCY_GAUGES],
        stages=_measure_stages(context.app, snapshots),
        machine=machine,
        versions=_read_versions(),
    )


@post(
    "/system/processes/{name:str}/restart",
    need="admin",
    summary="Restart a program",
    status_code=202,
    responses=errors(400, 404, 503),
)
async def restart(context: ContextDependency, name: ProcessPath) -> RestartReply:
    """Restart programs by supervisord, as `crowdperf ctl restart` does.

    `name` is a program, or a kind (capture, tracking, worker).
    """
    control = SupervisorClient(Path(context.app.config.sockets) / "supervisor.sock")
    try:
        names = await asyncio.to_thread(control.resolve_names, name)
    except ConfigError as error:
        programs = await asyncio.to_thread(_read_program_table, Path(context.app.config.sockets))
        status = HTTPStatus.SERVICE_UNAVAILABLE if programs is None else HTTPStatus.NOT_FOUND
        raise ApiProblem(status, str(error)) from None
    await context.write_audit_entry("process.restart", name, ", ".join(names))
    await context.app.config_client.restart_programs(names)
    return RestartReply(restarts=names)


def _read_program_table(sockets: Path) -> list[dict[str, Any]] | None:
    """Read supervisord's table; None if it does not answer."""
    try:
        return SupervisorClient(sockets / "supervisor.sock").list_programs()
    except ConfigError:
        return None


def _to_process_reply(app: AppState, row: dict[str, Any], snapshot: ProcessSnapshot | None) -> ProcessReply:
    name = str(row["name"])
    kind = next((item for item in PROCESSES if name == item.kind or name.startswith(f"{item.kind}-")), None)
    return ProcessReply(
        name=name,
        state=str(row.get("statename", "RUNNING")),
        description=str(row.get("description", "")),
        pid=int(row["pid"]),
        started=format_rfc3339(float(row["start"])) if row.get("start") and row["pid"] else None,
        rss_bytes=snapshot.rss_bytes if snapshot else None,
        cpu_percent=round(app.rates.get_cpu_percent(snapshot), 1) if snapshot else None,
        does=kind.description if kind else "",
    )


async def _read_queues(context: RequestContext) -> list[QueueReply]:
    """Read every consumer group of the streams that have one."""
    prefix = context.app.prefix
    names = [f"{prefix}crowdperf:detections:{camera.id}" for camera in context.get_cameras() if camera.enabled]
    names += [f"{prefix}crowdperf:{name}" for name in ("events", "observations", "evidence:requests")]
    pipe = context.app.redis.pipeline(transaction=False)
    for name in names:
        pipe.xlen(name)
        pipe.xinfo_groups(name)
    replies = await pipe.execute(raise_on_error=False)
    queues: list[QueueReply] = []
    for name, length, groups in zip(names, replies[::2], replies[1::2]):
        # For a stream that does not exist yet, Redis returns an error.
        queues += [
            QueueReply(
                stream=name.removeprefix(prefix),
                group=group["name"].decode(),
                length=int(length),
                pending=int(group["pending"]),
                lag=None if group.get("lag") is None else int(group["lag"]),
            )
            for group in (groups if isinstance(groups, list) else ())
        ]
    return queues


async def _count_dead_letters(app: AppState) -> list[DeadLettersReply]:
    start = dead_key("", "", app.prefix)[:-1]
    names = sorted([name.decode() async for name in app.redis.scan_iter(match=f"{start}*", count=1000)])
    return [DeadLettersReply(box=name.removeprefix(start), letters=await app.redis.xlen(name)) for name in names]


def _to_latency_reply(
    snapshots: list[ProcessSnapshot], what: Literal["boxes", "tracks", "crossings"], name: str
) -> LatencyReply:
    """Return the slowest process's latency: boxes come from inference, the others from tracking."""
    kind = "inference" if what == "boxes" else "tracking-"
    of_kind = [row for row in snapshots if row.process.startswith(kind)]

    def find_worst(share: int) -> float | None:
        values = [row.get_gauge(f"{name}_p{share}_ms") for row in of_kind]
        return max((round(value, 1) for value in values if value is not None), default=None)

    return LatencyReply(what=what, p50_ms=find_worst(50), p95_ms=find_worst(95), p99_ms=find_worst(99))


def _measure_stages(app: AppState, snapshots: list[ProcessSnapshot]) -> list[StageReply]:
    """Measure the stages of inference (`stage_<name>_s`), in the order of a picture's way."""
    model = next((row for row in snapshots if row.process == "inference"), None)
    return [
        StageReply(
            stage=stage,
            ms_per_frame=round(model.get_gauge(f"stage_{stage}_ms") or 0.0, 2),
            share=round(app.rates.get_rate(model, f"stage_{stage}_s") or 0.0, 4),
        )
        for stage in STAGES
        if model and model.get_counter(f"stage_{stage}_s") is not None
    ]


def _estimate_capacity(app: AppState, snapshots: list[ProcessSnapshot]) -> CapacityReply:
    """Estimate how many cameras still fit, by the time of all stages of the inference loop."""
    model = next((row for row in snapshots if row.process == "inference"), None)
    rates = [rate for rate in model.gauges.get("fps_analysed", {}).values() if rate] if model else []
    infer_ms, batch = ((model.get_gauge(name) if model else None) or 0.0 for name in ("infer_ms", "batch_size"))
    fps = sum(rates)
    # Publishing has its own thread and needs no time of the loop.
    busy = min(1.0, sum(row.share for row in _measure_stages(app, snapshots) if row.stage != "publish"))
    drops = 0.0
    if model:
        for name in (f"drops_{cause}" for cause in DROP_CAUSES):
            drops += sum(app.rates.get_rate(model, name, camera) or 0.0 for camera in model.counters.get(name, {}))
    # 0.85: a model that is always busy has no room for cameras that send at the same moment.
    left = int(max(0.0, 0.85 - busy) / (busy / len(rates))) if rates and busy else None
    return CapacityReply(
        fps_analysed=round(fps, 2),
        infer_ms=round(infer_ms, 2),
        batch_size=round(batch, 2),
        busy=round(busy, 3),
        drops_per_s=round(drops, 2),
        cameras_left=left,
    )


def _measure_machine(folder: Path) -> MachineReply:
    memory, shm = psutil.virtual_memory(), psutil.disk_usage("/dev/shm")
    return MachineReply(
        cores=find_usable_cores().whole,
        cpu_percent=psutil.cpu_percent(),
        memory_bytes=memory.total,
        memory_free_bytes=memory.available,
        shm_bytes=shm.total,
        shm_free_bytes=shm.free,
        disk_free_bytes=psutil.disk_usage(str(folder if folder.exists() else Path("/"))).free,
    )


def _read_versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "kernel": platform.release()}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name in PACKAGES or name.startswith("ultralytics"):
            versions[name] = distribution.version
    return dict(sorted(versions.items()))


router = Router("/", tags=["operations"], route_handlers=[system, restart])
