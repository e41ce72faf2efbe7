"""One tracking shard: detections of its cameras in, events and live boxes out. Plumbing only."""

from __future__ import annotations

import logging
import time

from crowdperf.messaging.redis.client import OUTAGE, Backoff, connect
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.process_config import TrackingConfig
from crowdperf.tracking.shard import TrackingShard

IDLE_S = 0.5
"""Pause of a shard that no camera hashes to."""

log = logging.getLogger(__name__)


def main(config: TrackingConfig, runtime: ProcessRuntime) -> None:
    """Track and count until told to stop; through a Redis outage, from the last stored state."""
    shard = TrackingShard(config, connect(config.redis_url), runtime.metrics, time.monotonic, time.time)
    backoff = Backoff()
    started = False
    log.info("shard %d has %d cameras", config.shard, len(config.cameras))
    while not runtime.stopping:
        runtime.tick()
        try:
            if not started:
                shard.start()
                started = True
            if config.cameras:
                shard.step()
            else:
                runtime.wait_for_stop(IDLE_S)
            backoff.reset()
        except OUTAGE as error:
            if backoff.should_log(error):
                log.warning("Redis unavailable (%s): going on from the last stored state when it is back", error)
            # Whether a commit that was under way is stored, only Redis knows: what memory holds must not be trusted.
            started = False
            runtime.wait_for_stop(backoff.next())
    if started:
        try:
            shard.flush()
        except OUTAGE as error:
            log.warning("Redis unavailable (%s): the last second is tracked again after the restart", error)
