"""The working loop of every rule worker."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis

from crowdperf.messaging.redis.client import OUTAGE, Backoff
from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.workers.sharded_consumer import ShardedConsumer

IDLE_S = 0.2
"""Pause of a member that owns no share."""

log = logging.getLogger(__name__)


def run_worker(
    consumer: ShardedConsumer, runtime: ProcessRuntime, after_step: Callable[[], None] = lambda: None
) -> None:
    """Turn until told to stop, and do `each_turn` after each; an outage of Redis is waited out.

    Call `Member.stop` when what `each_turn` has started has ended.
    """
    backoff = Backoff()
    connected = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not connected:
                consumer.start()
                connected = True
            runtime.metrics.count("events_handled", consumer.step())
            after_step()
            if not consumer.shards:
                runtime.wait_for_stop(IDLE_S)
            backoff.reset()
        except (*OUTAGE, redis.ResponseError) as error:
            # A Redis that was emptied has lost the group, which `start` makes.
            if not isinstance(error, OUTAGE) and not _is_group_lost(error):
                raise
            if backoff.should_log(error):
                log.warning("Redis unavailable (%s): the events stream keeps what is not handled yet", error)
            connected = False
            runtime.wait_for_stop(backoff.next())


def _is_group_lost(error: BaseException) -> bool:
    return "NOGROUP" in str(error) or "requires the key" in str(error)
