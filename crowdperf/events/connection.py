"""Redis clients with settings that streams survive (redis-py's defaults store twice and hang: docs/redis.md)."""

from __future__ import annotations

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_TIMEOUT_S = 5.0
BLOCK_MS = 500
"""Longest XREADGROUP/XREAD block: well below the socket's time-out, and short enough for a prompt stop."""

SAY_AT_S = 0.8
"""The wait before which an outage is logged: 0.05 + 0.1 + 0.2 + 0.4 s have passed by then."""

OUTAGE = (redis.ConnectionError, redis.TimeoutError)
"""Expected trouble: back off and connect again."""


class Backoff:
    """Doubling waits from 0.05 s up to 2 s; `reset` after a success."""

    def __init__(self) -> None:
        self._wait = 0.05

    @property
    def worth_saying(self) -> bool:
        """True at one failure of an outage, about a second into it: the time to log it, once.

        Shorter ones, as while everything starts at the same time, concern nobody.
        """
        return self._wait == SAY_AT_S

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        wait, self._wait = self._wait, min(2.0, self._wait * 2)
        return wait

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._wait = 0.05


def connect(url: str) -> redis.Redis:
    """A client that connects lazily, never retries by itself and returns bytes.

    A retry inside the client would repeat an XADD whose reply was lost: who repeats must know whether that is safe.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


def connect_async(url: str) -> redis.asyncio.Redis:
    """The same for asyncio."""
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
        health_check_interval=0,
    )
