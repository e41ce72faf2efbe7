"""Publish each process's snapshot in Redis. The web process shows them at /metrics and /debug."""

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


def start_publishing(runtime: ProcessRuntime, url: str, prefix: str = "") -> None:
    """Publish every 2 s from a thread. The snapshot of a process that has ended expires by its TTL.

    Args:
        runtime: The process; its stop ends the thread.
        url: The URL of Redis.
        prefix: The configured key prefix.
    """

    def loop() -> None:
        client, backoff = connect(url), Backoff()
        while not runtime.wait_for_stop(INTERVAL_S):
            _publish_safely(client, runtime, prefix, backoff)

    threading.Thread(target=loop, name="metrics", daemon=True).start()


def _publish_safely(client: redis.Redis, runtime: ProcessRuntime, prefix: str, backoff: Backoff) -> None:
    """Publish, and skip an outage: the main loop reports it."""
    try:
        publish_snapshot(client, runtime, prefix)
    except OUTAGE as error:
        # The main loop may have the permissions that are missing here.
        if isinstance(error, RedisPermissionError) and backoff.should_log(error):
            log.warning("metrics are not published: %s", error)


def decode_snapshot(raw: bytes) -> ProcessSnapshot:
    """Decode a stored snapshot."""
    return msgspec.json.decode(raw, type=ProcessSnapshot)
