"""Signing in and out, and creating the first administrator."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated

from litestar import Response, Router, delete, get, post, put
from litestar.datastructures import Cookie
from litestar.params import JSONBody
from msgspec import Meta, Struct

from crowdperf.accounts import credentials
from crowdperf.accounts import principal as model
from crowdperf.accounts.account_store import MAX_SESSION_S
from crowdperf.accounts.principal import ANONYMOUS, PERMISSIONS, Account, AccountError, AccountName, Principal, Role
from crowdperf.web.auth import SESSION_COOKIE, AnyRequest, PrincipalDependency, get_client_address, require_same_origin
from crowdperf.web.parameters import errors
from crowdperf.web.problems import ApiProblem
from crowdperf.web.state import AppDependency, AppState

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
async def session(app: AppDependency, principal: PrincipalDependency) -> SessionReply:
    """Return the signed-in account, its permissions, and the CSRF token of changes.

    Works without a sign-in as well.
    """
    return to_session_reply(principal, setup=app.setup_secret.read() is not None)


@post("/session", need="open", summary="Sign in", status_code=200, responses=errors(400, 429, 503))
async def sign_in(app: AppDependency, request: AnyRequest, data: JSONBody[SignIn]) -> Response[SessionReply]:
    """Open a session.

    The response sets its cookie (HttpOnly, SameSite=Lax, Secure under TLS). After five wrong passwords for one account
    from one address, further attempts fail for 15 minutes.
    """
    require_same_origin(request)
    address = get_client_address(request)
    wait = await app.sign_in_limiter.register_attempt(data.name, address)
    if wait:
        raise ApiProblem(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"too many attempts. Remedy: wait {wait} s, or have an administrator reset the password.",
            headers={"Retry-After": str(wait)},
        )
    account = await app.accounts.read_account(data.name)
    enabled = account is not None and not account.disabled
    if (
        not await verify_password_in_thread(app, data.password, account.password if account and enabled else None)
        or account is None
    ):
        await app.write_audit_entry(
            ANONYMOUS, request, "session.refuse", data.name if account else "an unknown account"
        )
        raise ApiProblem(
            HTTPStatus.UNAUTHORIZED, "name or password is wrong. Remedy: try again, or ask an administrator."
        )
    await app.sign_in_limiter.record_success(data.name, address)
    return await open_session(app, request, account)


async def open_session(app: AppState, request: AnyRequest, account: Account) -> Response[SessionReply]:
    """Open a session of the account, and set its cookie.

    Args:
        app: State of the application.
        request: Request that signs in.
        account: Account to sign in.

    Returns:
        The response with the session and its cookie.
    """
    entry = app.build_audit_entry(account.to_principal("", ""), request, "session.open", account.name)
    value, session = await app.accounts.open_session(account, app.now(), entry)
    return Response(
        to_session_reply(account.to_principal("", session.csrf)),
        status_code=200,
        cookies=[_build_cookie(request, value, MAX_SESSION_S)],
    )


def _build_cookie(request: AnyRequest, value: str, max_age: int) -> Cookie:
    # Lax, not Strict: people who follow a link in a notification stay signed in. Changes need the CSRF token.
    secure = request.scope["scheme"] == "https"
    return Cookie(SESSION_COOKIE, value=value, max_age=max_age, path="/", httponly=True, samesite="lax", secure=secure)


@delete("/session", need="self", summary="Sign out", responses=errors(503))
async def sign_out(app: AppDependency, request: AnyRequest, principal: PrincipalDependency) -> Response[None]:
    """End the session, in the browser and on the server."""
    await app.accounts.close_session(
        principal.session, app.build_audit_entry(principal, request, "session.close", principal.name)
    )
    return Response(None, status_code=204, cookies=[_build_cookie(request, "", 0)])


@put("/session/password", need="self", summary="Change my password", responses=errors(400, 429, 503))
async def change_password(
    app: AppDependency, request: AnyRequest, principal: PrincipalDependency, data: JSONBody[NewPassword]
) -> Response[SessionReply]:
    """End every session of the account, and open a new one for this browser."""
    wait = await app.sign_in_limiter.register_attempt(principal.name, get_client_address(request))
    account = await app.accounts.read_account(principal.name)
    if wait or account is None or not await verify_password_in_thread(app, data.old, account.password):
        raise ApiProblem(HTTPStatus.FORBIDDEN, "the old password is wrong. Remedy: try again, or sign in again.")
    await app.sign_in_limiter.record_success(principal.name, get_client_address(request))
    new = await check_and_hash_password(app, data.new, principal.name)
    entry = app.build_audit_entry(principal, request, "account.password", principal.name)
    accounts = await app.accounts.edit(lambda rows: model.change_account(rows, principal.name, password=new), entry)
    return await open_session(app, request, accounts[principal.name])


@post(
    "/setup", need="open", summary="Make the first administrator", status_code=200, responses=errors(400, 409, 429, 503)
)
async def setup(app: AppDependency, request: AnyRequest, data: JSONBody[FirstAdmin]) -> Response[SessionReply]:
    """Create the administrator with the secret of the one-time link, and sign in."""
    require_same_origin(request)
    wait = await app.sign_in_limiter.register_attempt("the setup link", get_client_address(request))
    if wait or not app.setup_secret.matches(data.secret):
        raise ApiProblem(
            HTTPStatus.FORBIDDEN,
            "the setup link is not valid, or was used. Remedy: see `crowdperf users setup-link`, or sign in.",
        )
    account = Account(
        name=data.name,
        role="admin",
        password=await check_and_hash_password(app, data.password, data.name),
        created_at=app.now(),
    )
    entry = app.build_audit_entry(account.to_principal("", ""), request, "account.setup", data.name)
    try:
        await app.accounts.edit(lambda rows: model.add_first_admin(rows, account), entry)
    except AccountError as error:
        raise ApiProblem(HTTPStatus.CONFLICT, str(error)) from None
    app.setup_secret.remove()
    await app.sign_in_limiter.record_success("the setup link", get_client_address(request))
    return await open_session(app, request, account)


async def check_and_hash_password(app: AppState, password: str, name: str) -> str:
    """Hash a password that is strong enough.

    Args:
        app: State of the application.
        password: Password in plain text.
        name: Name of the account.

    Returns:
        The encoded Argon2id hash.

    Raises:
        ApiProblem: 400, the password is too weak.
    """
    try:
        credentials.check_password(password, name)
    except credentials.WeakPasswordError as error:
        raise ApiProblem(HTTPStatus.BAD_REQUEST, str(error)) from None
    async with app.hashing_limit:
        return await asyncio.to_thread(credentials.hash_password, password)


async def verify_password_in_thread(app: AppState, password: str, stored: str | None) -> bool:
    """Verify a password in a thread; the time does not depend on the account's existence.

    Args:
        app: State of the application.
        password: Password in plain text.
        stored: Encoded hash; None without an account.

    Returns:
        Whether the password matches.
    """
    async with app.hashing_limit:
        return await asyncio.to_thread(credentials.verify_password, password, stored)


router = Router("/", tags=["accounts"], route_handlers=[session, sign_in, sign_out, change_password, setup])
