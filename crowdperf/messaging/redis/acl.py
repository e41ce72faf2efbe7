"""What a Redis user needs where redis.url names one with an ACL (docs/redis.md), and which of it is missing.

Every permission is tried by using it: a user may be forbidden to ask for its own rules (ACL GETUSER, ACL DRYRUN). Redis
looks at permissions before anything else, so any other answer than NOPERM, an error too, means that it is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

from crowdperf.messaging.redis.client import RedisPermissionError

LOG_KEYS = ("person_logs", "vehicle_logs")
KEY_NAMESPACE = "crowdperf:"
COMMAND_CATEGORIES = "+@read +@write +@connection +@transaction +@scripting -@dangerous +info"
"""In this order: INFO is among the dangerous commands."""

READ_TRIALS = (
    *("EXISTS", "GET", "HGETALL", "HKEYS", "SMEMBERS", "TTL", "XINFO GROUPS", "XINFO STREAM", "XLEN", "ZCARD"),
    *("HGET {key} f", "HMGET {key} f", "MGET", "SCARD", "SISMEMBER {key} m", "SCAN 0 COUNT 1", "XPENDING {key} g"),
    *("XRANGE {key} - + COUNT 1", "XREVRANGE {key} + - COUNT 1", "XREAD COUNT 1 STREAMS {key} 0"),
    *("ZCOUNT {key} 0 0", "ZRANGE {key} 0 0", "ZREVRANGE {key} 0 0", "ZRANGEBYSCORE {key} 0 0"),
    "ZREVRANGEBYSCORE {key} 0 0",
)
# SET comes first: what it sets ends by itself, and the others, which want another kind of value, then do nothing.
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
"""A command, and what follows; `{key}` (behind the command where nothing follows) is one that is there only now."""
LOG_TRIALS = ("ZCARD {key}", "ZADD {key} XX 0 none")
"""On the history itself: they read it, and change nothing."""
TRANSACTION_COMMANDS = ("MULTI", "EXEC", "WATCH", "UNWATCH")
RECORDER_COMMANDS = frozenset({"EVAL", "HMGET", "EXISTS", "HSET", "ZADD", "SADD", "BITFIELD", "XACK"})
"""The recorder's script, which Redis would leave half done where it runs into a missing permission."""


def get_key_patterns(prefix: str = "") -> tuple[str, ...]:
    """The patterns of every key."""
    return (*(prefix + log for log in LOG_KEYS), f"{prefix}{KEY_NAMESPACE}*")


def build_acl_rules(prefix: str = "") -> str:
    """The rules of ACL SETUSER that allow a site what it needs."""
    return " ".join([*(f"~{pattern}" for pattern in get_key_patterns(prefix)), COMMAND_CATEGORIES])


def find_missing_permissions(client: Any, prefix: str = "", commands: Collection[str] = ()) -> list[str]:
    """The permissions that the client's user does not have, as ACL SETUSER writes them; all is as it was afterwards.

    Args:
        only: these commands, instead of all that a site uses.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    pattern = f"{prefix}{KEY_NAMESPACE}*"
    key = f"{prefix}{KEY_NAMESPACE}check:{secrets.token_hex(8)}"
    trials = [trial for trial in TRIALS if not commands or _parse_command(trial) in (*commands, "SET", "DEL")]
    asked = [(pattern, _build_command(trial, key)) for trial in trials]
    asked += [(prefix + log, _build_command(trial, prefix + log)) for log in LOG_KEYS for trial in LOG_TRIALS]
    with client.pipeline(transaction=False) as pipe:
        for _, words in asked:
            pipe.execute_command(*words)
        replies = pipe.execute(raise_on_error=False)
    found = [
        _to_permission(reply, words[0], name)
        for (name, words), reply in zip(asked, replies, strict=True)
        if isinstance(reply, RedisPermissionError)
    ]
    if commands:
        known = {f"+{command.lower()}" for command in commands}
        found = [permission for permission in found if permission.startswith("~") or permission in known]
    else:
        found += _find_missing_transaction_commands(client, key)
    return list(dict.fromkeys(found))


def require_permissions(client: Any, prefix: str, commands: Collection[str]) -> None:
    """See to it that nothing is begun that could not be ended.

    Raises:
        Forbidden: one of these commands, or a key, is not allowed.
    """
    lacking = find_missing_permissions(client, prefix, commands)
    if lacking:
        raise RedisPermissionError(f"the user of redis.url lacks {' '.join(lacking)}")


def _find_missing_transaction_commands(client: Any, key: str) -> list[str]:
    try:
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(key)
            pipe.unwatch()
            pipe.multi()
            pipe.exists(key)
            pipe.execute()
    except RedisPermissionError as error:
        named = [
            word
            for word in TRANSACTION_COMMANDS
            if f"'{word.lower()}'" in str(error) or f"without {word}" in str(error)
        ]
        return [f"+{word.lower()}" for word in named]
    return []


def _parse_command(trial: str) -> str:
    words = trial.split()
    return " ".join(words[:2]) if words[0] in ("XINFO", "XGROUP") else words[0]


def _build_command(trial: str, key: str) -> list[str]:
    command = _parse_command(trial)
    rest = trial.removeprefix(command).split() or ["{key}"]
    return [command, *(word.replace("{key}", key) for word in rest)]


def _to_permission(error: RedisPermissionError, command: str, pattern: str) -> str:
    """`+command` or `~key`: what Redis has against it."""
    return f"+{command.lower().replace(' ', '|')}" if "to run the" in str(error) else f"~{pattern}"
