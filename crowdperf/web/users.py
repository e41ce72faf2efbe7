"""Accounts, API tokens and the audit log."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Annotated, Any

from litestar import Request, Router, delete, get, patch, post
from litestar.params import JSONBody, PathParameter, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from crowdperf.accounts import audit, model
from crowdperf.accounts.model import LONGEST_TOKEN_DAYS, Account, AccountError, AccountName, Token, UnknownAccount
from crowdperf.accounts.passwords import digest, secret
from crowdperf.accounts.permissions import Permission, Principal, Role, narrowed
from crowdperf.accounts.store import TOKEN_PREFIX
from crowdperf.settings.base import CameraId
from crowdperf.web.access import Who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, CONFLICT, NOT_FOUND, REFUSED, UNAVAILABLE
from crowdperf.web.parameters import rfc3339, stream_id
from crowdperf.web.problems import Problem
from crowdperf.web.replies import Time
from crowdperf.web.sign_in import Password, hashed

Cameras = Annotated[list[CameraId], Meta(max_length=10_000, description="Ids of the cameras that may be seen.")]
UserPath = Annotated[str, PathParameter(description="The account's name.", max_length=64)]
TokenPath = Annotated[str, PathParameter(description="The token's id.", max_length=32)]


class NewUser(Struct, kw_only=True, forbid_unknown_fields=True):
    """A new account."""

    name: AccountName
    role: Role
    password: Password
    cameras: Cameras | None = None
    """null: all, those of the future included."""


class UserChange(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change; what is left out stays. A new password ends the account's sessions."""

    role: Role | UnsetType = UNSET
    cameras: Cameras | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    password: Password | UnsetType = UNSET


class UserReply(Struct, kw_only=True):
    """An account; its password's hash never leaves the server."""

    name: str
    role: Role
    cameras: list[str] | None
    disabled: bool
    created: Time


class UsersReply(Struct, kw_only=True):
    """Every account, by name."""

    users: list[UserReply]


class NewToken(Struct, kw_only=True, forbid_unknown_fields=True):
    """A token for a program. It can never do more than its owner."""

    label: Annotated[str, Meta(min_length=1, max_length=100, examples=["nightly export"])]
    permissions: Annotated[list[Permission], Meta(min_length=1, max_length=5, examples=[["read"]])]
    days: Annotated[int, Meta(ge=1, le=LONGEST_TOKEN_DAYS)] = 90
    cameras: Cameras | None = None


class TokenReply(Struct, kw_only=True):
    """A token; its secret is shown once, by the answer that makes it."""

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


class AuditReply(Struct, kw_only=True):
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

    entries: list[AuditReply]
    next_cursor: str | None


@get("/users", need="admin", summary="Accounts", tags=["accounts"], responses={**REFUSED, **UNAVAILABLE})
async def users(site: SiteContext) -> UsersReply:
    """Every account."""
    rows = await site.accounts.accounts()
    return UsersReply(users=[_user(row) for _, row in sorted(rows.items())])


@post(
    "/users",
    need="admin",
    summary="Make an account",
    tags=["accounts"],
    responses={**BAD_REQUEST, **REFUSED, **CONFLICT, **UNAVAILABLE},
)
async def make_user(site: SiteContext, request: Request[Any, Any, Any], who: Who, data: JSONBody[NewUser]) -> UserReply:
    """A new account, ready to sign in."""
    account = Account(
        name=data.name,
        role=data.role,
        password=await hashed(site, data.password, data.name),
        created_at=site.now(),
        cameras=None if data.cameras is None else sorted(set(data.cameras)),
    )
    detail = f"role {data.role}, cameras {_shown(account.cameras)}"
    entry = site.entry(who, request, "account.create", data.name, detail)
    await _edit(site, lambda rows: model.added(rows, account), entry)
    return _user(account)


