"""Accounts as the store keeps them, and browsers that are signed in."""

from __future__ import annotations

import time

import httpx
import msgspec

from crowdperf.accounts import credentials
from crowdperf.accounts.account_store import ACCOUNTS_KEY
from crowdperf.accounts.principal import Account
from tests.conftest import RedisServer
from tests.support.webserver import TIMEOUT_S, Served

PASSWORD = "correct horse battery"
HASH = credentials.hash_password(PASSWORD)


class People:
    """The people of one served site; every one has `PASSWORD`."""

    def __init__(self, server: Served, redis_server: RedisServer) -> None:
        self._server = server
        self._redis = redis_server.client()

    def add(self, name: str, role: str, cameras: list[str] | None = None) -> None:
        """Store an account."""
        row = Account(name=name, role=role, password=HASH, created_at=time.time(), cameras=cameras)  # type: ignore[arg-type]
        self._redis.hset(ACCOUNTS_KEY, name, msgspec.json.encode(row))

    def browser(self, name: str, role: str = "", cameras: list[str] | None = None) -> httpx.Client:
        """Sign in; with a role the account is made first."""
        if role:
            self.add(name, role, cameras)
        reply = httpx.post(
            f"{self._server.url}/api/v1/session", json={"name": name, "password": PASSWORD}, timeout=TIMEOUT_S
        )
        assert reply.status_code == 200, reply.text
        headers = {"X-CSRF-Token": reply.json()["csrf"]}
        return httpx.Client(base_url=self._server.url, cookies=reply.cookies, headers=headers, timeout=TIMEOUT_S)
