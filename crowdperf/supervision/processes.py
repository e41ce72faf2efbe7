"""THE process table: every process of the system, once. supervisord's programs are rendered from it.

Pure data beside `config`: `web` reads it for its pages, `supervision` expands it for one configuration.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Instances = Literal["embedded", "one", "postgres", "camera", "shard", "worker", "listener"]


class ProcessSpec(Struct, frozen=True, kw_only=True):
    """One row of the table."""

    kind: str
    """What people type: `crowdperf ctl restart <kind>`."""
    entry: str
    """`module:function`, a string so that naming a process never imports it."""
    instances: Instances
    """How many there are, and their names.

    embedded: one, or none where redis.url names an outside server. one: one, named `<kind>`. postgres: one where
    postgres.dsn is set. camera: one per enabled
    camera, named `<kind>-<camera id>`, or one per group of them (`cameras_per_process`), named `<kind>-group-<n>`.
    shard: tracking.shards of them, named `<kind>-<n>`. worker: workers.<role> of them, named `<kind>-<n>`. listener: an
    event listener of supervisord, written in supervisord.conf itself since it depends on no configuration.
    """
    reads: tuple[str, ...] = ()
    """Streams of `events.streams`, by name."""
    writes: tuple[str, ...] = ()
    max_silence_s: float
    """A working loop that has not come round for this long is ended by its own watchdog, and restarted."""
    stop_s: int = 10
    """What supervisord waits between SIGTERM and SIGKILL."""
    priority: int
    """supervisord starts in ascending order and stops in descending order."""
    nice: int = 0
    """Added to the scheduling priority: on a machine that is too small, counting goes before looking."""
    description: str


PROCESSES = (
    ProcessSpec(
        kind="guard",
        entry="crowdperf.supervision.fatal_restarter:main",
        instances="listener",
        max_silence_s=0,
        priority=5,
        description="starts again what supervisord has given up (FATAL), after a pause",
    ),
    ProcessSpec(
        kind="redis",
        entry="crowdperf.supervision.embedded_redis:replace_process",
        instances="embedded",
        max_silence_s=0,
        stop_s=15,
        priority=10,
        description="keeps streams, history and state (append-only file, fsync every second)",
    ),
    ProcessSpec(
        kind="inference",
        entry="crowdperf.inference.process:main",
        instances="one",
        reads=("evidence_requests",),
        writes=("detections", "evidence"),
        max_silence_s=60,
        priority=20,
        description="takes the newest frame of every due camera, batches, runs the person/vehicle and the PPE model",
    ),
    ProcessSpec(
        kind="tracking",
        entry="crowdperf.tracking.process:main",
        instances="shard",
        reads=("detections",),
        writes=("tracks", "events", "observations"),
        max_silence_s=30,
        priority=30,
        description="per camera: tracker, line counters, zones; turns detections into events",
    ),
    ProcessSpec(
        kind="worker-recorder",
        entry="crowdperf.workers.recorder:main",
        instances="worker",
        reads=("events",),
        max_silence_s=30,
        priority=40,
        nice=5,
        description="writes the history; the only one that does",
    ),
    ProcessSpec(
        kind="worker-areas",
        entry="crowdperf.workers.areas:main",
        instances="worker",
        reads=("events",),
        writes=("events",),
        max_silence_s=30,
        priority=40,
        nice=5,
        description="occupancy of areas: doors since the last reset, corrected by what zones see",
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
    ProcessSpec(
        kind="worker-housekeeping",
        entry="crowdperf.workers.housekeeping:main",
        instances="worker",
        reads=("detections", "events", "observations"),
        max_silence_s=120,
        priority=40,
        nice=10,
        description="trims streams behind their slowest reader, ends what is past its retention",
    ),
    ProcessSpec(
        kind="worker-notify",
        entry="crowdperf.workers.notify.process:main",
        instances="worker",
        reads=("events",),
        writes=("events",),
        max_silence_s=30,
        priority=40,
        nice=5,
        description="alert rules over events; the only sender to the outside: webhook, mail, MQTT",
    ),
    ProcessSpec(
        kind="worker-ppe",
        entry="crowdperf.workers.ppe.process:main",
        instances="worker",
        reads=("observations",),
        writes=("events", "evidence_requests"),
        max_silence_s=30,
        priority=40,
        nice=5,
        description=(
            "votes over what single frames show of people's equipment: violations, compliance per zone and hour"
        ),
    ),
    ProcessSpec(
        kind="worker-visitors",
        entry="crowdperf.workers.visitors:main",
        instances="worker",
        reads=("events",),
        writes=("events",),
        max_silence_s=30,
        priority=40,
        nice=5,
        description=(
            "what time and cameras change about visits: overstays, no-shows, the night's check-out, differences"
        ),
    ),
    ProcessSpec(
        kind="web",
        entry="crowdperf.web.process:main",
        instances="one",
        reads=("tracks", "events", "audit"),
        writes=("audit",),
        max_silence_s=30,
        priority=50,
        nice=5,
        description="REST API, live stream, dashboard, camera view out of the rings",
    ),
    ProcessSpec(
        kind="capture",
        entry="crowdperf.capture.process:main",
        instances="camera",
        writes=("events", "connections"),
        max_silence_s=30,
        priority=60,
        description="runs FFmpeg (or decodes itself) for its cameras and writes their frames into their rings",
    ),
)


def get_process(kind: str) -> ProcessSpec:
    """The row of that kind.

    Raises:
        KeyError: there is none.
    """
    for row in PROCESSES:
        if row.kind == kind:
            return row
    raise KeyError(kind)
