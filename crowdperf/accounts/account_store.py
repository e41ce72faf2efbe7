"""Accounts, tokens and sessions in Redis, shared by every web process; each change and its audit entry in one MULTI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import redis
import redis.asyncio
from msgspec import Struct

from crowdperf.accounts import audit_log
from crowdperf.accounts.credentials import generate_secret, hash_secret, is_same_secret
from crowdperf.accounts.principal import Account, Accounts, Principal, Token
from crowdperf.messaging.schema import AuditEntry

ACCOUNTS_KEY = "crowdperf:accounts"
TOKENS_KEY = "crowdperf:tokens"
SESSION_KEY_PREFIX = "crowdperf:session:"
SESSION_IDLE_S = 12 * 3600
"""A session that nobody has used for this long has ended."""
MAX_SESSION_S = 7 * 86_400
SESSION_TOUCH_S = 300
"""A session in use is written at most this often."""
TOKEN_PREFIX = "cperf_"


class Session(Struct, frozen=True, kw_only=True):
    """One browser that is signed in. Redis holds it under the hash of what the browser's cookie says."""

    account: str
    generation: int
    csrf: str
    created_at: float
    touched_at: float


class AccountStore:
    """One site's accounts. Every method may raise redis.ConnectionError or redis.TimeoutError."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "") -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._prefix = prefix

    async def read_accounts(self) -> dict[str, Account]:
        """Every account by its name."""
        return _decode_accounts(await self._client.hgetall(self._prefix + ACCOUNTS_KEY))

    async def read_account(self, name: str) -> Account | None:
        """One account."""
        raw = await self._client.hget(self._prefix + ACCOUNTS_KEY, name)
        return msgspec.json.decode(raw, type=Account) if raw else None

    async def edit(self, change: Callable[[Accounts], dict[str, Account]], entry: AuditEntry) -> dict[str, Account]:
        """Apply a pure change to the accounts as they are; nobody else's change in between is lost.

        Raises:
            AccountError: from `change`; nothing is stored then.
        """
        while True:
            after = await self._try_edit(change, entry)
            if after is not None:
                return after

    async def _try_edit(
        self, change: Callable[[Accounts], dict[str, Account]], entry: AuditEntry
    ) -> dict[str, Account] | None:
        """One attempt of `edit`; None when somebody else's change came between reading and writing."""
        name = self._prefix + ACCOUNTS_KEY
        async with self._client.pipeline() as pipe:
            await pipe.watch(name)
            before = _decode_accounts(await pipe.hgetall(name))
            after = change(before)
            pipe.multi()
            for gone in before.keys() - after.keys():
                pipe.hdel(name, gone)
            for key, row in after.items():
                if before.get(key) != row:
                    pipe.hset(name, key, msgspec.json.encode(row))
            audit_log.stage_entry(pipe, entry, self._prefix)
            try:
                await pipe.execute()
            except redis.WatchError:
                return None
            return after

    async def open_session(self, account: Account, now: float, entry: AuditEntry) -> tuple[str, Session]:
        """Sign the account in; returns the cookie's value and the session."""
        value = generate_secret()
        session = Session(
            account=account.name, generation=account.generation, csrf=generate_secret(), created_at=now, touched_at=now
        )
        async with self._client.pipeline() as pipe:
            pipe.set(self._session_key(value), msgspec.json.encode(session), ex=SESSION_IDLE_S)
            audit_log.stage_entry(pipe, entry, self._prefix)
            await pipe.execute()
        return value, session

    async def find_session_principal(self, value: str, now: float) -> Principal | None:
        """Whom a cookie's value stands for; None when the session has ended, by time or by a change of the account."""
        return await self._load_session_principal(self._session_key(value), now)

    async def refresh_principal(self, principal: Principal, now: float) -> Principal | None:
        """The same principal as it is by now, for a connection that stays open; None when it has ended."""
        if principal.kind == "session":
            return await self._load_session_principal(principal.session, now)
        if principal.kind == "token":
            return await self._load_token_principal(principal.token, None, now)
        return principal

    async def _load_session_principal(self, key: str, now: float) -> Principal | None:
        raw = await self._client.get(key)
        if raw is None:
            return None
        session = msgspec.json.decode(raw, type=Session)
        account = await self.read_account(session.account)
        over = now - session.created_at > MAX_SESSION_S
        if account is None or account.disabled or account.generation != session.generation or over:
            await self._client.delete(key)
            return None
        if now - session.touched_at > SESSION_TOUCH_S:
            touched = msgspec.structs.replace(session, touched_at=now)
            # xx: a session that was ended meanwhile stays ended.
            await self._client.set(key, msgspec.json.encode(touched), ex=SESSION_IDLE_S, xx=True)
        return account.to_principal(key, session.csrf)

    async def close_session(self, key: str, entry: AuditEntry) -> None:
        """Sign out; `key` as the principal has it."""
        async with self._client.pipeline() as pipe:
            pipe.delete(key)
            audit_log.stage_entry(pipe, entry, self._prefix)
            await pipe.execute()

    def _session_key(self, value: str) -> str:
        return self._prefix + SESSION_KEY_PREFIX + hash_secret(value)

    async def read_tokens(self) -> list[Token]:
        """Every token, oldest first."""
        rows = await self._client.hgetall(self._prefix + TOKENS_KEY)
        return sorted((msgspec.json.decode(raw, type=Token) for raw in rows.values()), key=lambda row: row.created_at)

    async def add_token(self, token: Token, entry: AuditEntry) -> None:
        """Keep a token."""
        async with self._client.pipeline() as pipe:
            pipe.hset(self._prefix + TOKENS_KEY, token.id, msgspec.json.encode(token))
            audit_log.stage_entry(pipe, entry, self._prefix)
            await pipe.execute()

    async def remove_tokens(self, ids: list[str], entry: AuditEntry) -> None:
        """Revoke tokens."""
        async with self._client.pipeline() as pipe:
            if ids:
                pipe.hdel(self._prefix + TOKENS_KEY, *ids)
            audit_log.stage_entry(pipe, entry, self._prefix)
            await pipe.execute()

    async def find_token_principal(self, text: str, now: float) -> Principal | None:
        """Whom an API token stands for; None when it is unknown, revoked or expired, or its owner is."""
        token_id, _, rest = text.removeprefix(TOKEN_PREFIX).partition("_")
        return await self._load_token_principal(token_id, rest, now)

    async def _load_token_principal(self, token_id: str, secret_part: str | None, now: float) -> Principal | None:
        raw = await self._client.hget(self._prefix + TOKENS_KEY, token_id)
        if raw is None:
            return None
        token = msgspec.json.decode(raw, type=Token)
        owner = await self.read_account(token.account)
        if owner is None or (
            secret_part is not None and not is_same_secret(token.secret_sha256, hash_secret(secret_part))
        ):
            return None
        return token.to_principal(owner, now)


def _decode_accounts(rows: dict[bytes, bytes]) -> dict[str, Account]:
    return {name.decode(): msgspec.json.decode(raw, type=Account) for name, raw in rows.items()}
