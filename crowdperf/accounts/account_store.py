"""Accounts, tokens and sessions in Redis. Each change and its audit entry are one transaction."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import redis.asyncio
from msgspec import Struct
from msgspec.structs import replace

from crowdperf.accounts import audit_log
from crowdperf.accounts.credentials import generate_secret, hash_secret, is_same_secret
from crowdperf.accounts.principal import Account, Accounts, Principal, Token
from crowdperf.messaging.redis.client import AnyClient
from crowdperf.messaging.schema import AuditEntry

ACCOUNTS_KEY = "crowdperf:accounts"
TOKENS_KEY = "crowdperf:tokens"
SESSION_KEY_PREFIX = "crowdperf:session:"
SESSION_IDLE_S = 12 * 3600
"""A session unused for this long has ended."""
SESSIONS_OF_KEY_PREFIX = "crowdperf:sessions:"
"""Sorted set of one account's session keys by the time of the sign-in. A removal deletes them by it."""
MAX_SESSION_S = 7 * 86_400
SESSION_TOUCH_S = 300
"""Minimum time between two writes of a session in use."""
TOUCH_SCRIPT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[3] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
"""
"""A session that was closed, or limited to a kiosk, since it was read stays so."""
TOKEN_PREFIX = "cperf_"


class Session(Struct, frozen=True, kw_only=True):
    """A signed-in browser. Its Redis key is the hash of the cookie's value."""

    account: str
    generation: int
    csrf: str
    created_at: float
    touched_at: float
    account_id: str = ""
    is_kiosk: bool = False
    """Whether the browser may check in and out only."""

    def is_of(self, account: Account) -> bool:
        """Check whether the session is of this very account, with its present password and role."""
        return (self.account_id, self.generation) == (account.id, account.generation)

    def get_idle_limit(self, account: Account) -> int | None:
        """Return the seconds without use that end it; None for a kiosk's, which only a revocation ends."""
        return None if self.is_kiosk and account.role == "kiosk" else SESSION_IDLE_S


