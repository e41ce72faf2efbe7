"""Signing in and out, and creating the first administrator."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated

from litestar import Response, Router, delete, get, put
from litestar.datastructures import Cookie
from litestar.params import JSONBody
from msgspec import Meta, Struct

from crowdperf.accounts import credentials
from crowdperf.accounts import principal as model
from crowdperf.accounts.account_store import MAX_SESSION_S
from crowdperf.accounts.principal import PERMISSIONS, Account, AccountName, Principal, Role
from crowdperf.web.auth import (
    SECURE_SESSION_COOKIE,
    SESSION_COOKIE,
    AnyRequest,
    get_session_cookie,
    get_session_cookie_name,
    require_same_origin,
)
from crowdperf.web.parameters import errors, post_action
from crowdperf.web.problems import ApiProblem, forbidden
from crowdperf.web.state import ContextDependency, RequestContext

OLD_COOKIES = {SECURE_SESSION_COOKIE: (SESSION_COOKIE,), SESSION_COOKIE: ()}
"""Name of the session's cookie -> names that it had in older versions."""
MAX_COOKIE_S = 400 * 86_400
"""Browsers keep no cookie longer."""
Password = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=credentials.MAX_PASSWORD_LENGTH,
        description="10 characters at least.",
        examples=["four words and a dot."],
    ),
]


class SignIn(Struct, kw_only=True, forbid_unknown_fields=True):
    """Name and password of a person."""

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
    revoke_tokens: bool = False
    """Whether the account's API tokens are revoked as well."""


class SessionReply(Struct, kw_only=True):
    """The signed-in account and its permissions."""

    signed_in: bool
    name: str
    role: Role | None
    permissions: list[str]
    cameras: list[str] | None
    """Ids of the visible cameras; null is all."""
    csrf: str
    """Value of the header X-CSRF-Token, which every request that changes something needs."""
    setup: bool = False
    """Whether the site has no account yet. The one-time link is in the output of `crowdperf run` and in the web log."""


def to_session_reply(principal: Principal, setup: bool = False) -> SessionReply:
    """Convert the principal to its API form."""
    return SessionReply(
        signed_in=principal.kind != "anonymous",
        name=principal.name,
        role=principal.role,
        permissions=[permission for permission in PERMISSIONS if permission in principal.permissions],
        cameras=None if principal.cameras is None else sorted(principal.cameras),
        csrf=principal.csrf,
        setup=setup,
    )


@get("/session", need="open", identify=True, summary="Who am I", responses=errors(503))
async def session(context: ContextDependency) -> Response[SessionReply]:
    """Return the signed-in account, its permissions, and the CSRF token of changes.

    Works without a sign-in as well.
    """
    reply = to_session_reply(context.principal, setup=context.app.setup_secret.read() is not None)
    cookies = []
    if context.principal.kind == "kiosk" and context.principal.role == "kiosk":
        # Browsers forget every cookie after some time: each start of the page begins it anew.
        cookies = _build_cookies(context.request, get_session_cookie(context.request), MAX_COOKIE_S)
    return Response(reply, cookies=cookies)


@post_action("/session", need="open", summary="Sign in", responses=errors(400, 429, 503))
async def sign_in(context: ContextDependency, data: JSONBody[SignIn]) -> Response[SessionReply]:
    """Open a session.

    The response sets its cookie (HttpOnly, SameSite=Lax; under TLS Secure and `__Host-`). After five wrong passwords
    for one account from one address, further attempts fail for 15 minutes.
    """
    require_same_origin(context.request)
    app = context.app
    await register_attempt(context, data.name)
    account = await app.accounts.read_account(data.name)
    stored = account.password if account and not account.disabled else None
    if not await app.verify_password(data.password, stored) or account is None:
        await context.write_audit_entry("session.refuse", data.name if account else "an unknown account")
        raise ApiProblem(
            HTTPStatus.UNAUTHORIZED, "name or password is wrong. Remedy: try again, or ask an administrator."
        )
    await app.sign_in_limiter.record_success(data.name, context.address)
    return await open_session(context, account)


async def register_attempt(context: RequestContext, name: str) -> None:
    """Count an attempt to give a password or the secret of a link; raise ApiProblem (429) after too many."""
    wait = await context.app.sign_in_limiter.register_attempt(name, context.address)
    if wait:
        raise ApiProblem(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"too many attempts. Remedy: wait {wait} s, or have an administrator reset the password.",
            headers={"Retry-After": str(wait)},
        )


