"""redis-py's clients, whose refusals name the command and its key: Redis says which command, and never which key.

A value is never named: it may be a password's hash.

Redis clients with settings that streams survive (redis-py's defaults store twice and hang: docs/redis.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.connection
import redis.client
import redis.connection
from redis.backoff import NoBackoff
from redis.retry import Retry

from crowdperf.settings.site import SENTINEL_SCHEME, SentinelAddress, parse_sentinel_url

REMEDY = (
    'Remedy: give the user of redis.url the permissions of docs/redis.md ("A user of its own"); '
    "`python -m crowdperf check` says which are missing."
)
UNCODED_NOPERM_TEXTS = (
    "ACL failure in script",
    "The user executing the script can't",
    "EXEC without MULTI",
    "discarded because of: NOPERM",
)
"""A missing permission without its code: in a script of Redis 7 or 6.2, behind a refused MULTI, at a refused EXEC."""


class RedisPermissionError(redis.exceptions.NoPermissionError):
    """The user of redis.url may not run this command, or not on this key; the text names both and ends in the remedy.

    Nothing was done, and the same command will be taken when the user has the permission.
    """

    def __str__(self) -> str:
        return f"{super().__str__().rstrip('.')}. {REMEDY}"


def detect_permission_error(reply: str) -> RedisPermissionError | None:
    """The refusal that an error is about, though its code is that of any error."""
    return (
        RedisPermissionError(reply.removeprefix("ERR "))
        if any(words in reply for words in UNCODED_NOPERM_TEXTS)
        else None
    )


def add_command_to_error(error: Exception, words: Sequence[Any]) -> Exception:
    """`error` with the command and its keys in front; the same error."""
    shown = " ".join([_to_text(words[0]), *(_to_text(key) for key in _find_keys(words))])
    error.args = (f"{shown}: {error.args[0] if error.args else ''}", *error.args[1:])
    return error


def _find_keys(words: Sequence[Any]) -> Sequence[Any]:
    if words[0] == "EVAL":
        return words[3 : 3 + int(words[2])]
    streams = next((at for at, word in enumerate(words) if word in (b"STREAMS", "STREAMS")), None)
    if streams is not None:
        # The keys, and behind them as many ids.
        return words[streams + 1 : streams + 1 + (len(words) - streams - 1) // 2]
    return words[1:2]


def _to_text(word: Any) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


# redis-py's methods are typed differently from release to release, and so are what they take and give back.
class _Pipeline(redis.client.Pipeline):
    def annotate_exception(self, exception: Any, number: int, command: Any) -> None:
        add_command_to_error(exception, command)

    def immediate_execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            return super().immediate_execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None


class RedisClient(redis.Redis):
    """The client of one thread at a time or more."""

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """As redis-py's; what the user may not do is named."""
        try:
            return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """As redis-py's; its errors are named."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _AsyncPipeline(redis.asyncio.client.Pipeline):
    def annotate_exception(self, exception: Any, number: int, command: Any) -> None:
        add_command_to_error(exception, command)

    async def immediate_execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            return await super().immediate_execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None


class AsyncRedisClient(redis.asyncio.Redis):
    """The same for asyncio."""

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """As redis-py's; what the user may not do is named."""
        try:
            return await super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """As redis-py's; its errors are named."""
        return _AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


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