class AccountStore:
    """Read and change the accounts of one site.

    Every method may raise redis.ConnectionError or redis.TimeoutError.
    """

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "") -> None:
        self._client: AnyClient = client
        self._prefix = prefix

    @contextlib.asynccontextmanager
    async def _audited(self, entry: AuditEntry) -> AsyncIterator[Any]:
        """Yield the pipeline of a change, and execute it together with its audit entry."""
        async with self._client.pipeline() as pipe:
            yield pipe
            audit_log.stage_entry(pipe, entry, self._prefix)
            await pipe.execute()

    async def read_accounts(self) -> dict[str, Account]:
        """Read every account by name."""
        return _decode_accounts(await self._client.hgetall(self._prefix + ACCOUNTS_KEY))

    async def read_account(self, name: str) -> Account | None:
        """Read one account; None if it does not exist."""
        raw = await self._client.hget(self._prefix + ACCOUNTS_KEY, name)
        return msgspec.json.decode(raw, type=Account) if raw else None

    async def edit(
        self, change: Callable[[Accounts], dict[str, Account]], entry: AuditEntry, *, revoke_tokens_of: str = ""
    ) -> dict[str, Account]:
        """Apply a pure change to the accounts, or none where it raises; concurrent changes are not lost.

        A new account gets an id. A removed account takes its sessions and tokens with it. So does a new one that has
        the name of an earlier account: older versions could leave tokens behind.

        Args:
            change: Returns the accounts after the change.
            entry: Audit entry of the change. Its detail gets the revoked tokens.
            revoke_tokens_of: Name of an account whose tokens are revoked as well.

        Returns:
            The accounts after the change.
        """
        names = self._prefix + ACCOUNTS_KEY, self._prefix + TOKENS_KEY

        async def stage(pipe: Any) -> dict[str, Account]:
            before = _decode_accounts(await pipe.hgetall(names[0]))
            after = {
                name: row if name in before or row.id else replace(row, id=secrets.token_hex(8))
                for name, row in change(before).items()
            }
            exchanged = before.keys() ^ after.keys()
            # A kiosk's session has no time after which Redis removes it.
            ended = {name for name in before.keys() & after.keys() if before[name].generation < after[name].generation}
            sessions = [key for name in exchanged | ended for key in await self._read_session_keys(pipe, name)]
            tokens = _decode_tokens(await pipe.hgetall(names[1]))
            revoked = [token.id for token in tokens if token.account in exchanged | {revoke_tokens_of}]
            pipe.multi()
            for name in before.keys() - after.keys():
                pipe.hdel(names[0], name)
            for name, row in after.items():
                if before.get(name) != row:
                    pipe.hset(names[0], name, msgspec.json.encode(row))
            if sessions:
                pipe.delete(*sessions)
            if revoked:
                pipe.hdel(names[1], *revoked)
            audit_log.stage_entry(pipe, _add_revoked_tokens(entry, revoked), self._prefix)
            return after

        # Repeated when another change comes between reading and writing.
        changed: dict[str, Account] = await self._client.transaction(stage, *names, value_from_callable=True)
        return changed

    async def _read_session_keys(self, pipe: Any, name: str) -> list[bytes]:
        """Read the keys of an account's sessions, and the key of the set that has them."""
        key = self._prefix + SESSIONS_OF_KEY_PREFIX + name
        return [*await pipe.zrange(key, 0, -1), key.encode()]

    async def open_session(
        self, account: Account, now: float, entry: AuditEntry, *, replaces: str = "", is_kiosk: bool = False
    ) -> tuple[str, Session]:
        """Sign the account in.

        Args:
            account: Account that signs in.
            now: Unix seconds.
            entry: Audit entry of the sign-in.
            replaces: Value of the browser's earlier cookie, whose session ends.
            is_kiosk: Whether the session is the device of a kiosk.

        Returns:
            Value of the cookie, and the session.
        """
        value = generate_secret()
        session = Session(
            account=account.name,
            generation=account.generation,
            csrf=generate_secret(),
            created_at=now,
            touched_at=now,
            account_id=account.id,
            is_kiosk=is_kiosk,
        )
        key, sessions = self._session_key(value), self._prefix + SESSIONS_OF_KEY_PREFIX + account.name
        async with self._audited(entry) as pipe:
            if replaces:
                pipe.delete(self._session_key(replaces))
            pipe.set(key, msgspec.json.encode(session), ex=session.get_idle_limit(account))
            pipe.zadd(sessions, {key: now})
            if not is_kiosk:
                pipe.zremrangebyscore(sessions, "-inf", now - MAX_SESSION_S)
                pipe.expire(sessions, MAX_SESSION_S)
        return value, session

    async def find_session_principal(self, value: str, now: float) -> Principal | None:
        """Find the principal of a cookie; None when its session has ended, or the account has changed."""
        return await self._load_session_principal(self._session_key(value), now)

    async def refresh_principal(self, principal: Principal, now: float) -> Principal | None:
        """Read the principal of an open connection again; None when its session or token has ended."""
        if principal.kind in ("session", "kiosk"):
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
        idle_limit = session.get_idle_limit(account) if account else None
        expired = idle_limit is not None and now - session.created_at > MAX_SESSION_S
        if account is None or account.disabled or not session.is_of(account) or expired:
            await self._client.delete(key)
            return None
        if now - session.touched_at > SESSION_TOUCH_S:
            touched = msgspec.json.encode(replace(session, touched_at=now))
            await self._client.eval(TOUCH_SCRIPT, 1, key, raw, touched, idle_limit or 0)
        return account.to_principal(key, session.csrf, is_kiosk=session.is_kiosk)

    async def limit_to_kiosk(self, key: str, entry: AuditEntry) -> None:
        """Take all but check-in and check-out from the session of that key, until the next sign-in."""
        raw = await self._client.get(key)
        if raw is None:
            return
        session = msgspec.json.decode(raw, type=Session)
        async with self._audited(entry) as pipe:
            pipe.set(key, msgspec.json.encode(replace(session, is_kiosk=True)), keepttl=True, xx=True)

    async def close_session(self, key: str, entry: AuditEntry) -> None:
        """Sign out the session of that key (`Principal.session`)."""
        async with self._audited(entry) as pipe:
            pipe.delete(key)

    def _session_key(self, value: str) -> str:
        return self._prefix + SESSION_KEY_PREFIX + hash_secret(value)

    async def read_tokens(self) -> list[Token]:
        """Read every token, oldest first."""
        return _decode_tokens(await self._client.hgetall(self._prefix + TOKENS_KEY))

    async def add_token(self, token: Token, entry: AuditEntry) -> None:
        """Store a token."""
        async with self._audited(entry) as pipe:
            pipe.hset(self._prefix + TOKENS_KEY, token.id, msgspec.json.encode(token))

    async def remove_tokens(self, ids: list[str], entry: AuditEntry) -> None:
        """Revoke tokens."""
        async with self._audited(entry) as pipe:
            if ids:
                pipe.hdel(self._prefix + TOKENS_KEY, *ids)

    async def find_token_principal(self, text: str, now: float) -> Principal | None:
        """Find the principal of an API token; None when the token or its owner is not valid."""
        token_id, _, secret_part = text.removeprefix(TOKEN_PREFIX).partition("_")
        return await self._load_token_principal(token_id, secret_part, now)

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


def _decode_tokens(rows: dict[bytes, bytes]) -> list[Token]:
    return sorted((msgspec.json.decode(raw, type=Token) for raw in rows.values()), key=lambda row: row.created_at)


def _add_revoked_tokens(entry: AuditEntry, ids: list[str]) -> AuditEntry:
    if not ids:
        return entry
    detail = f"revoked the tokens {', '.join(ids)}"
    return replace(entry, detail=f"{entry.detail}, {detail}" if entry.detail else detail)