async def require_own_password(context: RequestContext, password: str, refusal: str) -> None:
    """Require the password of the person who is signed in, so that an open browser alone is not enough.

    Args:
        context: The request.
        password: Password that was sent.
        refusal: Text for a wrong password.

    Raises:
        ApiProblem: 403, the password is wrong; 429 after too many attempts.
    """
    app, name = context.app, context.principal.name
    await register_attempt(context, name)
    account = await app.accounts.read_account(name)
    if account is None or not await app.verify_password(password, account.password):
        raise forbidden(refusal)
    await app.sign_in_limiter.record_success(name, context.address)


async def open_session(context: RequestContext, account: Account, *, is_kiosk: bool = False) -> Response[SessionReply]:
    """Open a session of the account in place of the browser's earlier one, and set its cookie.

    Args:
        context: The request.
        account: Account that signs in.
        is_kiosk: Whether the browser becomes the device of a kiosk.

    Returns:
        The response with the cookie.
    """
    author = account.to_principal("", "", is_kiosk=is_kiosk)
    entry = context.build_audit_entry("session.open", account.name, author=author)
    replaces = get_session_cookie(context.request)
    value, session = await context.app.accounts.open_session(
        account, context.app.now(), entry, replaces=replaces, is_kiosk=is_kiosk
    )
    return Response(
        to_session_reply(account.to_principal("", session.csrf, is_kiosk=is_kiosk)),
        status_code=200,
        cookies=_build_cookies(context.request, value, MAX_COOKIE_S if is_kiosk else MAX_SESSION_S),
    )


def _build_cookies(request: AnyRequest, value: str, max_age: int) -> list[Cookie]:
    """Build the session's cookie; under TLS also the end of one with the name of older versions."""
    name, secure = get_session_cookie_name(request), request.scope["scheme"] == "https"
    # Lax, not Strict: people who follow a link in a notification stay signed in. Changes need the CSRF token.
    made = Cookie(name, value=value, max_age=max_age, path="/", httponly=True, samesite="lax", secure=secure)
    return [made, *(replace(made, key=old, value="", max_age=0) for old in request.cookies if old in OLD_COOKIES[name])]


@delete("/session", need="self", summary="Sign out", responses=errors(503))
async def sign_out(context: ContextDependency) -> Response[None]:
    """End the session, in the browser and on the server."""
    entry = context.build_audit_entry("session.close", context.principal.name)
    await context.app.accounts.close_session(context.principal.session, entry)
    return Response(None, status_code=204, cookies=_build_cookies(context.request, "", 0))


@put("/session/password", need="self", summary="Change my password", responses=errors(400, 429, 503))
async def change_password(context: ContextDependency, data: JSONBody[NewPassword]) -> Response[SessionReply]:
    """End every session of the account, and open a new one for this browser."""
    app, name = context.app, context.principal.name
    await require_own_password(
        context, data.old, "the old password is wrong. Remedy: try again, or have an administrator reset it."
    )
    new = await app.hash_password(data.new, name)
    entry = context.build_audit_entry("account.password", name)
    accounts = await app.accounts.edit(
        lambda rows: model.change_account(rows, name, password=new),
        entry,
        revoke_tokens_of=name if data.revoke_tokens else "",
    )
    return await open_session(context, accounts[name])


@post_action("/setup", need="open", summary="Make the first administrator", responses=errors(400, 409, 429, 503))
async def setup(context: ContextDependency, data: JSONBody[FirstAdmin]) -> Response[SessionReply]:
    """Create the administrator with the secret of the one-time link, and sign in."""
    require_same_origin(context.request)
    app = context.app
    wait = await app.sign_in_limiter.register_attempt("the setup link", context.address)
    if wait or not app.setup_secret.matches(data.secret):
        raise forbidden(
            "the setup link is not valid, or was used. Remedy: see `crowdperf users setup-link`, or sign in."
        )
    password = await app.hash_password(data.password, data.name)
    account = Account(name=data.name, role="admin", password=password, created_at=app.now())
    entry = context.build_audit_entry("account.setup", data.name, author=account.to_principal("", ""))
    accounts = await app.accounts.edit(lambda rows: model.add_first_admin(rows, account), entry)
    app.setup_secret.remove()
    await app.sign_in_limiter.record_success("the setup link", context.address)
    return await open_session(context, accounts[data.name])


router = Router("/", tags=["accounts"], route_handlers=[session, sign_in, sign_out, change_password, setup])
