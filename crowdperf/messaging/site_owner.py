"""One site per Redis and prefix: a record of the site that has it, renewed by each of its processes.

Two sites on one prefix would take each other's frames for repetitions, and read each other's streams.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct

from crowdperf.messaging.redis.client import OUTAGE, connect, guard_new_connections
from crowdperf.primitives.atomic_file import create_private_file, write_file
from crowdperf.runtime.process_runtime import ProcessRuntime

RECORD_S = 15.0
"""The record of an installation that has crashed ends after this time."""
RENEW_S = 2.0
SILENT_S = 6.0
"""An earlier run of this installation has ended when its record was not renewed for so long, three times `RENEW_S`."""
CLAIM_SCRIPT = """
local owner = redis.call('HMGET', KEYS[1], 'instance', 'host', 'run', 'at')
local same = owner[1] == ARGV[1] and owner[2] == ARGV[2]
if owner[1] and not (same and ((owner[3] or '') == ARGV[3] or owner[4] == ARGV[6])) then return owner end
redis.call('HSET', KEYS[1], 'instance', ARGV[1], 'host', ARGV[2], 'run', ARGV[3], 'at', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return false
"""
"""Take or renew the record, also that of an earlier run which is still as it was at ARGV[6]; else return it."""
RELEASE_SCRIPT = """
if redis.call('HGET', KEYS[1], 'run') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

log = logging.getLogger(__name__)


class SiteConflictError(redis.ConnectionError):
    """Another installation has the prefix, so this process may not use Redis. The text has the remedy."""


class SiteOwner(Struct, frozen=True):
    """A site that runs: the random id of its installation, its machine, and a random id of this run.

    A copied data folder has another machine, and a cloned machine another run.
    """

    instance: str
    host: str
    run: str = ""

    def describe_conflict(self, prefix: str) -> str:
        """Describe that this installation has the prefix which another one wants."""
        return (
            f"installation {self.instance} on {self.host} (run {self.run}) uses this Redis with the key prefix "
            f"{prefix!r} already, so nothing is written. Remedy: give this site a `node` name of its own, or stop the "
            "other one."
        )


def owner_key(prefix: str = "") -> str:
    """Return the key of the record."""
    return f"{prefix}crowdperf:owner"


def find_site_owner(file: Path) -> SiteOwner:
    """Read the installation's id, machine and run from `file`, which is created where it is missing."""
    create_private_file(file, _encode(secrets.token_hex(4)))
    instance, _, rest = file.read_text(encoding="utf-8").partition(" ")
    host, _, run = rest.partition(" ")
    return SiteOwner(instance, host, run)


def register_run(file: Path) -> SiteOwner:
    """Write a new run and this machine's present name into `file`; all processes of the run read it."""
    write_file(file, _encode(find_site_owner(file).instance or secrets.token_hex(4)), mode=0o600)
    return find_site_owner(file)


def _encode(instance: str) -> bytes:
    return f"{instance} {socket.gethostname()} {secrets.token_hex(4)}".encode()


def read_owner(client: Any, prefix: str = "") -> SiteOwner | None:
    """Read the site that has the prefix; None without one."""
    instance, host, run = client.hmget(owner_key(prefix), "instance", "host", "run")
    return _decode(instance, host, run or b"") if instance and host else None


def _decode(*fields: bytes | None) -> SiteOwner:
    return SiteOwner(*((field or b"").decode() for field in fields))


class SiteClaim:
    """The claim of one installation to a Redis and prefix.

    Args:
        client: a redis-py client.
        owner: the installation.
        prefix: the configured prefix of every key.
    """

    def __init__(self, client: redis.Redis, owner: SiteOwner, prefix: str = "") -> None:
        self._client: Any = client
        self.owner = owner
        self.prefix = prefix
        self._seen_at = b""
        """The other record's time of renewal, and since when it has been the same."""
        self._seen_since = float("-inf")

    def renew(self) -> SiteOwner | None:
        """Take or renew the record; return the other site that has it, or None."""
        is_silent = time.monotonic() - self._seen_since >= SILENT_S
        found = self._client.eval(*self._build_arguments(self._seen_at if is_silent else b""))
        if not found:
            return None
        if found[3] != self._seen_at:
            self._seen_at, self._seen_since = found[3] or b"", time.monotonic()
        return _decode(*found[:3])

    def release(self) -> None:
        """Remove the record at an orderly end, so that the next run begins at once."""
        with contextlib.suppress(*OUTAGE):
            self._client.eval(RELEASE_SCRIPT, 1, owner_key(self.prefix), self.owner.run)

    def guard_connections(self) -> None:
        """Let no client of this process begin before it knows the owner, also if Redis was away before.

        Each new connection asks for the record before its first command. Clients that exist already do not.
        """

        def ask(connection: Any) -> None:
            connection.on_connect()
            connection.send_command("EVAL", *self._build_arguments())
            with contextlib.suppress(redis.ResponseError):
                self._check(connection.read_response())

        async def ask_async(connection: Any) -> None:
            await connection.on_connect()
            await connection.send_command("EVAL", *self._build_arguments())
            with contextlib.suppress(redis.ResponseError):
                self._check(await connection.read_response())

        guard_new_connections(ask, ask_async)

    def _build_arguments(self, silent_at: bytes = b"") -> tuple[Any, ...]:
        owner, key = self.owner, owner_key(self.prefix)
        record = (owner.instance, owner.host, owner.run, repr(time.time()), round(RECORD_S * 1000))
        return (CLAIM_SCRIPT, 1, key, *record, silent_at)

    def _check(self, found: Any) -> None:
        """Refuse another owner. A server that answers by an error refuses the writes as well."""
        if found:
            raise SiteConflictError(_decode(*found[:3]).describe_conflict(self.prefix))

    def wait(self, wait_for_stop: Callable[[float], bool]) -> SiteOwner | None:
        """Wait until the record is this site's.

        An outage is no reason to wait: each process treats it in its own way, and its connections ask again.

        Args:
            wait_for_stop: Sleeps for so many seconds, and returns whether to give up.

        Returns:
            None, or the installation that still had it at the end.
        """
        known: SiteOwner | None = None
        while True:
            other = self._find_other()
            if other is None:
                return None
            if other != known:
                log.error("%s", other.describe_conflict(self.prefix))
                known = other
            if wait_for_stop(RENEW_S):
                return other

    def _find_other(self) -> SiteOwner | None:
        try:
            return self.renew()
        except OUTAGE:
            return None


def claim_site(runtime: ProcessRuntime, url: str, owner: SiteOwner, prefix: str = "") -> SiteClaim | None:
    """Claim a Redis for the installation of a process, and wait while another one has it.

    Args:
        runtime: the process.
        url: address of Redis.
        owner: the installation.
        prefix: the configured prefix of every key.

    Returns:
        The claim, to be renewed; None: the process stops.
    """
    claim = SiteClaim(connect(url), owner, prefix)
    return claim if claim.wait(runtime.wait_for_stop) is None else None
