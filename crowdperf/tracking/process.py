"""One tracking shard: detections of its cameras in, events and live boxes out. Plumbing only."""

from __future__ import annotations

import logging
import time

from crowdperf.events.connection import OUTAGE, Backoff, connect
from crowdperf.runtime import Runtime
from crowdperf.slices import TrackingSlice
from crowdperf.tracking.shard import Shard

IDLE_S = 0.5
"""Pause of a shard that no camera hashes to."""

log = logging.getLogger(__name__)


def main(slice_: TrackingSlice, runtime: Runtime) -> None:
    """Track and count until told to stop; through a Redis outage, from the last stored state."""
    shard = Shard(slice_, connect(slice_.redis_url), runtime.metrics, time.monotonic, time.time)
    backoff = Backoff()
    started = False
    log.info("shard %d has %d cameras", slice_.shard, len(slice_.cameras))
    while not runtime.stopping:
        runtime.tick()
        try:
            if not started:
                shard.start()
                started = True
            if slice_.cameras:
                shard.turn()
            else:
                runtime.wait(IDLE_S)
            backoff.reset()
        except OUTAGE as error:
            if backoff.worth_saying(error):
                log.warning("Redis takes nothing (%s): going on from the last stored state when it is back", error)
            # Whether a commit that was under way is stored, only Redis knows: what memory holds must not be trusted.
            started = False
            runtime.wait(backoff.next())
    if started:
        try:
            shard.flush()
        except OUTAGE as error:
            log.warning("Redis takes nothing (%s): the last second is tracked again after the restart", error)
