"""One site per Redis and prefix: a record of the installation that has it, renewed by each of its processes.

Two sites on one prefix would take each other's frames for repetitions, and read each other's streams.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from msgspec import Struct

from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.primitives.atomic_file import create_private_file, write_file
from crowdperf.runtime.process_runtime import ProcessRuntime

RECORD_S = 15.0
"""The record of an installation that has crashed ends after this time."""
RENEW_S = 2.0
CLAIM_SCRIPT = """
local owner = redis.call('HMGET', KEYS[1], 'instance', 'host', 'at')
if owner[1] and (owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2]) then return owner end
redis.call('HSET', KEYS[1], 'instance', ARGV[1], 'host', ARGV[2], 'at', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return false
"""

log = logging.getLogger(__name__)


class SiteOwner(Struct, frozen=True):
    """An installation: its own random id, and its machine. A copied data folder has another machine."""

    instance: str
    host: str

    def describe_conflict(self, prefix: str) -> str:
        """Describe that this installation has the prefix which another one wants."""
        return (
            f"installation {self.instance} on {self.host} uses this Redis with the key prefix {prefix!r} already, so "
            "nothing is written. Remedy: give this site a `node` name of its own, or stop the other one."
        )


def owner_key(prefix: str = "") -> str:
    """Return the key of the record."""
    return f"{prefix}crowdperf:owner"


def find_site_owner(file: Path) -> SiteOwner:
    """Read the installation's id and machine from `file`, which is created where it is missing."""
    create_private_file(file, f"{secrets.token_hex(4)} {socket.gethostname()}".encode())
    instance, _, host = file.read_text(encoding="utf-8").partition(" ")
    return SiteOwner(instance, host)


def register_machine(file: Path) -> SiteOwner:
    """Write this machine's present name into `file`, once per start; a later name changes nothing."""
    owner = SiteOwner(find_site_owner(file).instance or secrets.token_hex(4), socket.gethostname())
    write_file(file, f"{owner.instance} {owner.host}".encode(), mode=0o600)
    return owner


def read_owner(client: Any, prefix: str = "") -> SiteOwner | None:
    """Read the installation that has the prefix; None without one."""
    instance, host = client.hmget(owner_key(prefix), "instance", "host")
    return SiteOwner(instance.decode(), host.decode()) if instance and host else None


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

    def renew(self) -> SiteOwner | None:
        """Take or renew the record; return the other installation that has it, or None."""
        record = (self.owner.instance, self.owner.host, repr(time.time()), round(RECORD_S * 1000))
        found = self._client.eval(CLAIM_SCRIPT, 1, owner_key(self.prefix), *record)
        return SiteOwner(found[0].decode(), found[1].decode()) if found else None

    def wait(self, wait_for_stop: Callable[[float], bool]) -> SiteOwner | None:
        """Wait until the record is this installation's.

        An outage is no reason to wait: each process treats it in its own way.

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
