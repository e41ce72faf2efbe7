"""Each process's snapshot in Redis, so that the web process can show all of them at /metrics and /debug."""

from __future__ import annotations

import logging
import threading

import msgspec
import redis

from crowdperf.messaging.redis.client import OUTAGE, Backoff, RedisPermissionError, connect
from crowdperf.runtime.metrics import ProcessSnapshot
from crowdperf.runtime.process_runtime import ProcessRuntime

INTERVAL_S = 2.0
TTL_S = 15

log = logging.getLogger(__name__)


def metrics_key(process: str, prefix: str = "") -> str:
    """Key of one process's snapshot."""
    return f"{prefix}crowdperf:metrics:{process}"


def publish_snapshot(client: redis.Redis, runtime: ProcessRuntime, prefix: str = "") -> None:
    """Store the snapshot once."""
    snapshot = runtime.metrics.snapshot(runtime.name, runtime.started_at)
    client.set(metrics_key(runtime.name, prefix), msgspec.json.encode(snapshot), ex=TTL_S)


def start_publishing(runtime: ProcessRuntime, url: str, prefix: str = "") -> None:
    """Publish every 2 s from a thread of its own; a snapshot ends by its TTL when its process does."""

    def loop() -> None:
        client, backoff = connect(url), Backoff()
        while not runtime.wait_for_stop(INTERVAL_S):
            _publish_safely(client, runtime, prefix, backoff)

    threading.Thread(target=loop, name="metrics", daemon=True).start()


def _publish_safely(client: redis.Redis, runtime: ProcessRuntime, prefix: str, backoff: Backoff) -> None:
    """Metrics are the one thing nobody needs while Redis is away, and the working loop reports the outage."""
    try:
        publish_snapshot(client, runtime, prefix)
    except OUTAGE as error:
        # What is forbidden here may be allowed there.
        if isinstance(error, RedisPermissionError) and backoff.should_log(error):
            log.warning("no metrics of this process: %s", error)


def decode_snapshot(raw: bytes) -> ProcessSnapshot:
    """A stored snapshot."""
    return msgspec.json.decode(raw, type=ProcessSnapshot)
