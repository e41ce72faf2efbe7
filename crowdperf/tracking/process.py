"""Run one tracking shard: detections of its cameras in, events and live boxes out."""

from __future__ import annotations

import logging
import time

from crowdperf.messaging.outages import run_until_stopped
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import TrackingConfig
from crowdperf.tracking.shard import TrackingShard

IDLE_S = 0.5
"""Pause of a shard without cameras."""

log = logging.getLogger(__name__)


def main(config: TrackingConfig, runtime: ProcessRuntime) -> None:
    """Track and count until the process is to stop; after an outage of Redis, from the last stored state."""
    shard = TrackingShard(config, connect(config.redis_url), runtime.metrics, time.monotonic, time.time)
    log.info("shard %d has %d cameras", config.shard, len(config.cameras))

    def step() -> None:
        if config.cameras:
            shard.step()
        else:
            runtime.wait_for_stop(IDLE_S)

    if run_until_stopped(runtime, shard.start, step, "tracking goes on from the last stored state afterwards"):
        try:
            shard.flush()
        except OUTAGE as error:
            log.warning("Redis unavailable (%s): the last second is tracked again after the restart", error)
