"""Redis clients with settings that streams survive (redis-py's defaults store twice and hang: docs/redis.md)."""

from __future__ import annotations

from typing import Any, ClassVar

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from crowdperf.events.clients import AsyncRedisClient, RedisClient, RedisPermissionError, detect_permission_error
from crowdperf.settings.sentinel import SENTINEL_SCHEME, SentinelAddress, parse_sentinel_url

SOCKET_TIMEOUT_S = 5.0
CLIENT_OPTIONS = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "health_check_interval": 0,
}
MAX_ASYNC_CONNECTIONS = 32
"""Of one asyncio client. Without a bound of our own, redis-py refuses the hundred-and-first at once."""
MAX_SENTINEL_CONNECTIONS = 10_000
BLOCK_MS = 500
"""Longest XREADGROUP/XREAD block: well below the socket's time-out, and short enough for a prompt stop."""

LOG_AT_WAIT_S = 0.8
"""The wait before which an outage is logged: 0.05 + 0.1 + 0.2 + 0.4 s have passed by then."""
MAX_LOGGED = 100
"""Refusals that are remembered as said."""


class RedisNotWritable(redis.ResponseError):
    """Redis answers and takes no writes for now: its disk is full, its replicas are away, a script is in its way."""


ERROR_CLASSES_BY_CODE = {
    "MISCONF": RedisNotWritable,
    "NOREPLICAS": RedisNotWritable,
    "BUSY": RedisNotWritable,
    "NOPERM": RedisPermissionError,
}
"""Codes of passing refusals that redis-py gives no class of their own, or one that says too little."""

NOT_WRITABLE_ERRORS = (
    RedisNotWritable,
    redis.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    # Redis says it of a transaction that came in whole: it began to refuse before EXEC. A wrong command raises its own.
    redis.exceptions.ExecAbortError,
)
"""Nothing was written, and the same command will be taken when the trouble is over."""

OUTAGE = (redis.ConnectionError, redis.TimeoutError, *NOT_WRITABLE_ERRORS, RedisPermissionError)
"""Expected trouble: back off and connect again."""


# Any: what the defaults are depends on whether hiredis is there.
_Blocking: Any = redis.connection.DefaultParser
_Async: Any = redis.asyncio.connection.DefaultParser


class _Parser(_Blocking):  # type: ignore[misc]
    EXCEPTION_CLASSES: ClassVar[dict[str, Any]] = {**_Blocking.EXCEPTION_CLASSES, **ERROR_CLASSES_BY_CODE}

    @classmethod
    def parse_error(cls, response: str) -> Exception:
        return detect_permission_error(response) or super().parse_error(response)


class _AsyncParser(_Async):  # type: ignore[misc]
    EXCEPTION_CLASSES: ClassVar[dict[str, Any]] = {**_Async.EXCEPTION_CLASSES, **ERROR_CLASSES_BY_CODE}

    @classmethod
    def parse_error(cls, response: str) -> Exception:
        return detect_permission_error(response) or super().parse_error(response)


class Backoff:
    """Doubling waits from 0.05 s up to 2 s; `reset` after a success."""

    def __init__(self) -> None:
        self._wait = 0.05
        self._logged: set[str] = set()

    def should_log(self, error: BaseException) -> bool:
        """True at one failure of an outage, about a second into it: the time to log it, once.

        Shorter ones, as while everything starts at the same time, concern nobody. A permission that is missing is said
        at once, and once: it comes and goes with what is asked, and is not found again by itself.
        """
        if not isinstance(error, RedisPermissionError):
            return self._wait == LOG_AT_WAIT_S
        new = str(error) not in self._logged
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged.add(str(error))
        return new

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
    settings: dict[str, Any] = {**CLIENT_OPTIONS, "retry": Retry(NoBackoff(), 0), "parser_class": _Parser}
    if url.startswith(SENTINEL_SCHEME):
        client: redis.Redis = _connect_to_master(redis.Sentinel, RedisClient, parse_sentinel_url(url), settings)
        return client
    return RedisClient.from_url(url, **settings)


def _connect_to_master(sentinel: Any, client_class: Any, address: SentinelAddress, settings: dict[str, Any]) -> Any:
    """A client of whichever server the Sentinels call the master, asked anew for each connection."""
    # A client of a Sentinel is made without a pool, which alone takes a parser; nothing is written there.
    asked = {name: value for name, value in settings.items() if name != "parser_class"}
    known = sentinel(address.sentinels, sentinel_kwargs={**asked, **address.sentinel_login})
    return known.master_for(address.service, redis_class=client_class, db=address.db, **settings, **address.login)


def connect_async(url: str) -> redis.asyncio.Redis:
    """The same for asyncio; who finds every connection in use waits for one, however many ask at once."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    settings: dict[str, Any] = {**CLIENT_OPTIONS, "retry": retry, "parser_class": _AsyncParser}
    if url.startswith(SENTINEL_SCHEME):
        # Sentinel's pool cannot make anybody wait.
        settings["max_connections"] = MAX_SENTINEL_CONNECTIONS
        client: redis.asyncio.Redis = _connect_to_master(
            redis.asyncio.Sentinel, AsyncRedisClient, parse_sentinel_url(url), settings
        )
        return client
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url, max_connections=MAX_ASYNC_CONNECTIONS, timeout=SOCKET_TIMEOUT_S, **settings
    )
    return AsyncRedisClient.from_pool(pool)


def describe_outage(error: BaseException, remedy: str) -> str:
    """What a command says of an outage that ends it: `remedy` helps where Redis is away, and a refusal has its own."""
    if isinstance(error, RedisPermissionError):
        return f"Redis refuses: {error}"
    return f"Redis does not answer ({error}). Remedy: {remedy}"
