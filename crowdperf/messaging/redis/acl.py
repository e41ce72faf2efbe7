"""Permissions of the Redis user that redis.url names (docs/redis.md), and a check for missing ones.

Every permission is tried by using it, since a user may not be allowed to read its own rules (ACL GETUSER, ACL DRYRUN).
Redis checks permissions first, so any reply other than NOPERM, also an error, means that the permission is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

from crowdperf.messaging.redis.client import RedisPermissionError

LOG_KEYS = ("person_logs", "vehicle_logs")
KEY_NAMESPACE = "crowdperf:"
COMMAND_CATEGORIES = "+@read +@write +@connection +@transaction +@scripting -@dangerous +info"
"""Command rules in this order, since INFO is among the dangerous commands."""

READ_TRIALS = (
    *("EXISTS", "GET", "HGETALL", "HKEYS", "SMEMBERS", "TTL", "XINFO GROUPS", "XINFO STREAM", "XLEN", "ZCARD"),
    *("HGET {key} f", "HMGET {key} f", "MGET", "SCARD", "SISMEMBER {key} m", "SCAN 0 COUNT 1", "XPENDING {key} g"),
    *("XRANGE {key} - + COUNT 1", "XREVRANGE {key} + - COUNT 1", "XREAD COUNT 1 STREAMS {key} 0"),
    *("ZCOUNT {key} 0 0", "ZRANGE {key} 0 0", "ZREVRANGE {key} 0 0", "ZRANGEBYSCORE {key} 0 0"),
    "ZREVRANGEBYSCORE {key} 0 0",
)
# SET comes first: its value expires, and the other commands fail on a value of that type without any effect.
WRITE_TRIALS = (
    *("SET {key} x PX 10000", "INCR", "SETRANGE {key} 0 x", "BITFIELD {key} GET u8 0", "EXPIRE {key} 10"),
    *("PEXPIRE {key} 10000", "HSET {key} f v", "HSETNX {key} f v", "HDEL {key} f", "HINCRBY {key} f 1"),
    *("SADD {key} m", "SREM {key} m", "ZADD {key} XX 0 m", "ZREM {key} m", "ZREMRANGEBYSCORE {key} 0 0"),
    *("XADD {key} NOMKSTREAM * f v", "XDEL {key} 0-1", "XTRIM {key} MAXLEN 0", "XSETID {key} 0-1", "XACK {key} g 0-1"),
    *("XGROUP CREATE {key} g 0", "XGROUP SETID {key} g 0", "XREADGROUP GROUP g c COUNT 1 STREAMS {key} >"),
    *("XAUTOCLAIM {key} g c 0 0", "EXPIREAT {key} 1", "UNLINK", "DEL"),
)
SCRIPT_TRIALS = ("EVAL return(0) 0",)
MEMORY_TRIALS = ("INFO memory",)
TRIALS = (*READ_TRIALS, *WRITE_TRIALS, *SCRIPT_TRIALS, *MEMORY_TRIALS)
"""Commands with arguments; `{key}` (the default argument) is a key that exists only for the check."""
LOG_TRIALS = ("ZCARD {key}", "ZADD {key} XX 0 none")
"""Commands on the history itself, which change nothing."""
TRANSACTION_COMMANDS = ("MULTI", "EXEC", "WATCH", "UNWATCH")
RECORDER_COMMANDS = frozenset({"EVAL", "HMGET", "EXISTS", "HSET", "ZADD", "SADD", "BITFIELD", "XACK"})
"""Commands of the recorder's script, which Redis would leave half done at a missing permission."""


def get_key_patterns(prefix: str = "") -> tuple[str, ...]:
    """Return the patterns that cover every key."""
    return (*(prefix + log for log in LOG_KEYS), f"{prefix}{KEY_NAMESPACE}*")


def build_acl_rules(prefix: str = "") -> str:
    """Build the rules of ACL SETUSER for the user of a site."""
    return " ".join([*(f"~{pattern}" for pattern in get_key_patterns(prefix)), COMMAND_CATEGORIES])


def find_missing_permissions(client: Any, prefix: str = "", commands: Collection[str] = ()) -> list[str]:
    """Find the permissions that the client's user lacks; nothing in Redis is changed.

    Args:
        client: a redis-py client.
        prefix: the configured prefix of every key.
        commands: the commands to check; all that a site uses where empty.

    Returns:
        The missing permissions in the form of ACL SETUSER.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is unavailable.
    """
    pattern = f"{prefix}{KEY_NAMESPACE}*"
    key = f"{prefix}{KEY_NAMESPACE}check:{secrets.token_hex(8)}"
    trials = [trial for trial in TRIALS if not commands or _parse_command(trial) in (*commands, "SET", "DEL")]
    checks = [(pattern, _build_command(trial, key)) for trial in trials]
    checks += [(prefix + log, _build_command(trial, prefix + log)) for log in LOG_KEYS for trial in LOG_TRIALS]
    with client.pipeline(transaction=False) as pipe:
        for _, words in checks:
            pipe.execute_command(*words)
        replies = pipe.execute(raise_on_error=False)
    missing = [
        _to_permission(reply, words[0], name)
        for (name, words), reply in zip(checks, replies, strict=True)
        if isinstance(reply, RedisPermissionError)
    ]
    if commands:
        known = {f"+{command.lower()}" for command in commands}
        missing = [permission for permission in missing if permission.startswith("~") or permission in known]
    else:
        missing += _find_missing_transaction_commands(client, key)
    return list(dict.fromkeys(missing))


def require_permissions(client: Any, prefix: str, commands: Collection[str]) -> None:
    """Check permissions before the work begins, so that nothing is left half done.

    Args:
        client: a redis-py client.
        prefix: the configured prefix of every key.
        commands: the commands that are needed.

    Raises:
        RedisPermissionError: one of these commands, or a key, is not allowed.
    """
    missing = find_missing_permissions(client, prefix, commands)
    if missing:
        raise RedisPermissionError(f"the user of redis.url lacks {' '.join(missing)}")


def _find_missing_transaction_commands(client: Any, key: str) -> list[str]:
    try:
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(key)
            pipe.unwatch()
            pipe.multi()
            pipe.exists(key)
            pipe.execute()
    except RedisPermissionError as error:
        text = str(error)
        return [
            f"+{word.lower()}"
            for word in TRANSACTION_COMMANDS
            if f"'{word.lower()}'" in text or f"without {word}" in text
        ]
    return []


def _parse_command(trial: str) -> str:
    words = trial.split()
    return " ".join(words[:2]) if words[0] in ("XINFO", "XGROUP") else words[0]


def _build_command(trial: str, key: str) -> list[str]:
    command = _parse_command(trial)
    rest = trial.removeprefix(command).split() or ["{key}"]
    return [command, *(word.replace("{key}", key) for word in rest)]


def _to_permission(error: RedisPermissionError, command: str, pattern: str) -> str:
    """Return `+command` or `~key`, whichever Redis refused."""
    return f"+{command.lower().replace(' ', '|')}" if "to run the" in str(error) else f"~{pattern}"
