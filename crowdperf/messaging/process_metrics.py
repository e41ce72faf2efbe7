"""Publish each process's snapshot in Redis. The web process shows them at /metrics and /debug."""

from __future__ import annotations

import logging

import msgspec
import redis

from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.redis.client import connect
from crowdperf.messaging.site_owner import SiteClaim
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.runtime.tasks import start_thread

INTERVAL_S = 2.0
TTL_S = 15

log = logging.getLogger(__name__)


def metrics_key(process: str, prefix: str = "") -> str:
    """Build the key of a process's snapshot."""
    return f"{prefix}crowdperf:metrics:{process}"


def publish_snapshot(client: redis.Redis, runtime: ProcessRuntime, prefix: str = "") -> None:
    """Store the snapshot once.

    Args:
        client: The Redis client.
        runtime: The process.
        prefix: The configured key prefix.
    """
    snapshot = runtime.metrics.snapshot(runtime.name, runtime.started_at)
    client.set(metrics_key(runtime.name, prefix), msgspec.json.encode(snapshot), ex=TTL_S)


def start_publishing(runtime: ProcessRuntime, url: str, prefix: str = "", claim: SiteClaim | None = None) -> None:
    """Publish every 2 s from a thread. The snapshot of a process that has ended expires by its TTL.

    Args:
        runtime: The process; its stop ends the thread.
        url: The URL of Redis.
        prefix: The configured key prefix.
        claim: Renewed each time. The process stops when another installation has the prefix.
    """
    client = connect(url)

    def loop() -> None:
        outage = OutageHandler("metrics are not published", logs_outages=False)
        while not runtime.wait_for_stop(INTERVAL_S):
            with outage:
                other = claim.renew() if claim else None
                if other is not None:
                    log.error("%s", other.describe_conflict(prefix))
                    runtime.stop()
                    return
                publish_snapshot(client, runtime, prefix)

    start_thread("metrics", loop, runtime.metrics, runtime.wait_for_stop)


def decode_snapshot(raw: bytes) -> ProcessSnapshot:
    """Decode a stored snapshot."""
    return msgspec.json.decode(raw, type=ProcessSnapshot)
