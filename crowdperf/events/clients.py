"""redis-py's clients, whose refusals name the command and its key: Redis says which command, and never which key.

A value is never named: it may be a password's hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.client
import redis.client

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
