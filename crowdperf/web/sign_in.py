"""Signing in and out, and the first administrator."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post, put
from litestar.datastructures import Cookie
from litestar.params import JSONBody
from msgspec import Meta, Struct

from crowdperf.accounts import model, passwords
from crowdperf.accounts.model import Account, AccountError, AccountName
from crowdperf.accounts.permissions import NOBODY, PERMISSIONS, Principal, Role
from crowdperf.accounts.store import LONGEST_S, Session
from crowdperf.web.access import COOKIE, Who, client_address, refuse_foreign_pages
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import BAD_REQUEST, CONFLICT, REFUSED, TOO_MANY, UNAVAILABLE
from crowdperf.web.problems import Problem

Password = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=passwords.LONGEST,
        description="10 characters at least.",
        examples=["four words and a dot."],
    ),
]


class SignIn(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a person types."""

    name: Annotated[str, Meta(min_length=1, max_length=64, examples=["ada"])]
    password: Password


class FirstAdmin(Struct, kw_only=True, forbid_unknown_fields=True):
    """The first account, by the one-time link."""

    secret: Annotated[str, Meta(min_length=1, max_length=128, description="What follows the # of the link.")]
    name: AccountName
    password: Password


class NewPassword(Struct, kw_only=True, forbid_unknown_fields=True):
    """A change of one's own password."""

    old: Password
    new: Password


class SessionReply(Struct, kw_only=True):
    """Who is signed in, and what they may do."""

    signed_in: bool
    name: str
    role: Role | None
    permissions: list[str]
    cameras: list[str] | None
    """The cameras that may be seen; null is all."""
    csrf: str
    """For the header X-CSRF-Token of every request that changes something."""
    setup: bool = False
    """The site has no account yet: the one-time link is in the output of `crowdperf run` and in the web log."""


def session_reply(who: Principal, setup: bool = False) -> SessionReply:
    """The principal as the API shows it."""
    return SessionReply(
        signed_in=who.kind != "anonymous",
        name=who.name,
        role=who.role,
        permissions=[permission for permission in PERMISSIONS if permission in who.permissions],
        cameras=None if who.cameras is None else sorted(who.cameras),
        csrf=who.csrf,
        setup=setup,
    )


@get(
    "/session", need="open", identify=True, summary="Who am I", tags=["accounts"], responses={**REFUSED, **UNAVAILABLE}
)
async def session(site: SiteContext, who: Who) -> SessionReply:
    """Who is signed in, what they may do, and the token that changes need. Also answers who is not signed in."""
    return session_reply(who, setup=site.setup.read() is not None)


@post(
    "/session",
    need="open",
    summary="Sign in",
    tags=["accounts"],
    status_code=200,
    responses={**BAD_REQUEST, **REFUSED, **TOO_MANY, **UNAVAILABLE},
)
async def sign_in(site: SiteContext, request: Request[Any, Any, Any], data: JSONBody[SignIn]) -> Response[SessionReply]:
    """Open a session: the answer sets its cookie (HttpOnly, SameSite=Lax, Secure under TLS). Five wrong passwords for
    one account from one address close that door for 15 minutes.
    """
    refuse_foreign_pages(request)
    address = client_address(request)
    wait = await site.throttle.admit(data.name, address)
    if wait:
        raise Problem(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"too many attempts. Remedy: wait {wait} s, or have an administrator reset the password.",
            headers={"Retry-After": str(wait)},
        )
    account = await site.accounts.account(data.name)
    usable = account is not None and not account.disabled
    if not await matches(site, data.password, account.password if account and usable else None) or account is None:
        await site.note(NOBODY, request, "session.refuse", data.name if account else "an unknown account")
        raise Problem(HTTPStatus.UNAUTHORIZED, "name or password is wrong. Remedy: try again, or ask an administrator.")
    await site.throttle.succeeded(data.name, address)
    return await opened(site, request, account)


async def opened(site: Context, request: Request[Any, Any, Any], account: Account) -> Response[SessionReply]:
    """A fresh session of the account, and its cookie."""
    entry = site.entry(account.principal("", ""), request, "session.open", account.name)
    value, made = await site.accounts.open_session(account, site.now(), entry)
    return Response(_reply(account, made), status_code=200, cookies=[_cookie(request, value, LONGEST_S)])


