"""Accounts, API tokens and the audit log."""

from __future__ import annotations

import secrets
from typing import Annotated

from litestar import Router, delete, get, patch, post
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from crowdperf.accounts import audit_log as audit
from crowdperf.accounts import principal as model
from crowdperf.accounts.account_store import TOKEN_PREFIX
from crowdperf.accounts.credentials import generate_secret, hash_secret
from crowdperf.accounts.principal import (
    MAX_TOKEN_DAYS,
    Account,
    AccountName,
    Permission,
    Role,
    Token,
    intersect_cameras,
)
from crowdperf.settings.base import CameraId
from crowdperf.web.parameters import errors, format_rfc3339, parse_stream_id
from crowdperf.web.problems import forbidden, not_found
from crowdperf.web.schemas import Time, to_reply
from crowdperf.web.sign_in import Password, require_own_password
from crowdperf.web.state import AppDependency, ContextDependency, RequestContext

CameraIds = Annotated[list[CameraId], Meta(max_length=10_000, description="Ids of the cameras that may be seen.")]
UserPath = Annotated[str, PathParameter(description="The account's name.", max_length=64)]
TokenPath = Annotated[str, PathParameter(description="The token's id.", max_length=32)]


class NewUser(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new account."""

    name: AccountName
    role: Role
    password: Password
    cameras: CameraIds | None = None
    """Null means all, future ones included."""


class UserChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """The settings to change; omitted ones stay. A new password ends the account's sessions."""

    role: Role | UnsetType = UNSET
    cameras: CameraIds | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    revoke_tokens: bool = False
    """Whether the account's API tokens are revoked as well."""


class UserReply(Struct, kw_only=True):
    """An account without its password hash."""

    name: str
    role: Role
    cameras: list[str] | None
    disabled: bool
    created: Time


class UsersReply(Struct, kw_only=True):
    """Every account, by name."""

    users: list[UserReply]


class NewToken(Struct, kw_only=True, forbid_unknown_fields=True):
    """A token for a program; it never has more rights than its owner."""

    label: Annotated[str, Meta(min_length=1, max_length=100, examples=["nightly export"])]
    permissions: Annotated[list[Permission], Meta(min_length=1, max_length=6, examples=[["read"]])]
    password: Password
    """Password of the person who makes the token."""
    days: Annotated[int, Meta(ge=1, le=MAX_TOKEN_DAYS)] = 90
    cameras: CameraIds | None = None


class TokenReply(Struct, kw_only=True):
    """A token. Its secret is shown once, in the response that creates it."""

    id: str
    account: str
    label: str
    permissions: list[Permission]
    cameras: list[str] | None
    created: Time
    expires: Time
    expired: bool


class TokenMade(TokenReply, kw_only=True):
    """A new token with its secret."""

    token: Annotated[str, Meta(description="Send it as `Authorization: Bearer …`. It is not shown again.")]


class TokensReply(Struct, kw_only=True):
    """Tokens, oldest first."""

    tokens: list[TokenReply]


class AuditEntryReply(Struct, kw_only=True):
    """One change or sign-in."""

    id: str
    time: Time
    who: str
    via: str
    action: Annotated[str, Meta(examples=["camera.change"])]
    target: str
    address: str
    detail: str
    token: str


class AuditPage(Struct, kw_only=True):
    """A page of the audit log, newest first."""

    entries: list[AuditEntryReply]
    next_cursor: str | None


@get("/users", need="admin", summary="Accounts", responses=errors(503))
async def users(app: AppDependency) -> UsersReply:
    """List every account."""
    rows = await app.accounts.read_accounts()
    return UsersReply(users=[_to_user_reply(row) for _, row in sorted(rows.items())])


@post("/users", need="admin", summary="Make an account", responses=errors(400, 409, 503))
async def make_user(context: ContextDependency, data: JSONBody[NewUser]) -> UserReply:
    """Create an account that can sign in at once."""
    account = Account(
        name=data.name,
        role=data.role,
        password=await context.app.hash_password(data.password, data.name),
        created_at=context.app.now(),
        cameras=None if data.cameras is None else sorted(set(data.cameras)),
    )
    detail = f"role {data.role}, cameras {_format_cameras(account.cameras)}"
    entry = context.build_audit_entry("account.create", data.name, detail)
    await context.app.accounts.edit(lambda rows: model.add_account(rows, account), entry)
    return _to_user_reply(account)


@get("/users/{name:str}", need="admin", summary="One account", responses=errors(400, 404, 503))
async def user(app: AppDependency, name: UserPath) -> UserReply:
    """Return one account."""
    account = await app.accounts.read_account(name)
    if account is None:
        raise not_found(f"there is no account {name!r}. Remedy: see /api/v1/users.")
    return _to_user_reply(account)


@patch("/users/{name:str}", need="admin", summary="Change an account", responses=errors(400, 404, 409, 503))
async def change_user(context: ContextDependency, name: UserPath, data: JSONBody[UserChange]) -> UserReply:
    """Change an account with effect from its next request.

    A change of role or password ends its sessions. A new password also ends the wait after too many sign-ins.
    """
    password = None if data.password is UNSET else await context.app.hash_password(data.password, name)
    cameras = None if data.cameras is UNSET else data.cameras
    changes = {
        "role": data.role,
        "cameras": data.cameras if data.cameras is UNSET else _format_cameras(data.cameras),
        "disabled": data.disabled,
        "password": data.password if data.password is UNSET else "new",
    }
    detail = ", ".join(f"{key} {value}" for key, value in changes.items() if value is not UNSET)

    def change(rows: model.Accounts) -> dict[str, Account]:
        return model.change_account(
            rows,
            name,
            role=None if data.role is UNSET else data.role,
            cameras=cameras,
            all_cameras=data.cameras is None,
            disabled=None if data.disabled is UNSET else data.disabled,
            password=password,
        )

    entry = context.build_audit_entry("account.change", name, detail)
    after = await context.app.accounts.edit(change, entry, revoke_tokens_of=name if data.revoke_tokens else "")
    if password is not None:
        await context.app.sign_in_limiter.forget_account(name)
    return _to_user_reply(after[name])


@delete("/users/{name:str}", need="admin", summary="Remove an account", responses=errors(400, 404, 409, 503))
async def remove_user(context: ContextDependency, name: UserPath) -> None:
    """Remove an account with its sessions and tokens. The audit log keeps the name."""
    entry = context.build_audit_entry("account.remove", name)
    await context.app.accounts.edit(lambda rows: model.remove_account(rows, name), entry)


@get("/tokens", need="self", summary="API tokens", responses=errors(503))
async def tokens(context: ContextDependency) -> TokensReply:
    """List the caller's tokens, or all of them for an administrator."""
    return TokensReply(
        tokens=[
            _to_token_reply(row, context.app.now(), context.principal.cameras) for row in await _read_tokens(context)
        ]
    )


@post("/tokens", need="self", summary="Make an API token", responses=errors(400, 429, 503))
async def make_token(context: ContextDependency, data: JSONBody[NewToken]) -> TokenMade:
    """Create a token. Only this response holds its secret: Redis keeps the SHA-256.

    It asks for the password: a token outlives the session that makes it.
    """
    for permission in data.permissions:
        if not context.principal.has_permission(permission):
            raise forbidden(
                f"a token cannot have {permission!r}, because its owner does not have it. Remedy: leave it out."
            )
    await require_own_password(
        context, data.password, "the password is wrong, so no token was made. Remedy: give your own password again."
    )
    text, now = generate_secret(), context.app.now()
    requested = None if data.cameras is None else frozenset(data.cameras)
    allowed = intersect_cameras(context.principal.cameras, requested)
    row = Token(
        id=secrets.token_hex(6),
        account=context.principal.name,
        label=data.label,
        secret_sha256=hash_secret(text),
        permissions=sorted(set(data.permissions)),
        created_at=now,
        expires_at=now + data.days * 86_400,
        cameras=None if allowed is None else sorted(allowed),
        account_id=context.principal.account_id,
    )
    detail = f"{', '.join(row.permissions)}; cameras {_format_cameras(row.cameras)}; {data.days} days"
    await context.app.accounts.add_token(row, context.build_audit_entry("token.create", row.id, detail))
    return to_reply(TokenMade, _to_token_reply(row, now, allowed), token=f"{TOKEN_PREFIX}{row.id}_{text}")


@delete("/tokens/{token_id:str}", need="self", summary="Revoke an API token", responses=errors(400, 404, 503))
async def revoke_token(context: ContextDependency, token_id: TokenPath) -> None:
    """Revoke a token of the caller, or any token as an administrator. It ends at once."""
    if token_id not in {row.id for row in await _read_tokens(context)}:
        raise not_found(f"there is no token {token_id!r}. Remedy: see /api/v1/tokens.")
    await context.app.accounts.remove_tokens([token_id], context.build_audit_entry("token.revoke", token_id))


@get("/audit", need="admin", summary="Audit log", responses=errors(400, 503))
async def audit_log(
    app: AppDependency,
    account: Annotated[
        str | None, QueryParameter(name="who", description="Only this account's.", max_length=64)
    ] = None,
    action: Annotated[str | None, QueryParameter(description="Only of this action.", max_length=64)] = None,
    cursor: Annotated[
        str | None, QueryParameter(description="`next_cursor` of the previous page.", max_length=64)
    ] = None,
    limit: Annotated[int, QueryParameter(description="Entries per page.", ge=1, le=1000)] = 100,
) -> AuditPage:
    """List every change and sign-in, newest first, kept for `retention.audit_days`.

    A page may be short: the log ends where `next_cursor` is null.
    """
    before = parse_stream_id("cursor", cursor) if cursor else None
    rows, following = await audit.read_newest_entries(
        app.redis, before, limit, app.prefix, account_name=account or "", actions=[action] if action else []
    )
    entries = [to_reply(AuditEntryReply, row, id=entry_id, time=format_rfc3339(row.ts)) for entry_id, row in rows]
    return AuditPage(entries=entries, next_cursor=following)


async def _read_tokens(context: RequestContext) -> list[Token]:
    """Read the tokens that the caller may manage."""
    rows = await context.app.accounts.read_tokens()
    see_all = context.principal.has_permission("admin")
    return [row for row in rows if see_all or row.account == context.principal.name]


def _format_cameras(cameras: list[str] | None) -> str:
    return "all" if cameras is None else "/".join(cameras) or "none"


def _to_user_reply(account: Account) -> UserReply:
    return to_reply(UserReply, account, created=format_rfc3339(account.created_at))


def _to_token_reply(token: Token, now: float, visible: frozenset[str] | None) -> TokenReply:
    # A token may be older than its owner's list of cameras.
    cameras = intersect_cameras(visible, None if token.cameras is None else frozenset(token.cameras))
    return to_reply(
        TokenReply,
        token,
        cameras=None if cameras is None else sorted(cameras),
        created=format_rfc3339(token.created_at),
        expires=format_rfc3339(token.expires_at),
        expired=now >= token.expires_at,
    )


router = Router(
    "/",
    tags=["accounts"],
    route_handlers=[users, make_user, user, change_user, remove_user, tokens, make_token, revoke_token, audit_log],
)
