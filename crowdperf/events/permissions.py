"""What a Redis user needs where redis.url names one with an ACL (docs/redis.md), and which of it is missing.

Every permission is tried by using it: a user may be forbidden to ask for its own rules (ACL GETUSER, ACL DRYRUN). Redis
looks at permissions before anything else, so any other answer than NOPERM, an error too, means that it is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

from crowdperf.events.clients import Forbidden

LITERAL = ("person_logs", "vehicle_logs")
OWN = "crowdperf:"
CATEGORIES = "+@read +@write +@connection +@transaction +@scripting -@dangerous +info"
"""In this order: INFO is among the dangerous commands."""

READING = (
    *("EXISTS", "GET", "HGETALL", "HKEYS", "SMEMBERS", "TTL", "XINFO GROUPS", "XINFO STREAM", "XLEN", "ZCARD"),
    *("HGET {key} f", "HMGET {key} f", "MGET", "SCARD", "SISMEMBER {key} m", "SCAN 0 COUNT 1", "XPENDING {key} g"),
    *("XRANGE {key} - + COUNT 1", "XREVRANGE {key} + - COUNT 1", "XREAD COUNT 1 STREAMS {key} 0"),
    *("ZCOUNT {key} 0 0", "ZRANGE {key} 0 0", "ZREVRANGE {key} 0 0", "ZRANGEBYSCORE {key} 0 0"),
    "ZREVRANGEBYSCORE {key} 0 0",
)
# SET comes first: what it sets ends by itself, and the others, which want another kind of value, then do nothing.
WRITING = (
    *("SET {key} x PX 10000", "INCR", "SETRANGE {key} 0 x", "BITFIELD {key} GET u8 0", "EXPIRE {key} 10"),
    *("PEXPIRE {key} 10000", "HSET {key} f v", "HSETNX {key} f v", "HDEL {key} f", "HINCRBY {key} f 1"),
    *("SADD {key} m", "SREM {key} m", "ZADD {key} XX 0 m", "ZREM {key} m", "ZREMRANGEBYSCORE {key} 0 0"),
    *("XADD {key} NOMKSTREAM * f v", "XDEL {key} 0-1", "XTRIM {key} MAXLEN 0", "XSETID {key} 0-1", "XACK {key} g 0-1"),
    *("XGROUP CREATE {key} g 0", "XGROUP SETID {key} g 0", "XREADGROUP GROUP g c COUNT 1 STREAMS {key} >"),
    *("XAUTOCLAIM {key} g c 0 0", "EXPIREAT {key} 1", "UNLINK", "DEL"),
)
SCRIPTS = ("EVAL return(0) 0",)
MEMORY = ("INFO memory",)
TRIALS = (*READING, *WRITING, *SCRIPTS, *MEMORY)
"""A command, and what follows; `{key}` (behind the command where nothing follows) is one that is there only now."""
ON_LOGS = ("ZCARD {key}", "ZADD {key} XX 0 none")
"""On the history itself: they read it, and change nothing."""
TRANSACTIONS = ("MULTI", "EXEC", "WATCH", "UNWATCH")
RECORDING = frozenset({"EVAL", "HMGET", "EXISTS", "HSET", "ZADD", "SADD", "BITFIELD", "XACK"})
"""The recorder's script, which Redis would leave half done where it runs into a missing permission."""


def keys(prefix: str = "") -> tuple[str, ...]:
    """The patterns of every key."""
    return (*(prefix + log for log in LITERAL), f"{prefix}{OWN}*")


def rule(prefix: str = "") -> str:
    """The rules of ACL SETUSER that allow a site what it needs."""
    return " ".join([*(f"~{pattern}" for pattern in keys(prefix)), CATEGORIES])


def missing(client: Any, prefix: str = "", only: Collection[str] = ()) -> list[str]:
    """The permissions that the client's user does not have, as ACL SETUSER writes them; all is as it was afterwards.

    Args:
        only: these commands, instead of all that a site uses.

    Raises:
        redis.ConnectionError, redis.TimeoutError: Redis is away.
    """
    pattern = f"{prefix}{OWN}*"
    key = f"{prefix}{OWN}check:{secrets.token_hex(8)}"
    trials = [trial for trial in TRIALS if not only or _command(trial) in (*only, "SET", "DEL")]
    asked = [(pattern, _words(trial, key)) for trial in trials]
    asked += [(prefix + log, _words(trial, prefix + log)) for log in LITERAL for trial in ON_LOGS]
    with client.pipeline(transaction=False) as pipe:
        for _, words in asked:
            pipe.execute_command(*words)
        replies = pipe.execute(raise_on_error=False)
    found = [
        _named(reply, words[0], name)
        for (name, words), reply in zip(asked, replies, strict=True)
        if isinstance(reply, Forbidden)
    ]
    if only:
        known = {f"+{command.lower()}" for command in only}
        found = [permission for permission in found if permission.startswith("~") or permission in known]
    else:
        found += _transactions(client, key)
    return list(dict.fromkeys(found))


def require(client: Any, prefix: str, only: Collection[str]) -> None:
    """See to it that nothing is begun that could not be ended.

    Raises:
        Forbidden: one of these commands, or a key, is not allowed.
    """
    lacking = missing(client, prefix, only)
    if lacking:
        raise Forbidden(f"the user of redis.url lacks {' '.join(lacking)}")


def _transactions(client: Any, key: str) -> list[str]:
    try:
        with client.pipeline(transaction=True) as pipe:
            pipe.watch(key)
            pipe.unwatch()
            pipe.multi()
            pipe.exists(key)
            pipe.execute()
    except Forbidden as error:
        named = [word for word in TRANSACTIONS if f"'{word.lower()}'" in str(error) or f"without {word}" in str(error)]
        return [f"+{word.lower()}" for word in named]
    return []


def _command(trial: str) -> str:
    words = trial.split()
    return " ".join(words[:2]) if words[0] in ("XINFO", "XGROUP") else words[0]


def _words(trial: str, key: str) -> list[str]:
    command = _command(trial)
    rest = trial.removeprefix(command).split() or ["{key}"]
    return [command, *(word.replace("{key}", key) for word in rest)]


def _named(error: Forbidden, command: str, pattern: str) -> str:
    """`+command` or `~key`: what Redis has against it."""
    return f"+{command.lower().replace(' ', '|')}" if "to run the" in str(error) else f"~{pattern}"