@get(
    "/users/{name:str}",
    need="admin",
    summary="One account",
    tags=["accounts"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def user(site: SiteContext, name: UserPath) -> UserReply:
    """One account."""
    account = await site.accounts.account(name)
    if account is None:
        raise _unknown(name)
    return _user(account)


@patch(
    "/users/{name:str}",
    need="admin",
    summary="Change an account",
    tags=["accounts"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **CONFLICT, **UNAVAILABLE},
)
async def change_user(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, name: UserPath, data: JSONBody[UserChange]
) -> UserReply:
    """Takes effect with the account's next request; a change of role or password ends its sessions."""
    password = None if data.password is UNSET else await hashed(site, data.password, name)
    cameras = None if data.cameras is UNSET else data.cameras
    said = {
        "role": data.role,
        "cameras": data.cameras if data.cameras is UNSET else _shown(data.cameras),
        "disabled": data.disabled,
        "password": data.password if data.password is UNSET else "new",
    }
    detail = ", ".join(f"{key} {value}" for key, value in said.items() if value is not UNSET)

    def change(rows: model.Accounts) -> dict[str, Account]:
        return model.changed(
            rows,
            name,
            role=None if data.role is UNSET else data.role,
            cameras=cameras,
            all_cameras=data.cameras is None,
            disabled=None if data.disabled is UNSET else data.disabled,
            password=password,
        )

    after = await _edit(site, change, site.entry(who, request, "account.change", name, detail))
    return _user(after[name])


@delete(
    "/users/{name:str}",
    need="admin",
    summary="Remove an account",
    tags=["accounts"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **CONFLICT, **UNAVAILABLE},
)
async def remove_user(site: SiteContext, request: Request[Any, Any, Any], who: Who, name: UserPath) -> None:
    """Its sessions and tokens end with it. The audit log keeps the name."""
    entry = site.entry(who, request, "account.remove", name)
    await _edit(site, lambda rows: model.removed(rows, name), entry)
    owned = [row.id for row in await site.accounts.tokens() if row.account == name]
    if owned:
        await site.accounts.remove_tokens(owned, site.entry(who, request, "token.revoke", ", ".join(owned)))


@get("/tokens", need="self", summary="API tokens", tags=["accounts"], responses={**REFUSED, **UNAVAILABLE})
async def tokens(site: SiteContext, who: Who) -> TokensReply:
    """One's own; an administrator sees everybody's."""
    rows = await site.accounts.tokens()
    return TokensReply(tokens=[_token(row, site.now()) for row in rows if row.account == who.name or who.may("admin")])


@post(
    "/tokens",
    need="self",
    summary="Make an API token",
    tags=["accounts"],
    responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE},
)
async def make_token(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, data: JSONBody[NewToken]
) -> TokenMade:
    """The answer holds the secret, once. Redis keeps its SHA-256."""
    for permission in data.permissions:
        if not who.may(permission):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"a token cannot have {permission!r}, which its owner has not. Remedy: leave it out.",
            )
    text, now = secret(), site.now()
    asked = None if data.cameras is None else frozenset(data.cameras)
    allowed = narrowed(who.cameras, asked)
    row = Token(
        id=secrets.token_hex(6),
        account=who.name,
        label=data.label,
        secret_sha256=digest(text),
        permissions=sorted(set(data.permissions)),
        created_at=now,
        expires_at=now + data.days * 86_400,
        cameras=None if allowed is None else sorted(allowed),
    )
    detail = f"{', '.join(row.permissions)}; cameras {_shown(row.cameras)}; {data.days} days"
    await site.accounts.add_token(row, site.entry(who, request, "token.create", row.id, detail))
    shown = _token(row, now)
    return TokenMade(
        token=f"{TOKEN_PREFIX}{row.id}_{text}", **{name: getattr(shown, name) for name in shown.__struct_fields__}
    )


@delete(
    "/tokens/{token_id:str}",
    need="self",
    summary="Revoke an API token",
    tags=["accounts"],
    responses={**BAD_REQUEST, **NOT_FOUND, **REFUSED, **UNAVAILABLE},
)
async def revoke_token(site: SiteContext, request: Request[Any, Any, Any], who: Who, token_id: TokenPath) -> None:
    """One's own, or as an administrator anybody's. It ends at once."""
    mine = [row for row in await site.accounts.tokens() if row.id == token_id and _owns(who, row)]
    if not mine:
        raise Problem(HTTPStatus.NOT_FOUND, f"there is no token {token_id!r}. Remedy: see /api/v1/tokens.")
    await site.accounts.remove_tokens([token_id], site.entry(who, request, "token.revoke", token_id))


@get(
    "/audit", need="admin", summary="Audit log", tags=["accounts"], responses={**BAD_REQUEST, **REFUSED, **UNAVAILABLE}
)
async def audit_log(
    site: SiteContext,
    account: Annotated[
        str | None, QueryParameter(name="who", description="Only this account's.", max_length=64)
    ] = None,
    action: Annotated[str | None, QueryParameter(description="Only of this action.", max_length=64)] = None,
    cursor: Annotated[
        str | None, QueryParameter(description="`next_cursor` of the previous page.", max_length=64)
    ] = None,
    limit: Annotated[int, QueryParameter(description="Entries per page.", ge=1, le=1000)] = 100,
) -> AuditPage:
    """Every change and every sign-in, newest first; kept for `retention.audit_days`. A page may be short: the log ends
    where `next_cursor` is null.
    """
    before = stream_id("cursor", cursor) if cursor else None
    rows, following = await audit.newest(
        site.redis, before, limit, site.prefix, who=account or "", actions=[action] if action else []
    )
    entries = [
        AuditReply(
            id=entry_id,
            time=rfc3339(row.ts),
            who=row.who,
            via=row.via,
            action=row.action,
            target=row.target,
            address=row.address,
            detail=row.detail,
            token=row.token,
        )
        for entry_id, row in rows
    ]
    return AuditPage(entries=entries, next_cursor=following)


async def _edit(site: Context, change: Any, entry: Any) -> dict[str, Account]:
    """Apply a change of accounts; what the rules forbid is 404 or 409."""
    try:
        return await site.accounts.edit(change, entry)
    except UnknownAccount as error:
        raise Problem(HTTPStatus.NOT_FOUND, str(error)) from None
    except AccountError as error:
        raise Problem(HTTPStatus.CONFLICT, str(error)) from None


def _unknown(name: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"there is no account {name!r}. Remedy: see /api/v1/users.")


def _owns(who: Principal, token: Token) -> bool:
    return token.account == who.name or who.may("admin")


def _shown(cameras: list[str] | None) -> str:
    return "all" if cameras is None else "/".join(cameras) or "none"


def _user(account: Account) -> UserReply:
    return UserReply(
        name=account.name,
        role=account.role,
        cameras=account.cameras,
        disabled=account.disabled,
        created=rfc3339(account.created_at),
    )


def _token(row: Token, now: float) -> TokenReply:
    return TokenReply(
        id=row.id,
        account=row.account,
        label=row.label,
        permissions=row.permissions,
        cameras=row.cameras,
        created=rfc3339(row.created_at),
        expires=rfc3339(row.expires_at),
        expired=now >= row.expires_at,
    )


router = Router(
    "/", route_handlers=[users, make_user, user, change_user, remove_user, tokens, make_token, revoke_token, audit_log]
)