def _reply(account: Account, made: Session) -> SessionReply:
    return session_reply(account.principal("", made.csrf))


def _cookie(request: Request[Any, Any, Any], value: str, max_age: int) -> Cookie:
    # Lax, not Strict: a link in a message to the people on duty has to find them signed in. Changes ask for more.
    secure = request.scope["scheme"] == "https"
    return Cookie(COOKIE, value=value, max_age=max_age, path="/", httponly=True, samesite="lax", secure=secure)


@delete("/session", need="self", summary="Sign out", tags=["accounts"], responses={**REFUSED, **UNAVAILABLE})
async def sign_out(site: SiteContext, request: Request[Any, Any, Any], who: Who) -> Response[None]:
    """End the session, here and on the server."""
    await site.accounts.close_session(who.session, site.entry(who, request, "session.close", who.name))
    return Response(None, status_code=204, cookies=[_cookie(request, "", 0)])


@put(
    "/session/password",
    need="self",
    summary="Change my password",
    tags=["accounts"],
    responses={**BAD_REQUEST, **REFUSED, **TOO_MANY, **UNAVAILABLE},
)
async def change_password(
    site: SiteContext, request: Request[Any, Any, Any], who: Who, data: JSONBody[NewPassword]
) -> Response[SessionReply]:
    """Every session of the account ends, and this browser gets a new one."""
    wait = await site.throttle.admit(who.name, client_address(request))
    account = await site.accounts.account(who.name)
    if wait or account is None or not await matches(site, data.old, account.password):
        raise Problem(HTTPStatus.FORBIDDEN, "the old password is wrong. Remedy: try again, or sign in anew.")
    await site.throttle.succeeded(who.name, client_address(request))
    new = await hashed(site, data.new, who.name)
    entry = site.entry(who, request, "account.password", who.name)
    accounts = await site.accounts.edit(lambda rows: model.changed(rows, who.name, password=new), entry)
    return await opened(site, request, accounts[who.name])


@post(
    "/setup",
    need="open",
    summary="Make the first administrator",
    tags=["accounts"],
    status_code=200,
    responses={**BAD_REQUEST, **REFUSED, **CONFLICT, **TOO_MANY, **UNAVAILABLE},
)
async def setup(
    site: SiteContext, request: Request[Any, Any, Any], data: JSONBody[FirstAdmin]
) -> Response[SessionReply]:
    """Good once, with the secret of the link that a new site prints. Signs in at once."""
    refuse_foreign_pages(request)
    wait = await site.throttle.admit("the setup link", client_address(request))
    if wait or not site.setup.fits(data.secret):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "the setup link is not valid, or was used. Remedy: see `crowdperf users setup-link`, or sign in.",
        )
    account = Account(
        name=data.name, role="admin", password=await hashed(site, data.password, data.name), created_at=site.now()
    )
    entry = site.entry(account.principal("", ""), request, "account.setup", data.name)
    try:
        await site.accounts.edit(lambda rows: model.first(rows, account), entry)
    except AccountError as error:
        raise Problem(HTTPStatus.CONFLICT, str(error)) from None
    site.setup.remove()
    await site.throttle.succeeded("the setup link", client_address(request))
    return await opened(site, request, account)


async def hashed(site: Context, password: str, name: str) -> str:
    """The hash of a good enough password.

    Raises:
        Problem: 400, it is too weak.
    """
    try:
        passwords.check(password, name)
    except passwords.WeakPassword as error:
        raise Problem(HTTPStatus.BAD_REQUEST, str(error)) from None
    async with site.hashing:
        return await asyncio.to_thread(passwords.hashed, password)


async def matches(site: Context, password: str, stored: str | None) -> bool:
    """Whether it is the password; takes as long where there is no account."""
    async with site.hashing:
        return await asyncio.to_thread(passwords.matches, password, stored)


router = Router("/", route_handlers=[session, sign_in, sign_out, change_password, setup])
