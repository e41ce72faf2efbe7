"""Run the working loop of a process that needs Redis, through outages."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis

from crowdperf.messaging.consumer import is_stream_lost
from crowdperf.messaging.redis.client import OUTAGE, Backoff
from crowdperf.runtime.process_runtime import ProcessRuntime

log = logging.getLogger(__name__)


def run_until_stopped(
    runtime: ProcessRuntime, start: Callable[[], None], step: Callable[[], None], consequence: str
) -> bool:
    """Call `step` until the process is to stop; wait out every outage of Redis.

    An outage leaves open whether the last command was stored. So `start` runs again after it, to begin at what is
    stored, and also after a loss of a stream or group.

    Args:
        runtime: the process, whose watchdog is fed.
        start: called before the first step and after every outage.
        step: one turn, at most a second or so.
        consequence: what an outage means, for the log.

    Returns:
        Whether Redis was available at the end.
    """
    backoff = Backoff()
    started = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not started:
                start()
                started = True
            step()
            backoff.reset()
        except (*OUTAGE, redis.ResponseError) as error:
            lost = is_stream_lost(error)
            if not lost and not isinstance(error, OUTAGE):
                raise
            if lost or backoff.should_log(error):
                log.warning("Redis %s (%s): %s", "lost a stream" if lost else "unavailable", error, consequence)
            started = False
            runtime.wait_for_stop(backoff.next())
    return started
