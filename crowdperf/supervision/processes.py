"""The process table: every process of the system, once.

`supervision` renders supervisord's programs from it, `web` shows it. tests/architecture derives `reads` and `writes`
from the code and compares them.
"""

from __future__ import annotations

import functools
from typing import Literal

from msgspec import Struct

Instances = Literal["embedded", "one", "postgres", "camera", "shard", "worker", "listener"]


class ProcessSpec(Struct, frozen=True, kw_only=True):
    """One row of the table."""

    kind: str
    """The name in `crowdperf ctl restart <kind>`."""
    entry: str
    """Entry point as `module:function`. A string, so that the table imports no process."""
    instances: Instances
    """Number and names of the instances.

    embedded: one, or none where redis.url names an external server. one: one, named `<kind>`. postgres: one where
    postgres.dsn is set. camera: one per enabled camera, named `<kind>-<camera id>`, or one per group of cameras
    (`cameras_per_process`), named `<kind>-group-<n>`. shard: tracking.shards, named `<kind>-<n>`. worker:
    workers.<role>, named `<kind>-<n>`. listener: an event listener in supervisord.conf, the same on every site.
    """
    reads: tuple[str, ...] = ()
    """Names of the streams in `messaging.streams` that it reads or trims."""
    writes: tuple[str, ...] = ()
    max_silence_s: float
    """The watchdog ends a process whose main loop is silent for longer."""
    stop_s: int = 10
    """Seconds that supervisord waits between SIGTERM and SIGKILL."""
    priority: int
    """Programs start in ascending order and stop in descending order."""
    nice: int = 0
    """Added to the scheduling priority: on a machine that is too small, counting comes before viewing."""
    description: str


_worker = functools.partial(ProcessSpec, instances="worker", max_silence_s=30, priority=40, nice=5)

PROCESSES = (
    ProcessSpec(
        kind="guard",
        entry="crowdperf.supervision.control:restart_failed_programs",
        instances="listener",
        max_silence_s=0,
        priority=5,
        description="restarts programs that supervisord has given up (FATAL), after a pause",
    ),
    ProcessSpec(
        kind="redis",
        entry="crowdperf.supervision.embedded_redis:replace_process",
        instances="embedded",
        max_silence_s=0,
        stop_s=15,
        priority=10,
        description="stores streams, history and state (append-only file, fsync every second)",
    ),
    ProcessSpec(
        kind="inference",
        entry="crowdperf.inference.process:main",
        instances="one",
        reads=("evidence_requests",),
        writes=("detections",),
        max_silence_s=60,
        priority=20,
        description="batches the newest frame of every due camera, runs the person/vehicle and the PPE model",
    ),
    ProcessSpec(
        kind="tracking",
        entry="crowdperf.tracking.process:main",
        instances="shard",
        reads=("detections",),
        writes=("tracks", "events", "observations"),
        max_silence_s=30,
        priority=30,
        description="runs tracker, line counters and zones of its cameras; turns detections into events",
    ),
    _worker(
        kind="worker-recorder",
        entry="crowdperf.workers.recorder:main",
        reads=("events",),
        description="writes the history",
    ),
    _worker(
        kind="worker-areas",
        entry="crowdperf.workers.areas:main",
        reads=("events",),
        writes=("events",),
        description="computes the occupancy of areas from doors and zones",
    ),
    ProcessSpec(
        kind="worker-sql",
        entry="crowdperf.workers.sql:main",
        instances="postgres",
        reads=("events",),
        max_silence_s=300,
        priority=40,
        nice=10,
        description="copies events to PostgreSQL and counts them there",
    ),
    _worker(
        kind="worker-housekeeping",
        entry="crowdperf.workers.housekeeping:main",
        reads=("detections", "events", "observations", "audit"),
        writes=("events",),
        max_silence_s=120,
        nice=10,
        description="trims streams behind their slowest reader, removes expired history, watches memory",
    ),
    _worker(
        kind="worker-notify",
        entry="crowdperf.workers.notify.process:main",
        reads=("events",),
        writes=("events",),
        description="applies alert rules to events; sends webhooks, mail and MQTT",
    ),
    _worker(
        kind="worker-ppe",
        entry="crowdperf.workers.ppe:main",
        reads=("observations",),
        writes=("events", "evidence_requests"),
        description="decides PPE violations from many frames; counts compliance per zone and hour",
    ),
    _worker(
        kind="worker-visitors",
        entry="crowdperf.workers.visitors:main",
        reads=("events",),
        writes=("events",),
        description="updates visits: overstays, no-shows, nightly check-out, differences to the cameras",
    ),
    ProcessSpec(
        kind="web",
        entry="crowdperf.web.process:main",
        instances="one",
        reads=("tracks", "events", "connections", "audit"),
        writes=("events", "audit"),
        max_silence_s=30,
        priority=50,
        nice=5,
        description="serves the REST API, live stream, dashboard and camera pictures",
    ),
    ProcessSpec(
        kind="capture",
        entry="crowdperf.capture.process:main",
        instances="camera",
        writes=("events", "connections"),
        max_silence_s=30,
        priority=60,
        description="decodes its cameras, with FFmpeg or in the process, and writes the frames into their rings",
    ),
)


def get_process(kind: str) -> ProcessSpec:
    """Return the row of that kind."""
    return {row.kind: row for row in PROCESSES}[kind]
