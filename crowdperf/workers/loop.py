"""The working loop of every rule worker."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis

from crowdperf.events.connection import OUTAGE, Backoff
from crowdperf.runtime import Runtime
from crowdperf.workers.base import Member

IDLE_S = 0.2
"""Pause of a member that owns no share."""

log = logging.getLogger(__name__)


def work(member: Member, runtime: Runtime, each_turn: Callable[[], None] = lambda: None) -> None:
    """Turn until told to stop, and do `each_turn` after each; an outage of Redis is waited out.

    Call `Member.stop` when what `each_turn` has started has ended.
    """
    backoff = Backoff()
    connected = False
    while not runtime.stopping:
        runtime.tick()
        try:
            if not connected:
                member.start()
                connected = True
            runtime.metrics.count("events_handled", member.turn())
            each_turn()
            if not member.shares:
                runtime.wait(IDLE_S)
            backoff.reset()
        except (*OUTAGE, redis.ResponseError) as error:
            # A Redis that was emptied has lost the group, which `start` makes.
            if not isinstance(error, OUTAGE) and not _emptied(error):
                raise
            if backoff.worth_saying(error):
                log.warning("Redis takes nothing (%s): the events stream keeps what is not handled yet", error)
            connected = False
            runtime.wait(backoff.next())


def _emptied(error: BaseException) -> bool:
    return "NOGROUP" in str(error) or "requires the key" in str(error)
