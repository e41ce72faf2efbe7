"""Redis clients with settings that are safe for streams, and errors that name the command and its key.

redis-py's defaults may store an entry twice and may hang (docs/redis.md). Redis names a refused command but not its
key. An error never names a value, since it may be the hash of a password.
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
"""Texts of a permission error without the code NOPERM: from a script, or after a refused MULTI or EXEC."""


class RedisPermissionError(redis.exceptions.NoPermissionError):
    """The user of redis.url may not run this command on this key; the text names both and the remedy.

    Nothing was done. The same command succeeds once the user has the permission.
    """

    def __str__(self) -> str:
        return f"{super().__str__().rstrip('.')}. {REMEDY}"


def detect_permission_error(reply: str) -> RedisPermissionError | None:
    """Recognise a missing permission by its text where the error has no code of its own."""
    return (
        RedisPermissionError(reply.removeprefix("ERR "))
        if any(words in reply for words in UNCODED_NOPERM_TEXTS)
        else None
    )


def add_command_to_error(error: Exception, words: Sequence[Any]) -> Exception:
    """Put the command and its keys in front of the text of `error`, and return it."""
    shown = " ".join([_to_text(words[0]), *(_to_text(key) for key in _find_keys(words))])
    error.args = (f"{shown}: {error.args[0] if error.args else ''}", *error.args[1:])
    return error


def _find_keys(words: Sequence[Any]) -> Sequence[Any]:
    if words[0] == "EVAL":
        return words[3 : 3 + int(words[2])]
    streams = next((at for at, word in enumerate(words) if word in (b"STREAMS", "STREAMS")), None)
    if streams is not None:
        # The keys, followed by as many ids.
        return words[streams + 1 : streams + 1 + (len(words) - streams - 1) // 2]
    return words[1:2]


def _to_text(word: Any) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


AnyClient = Any
"""A redis-py client, whose types of arguments and replies differ from release to release."""


class _DescribedErrors:
    def annotate_exception(self, exception: Any, number: int, command: Any) -> None:
        add_command_to_error(exception, command)


class _Pipeline(_DescribedErrors, redis.client.Pipeline):
    def immediate_execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            return super().immediate_execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None


class RedisClient(redis.Redis):
    """Client for any number of threads."""

    def execute_command(self, *words: Any, **options: Any) -> Any:
        """Run a command; a permission error names the command and its keys."""
        try:
            return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Create a pipeline whose errors name the command and its keys."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _AsyncPipeline(_DescribedErrors, redis.asyncio.client.Pipeline):  # type: ignore[misc]
    async def immediate_execute_command(self, *words: Any, **options: Any) -> Any:
        try:
            return await super().immediate_execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None


class AsyncRedisClient(redis.asyncio.Redis):
    """`RedisClient` for asyncio."""

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """Run a command; a permission error names the command and its keys."""
        try:
            return await super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except RedisPermissionError as error:
            raise add_command_to_error(error, words) from None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:
        """Create a pipeline whose errors name the command and its keys."""
        return _AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


SOCKET_TIMEOUT_S = 5.0
CLIENT_OPTIONS = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "health_check_interval": 0,
}
MAX_ASYNC_CONNECTIONS = 32
"""Connections of one asyncio client; redis-py's own bound of 100 refuses the next caller at once."""
MAX_SENTINEL_CONNECTIONS = 10_000
BLOCK_MS = 500
"""Longest block of XREADGROUP and XREAD: well below the socket's time-out, and short enough for a prompt stop."""


class RedisNotWritable(redis.ResponseError):
    """Redis answers but refuses writes for now: full disk, missing replicas, or a busy script."""


ERROR_CLASSES_BY_CODE = {
    "MISCONF": RedisNotWritable,
    "NOREPLICAS": RedisNotWritable,
    "BUSY": RedisNotWritable,
    "NOPERM": RedisPermissionError,
}
"""Codes of temporary errors for which redis-py has no class, or one that says too little."""

NOT_WRITABLE_ERRORS = (
    RedisNotWritable,
    redis.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    # A complete transaction that Redis began to refuse before EXEC. A wrong command raises its own error.
    redis.exceptions.ExecAbortError,
)
"""Nothing was written; the same command succeeds when the trouble is over."""

OUTAGE = (redis.ConnectionError, redis.TimeoutError, *NOT_WRITABLE_ERRORS, RedisPermissionError)
"""Expected errors: back off and connect again."""


def _extend_parser(parser: Any) -> Any:
    """Derive a parser that knows the errors above; the default one depends on hiredis being installed."""

    class Parser(parser):  # type: ignore[misc]
        EXCEPTION_CLASSES: ClassVar[dict[str, Any]] = {**parser.EXCEPTION_CLASSES, **ERROR_CLASSES_BY_CODE}

        @classmethod
        def parse_error(cls, response: str) -> Exception:
            return detect_permission_error(response) or super().parse_error(response)

    return Parser


_connection_guards: dict[str, Any] = {"sync": None, "async": None}


def guard_new_connections(ask: Any, ask_async: Any) -> None:
    """Let every client that is created from now on call one of these for each new connection.

    Args:
        ask: for blocking clients; it gets the connection and has to call its `on_connect`. An error refuses it.
        ask_async: likewise, awaited, for asyncio clients.
    """
    _connection_guards.update({"sync": ask, "async": ask_async})


_PARSER = _extend_parser(redis.connection.DefaultParser)
_ASYNC_PARSER = _extend_parser(redis.asyncio.connection.DefaultParser)


def connect(url: str) -> redis.Redis:
    """Create a client that connects lazily, never retries by itself and returns bytes.

    A retry inside the client would repeat an XADD whose reply was lost. Only the caller knows whether that is safe.
    """
    settings: dict[str, Any] = {**CLIENT_OPTIONS, "retry": Retry(NoBackoff(), 0), "parser_class": _PARSER}
    settings["redis_connect_func"] = _connection_guards["sync"]
    if url.startswith(SENTINEL_SCHEME):
        client: redis.Redis = _connect_to_master(redis.Sentinel, RedisClient, parse_sentinel_url(url), settings)
        return client
    return RedisClient.from_url(url, **settings)


def _connect_to_master(sentinel: Any, client_class: Any, address: SentinelAddress, settings: dict[str, Any]) -> Any:
    """Create a client of the master that the Sentinels name; each new connection asks them again."""
    # redis-py creates a Sentinel's client without a pool, and only a pool accepts a parser. It never writes there.
    options = {name: value for name, value in settings.items() if name not in ("parser_class", "redis_connect_func")}
    monitor = sentinel(address.sentinels, sentinel_kwargs={**options, **address.sentinel_login})
    return monitor.master_for(address.service, redis_class=client_class, db=address.db, **settings, **address.login)


def connect_async(url: str) -> redis.asyncio.Redis:
    """Create the asyncio client; a caller waits while every connection is in use."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    settings: dict[str, Any] = {**CLIENT_OPTIONS, "retry": retry, "parser_class": _ASYNC_PARSER}
    settings["redis_connect_func"] = _connection_guards["async"]
    if url.startswith(SENTINEL_SCHEME):
        # Sentinel's pool cannot make a caller wait.
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
    """Describe an outage that ends a command; `remedy` is for an absent Redis, a refusal has its own."""
    if isinstance(error, RedisPermissionError):
        return f"Redis refuses: {error}"
    return f"Redis does not answer ({error}). Remedy: {remedy}"
