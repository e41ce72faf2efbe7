"""Who asks, and whether they may: the one guard before every route.

A route declares what it asks for (`need="read"`, accounts.permissions.Need); one that declares nothing is refused to
everybody, and a test fails. Nothing else in this package decides about access, but for what a route shows of a camera.
"""

from __future__ import annotations

import ipaddress
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from crowdperf.accounts.credentials import is_same_secret
from crowdperf.accounts.principal import ANONYMOUS, ANONYMOUS_VIEWER, NEEDS, Principal
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.settings.site import Web
from crowdperf.web.problems import NOT_FOUND_DETAIL, ApiProblem

SESSION_COOKIE = "crowdperf_session"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CSRF_HEADER = "x-csrf-token"
MAX_NAME_BYTES = 255
"""Bytes of a file's name."""
MAX_PATH_LENGTH = 1000
SESSION_CHECK_S = 30.0
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

Connection = ASGIConnection[Any, Any, Any, Any]


def _is_valid_path(path: str) -> bool:
    """False for what no file and no route can be called: the system's calls raise for it instead of finding nothing."""
    longest = max(len(part.encode(errors="replace")) for part in path.split("/"))
    return "\0" not in path and len(path) <= MAX_PATH_LENGTH and longest <= MAX_NAME_BYTES


def provide_principal(scope: Scope) -> Principal:
    """The principal that the guard found."""
    principal: Principal = scope["user"]
    return principal


PrincipalDependency = NamedDependency[Principal]
"""How a route asks whom it works for."""


async def authorize(connection: Connection, handler: BaseRouteHandler) -> None:
    """Find out who asks, and refuse what they may not.

    Raises:
        Problem: 401 for somebody who is not signed in, 403 for somebody who may not, or whose request was forged.
    """
    if connection.scope.get("method") == "OPTIONS":
        return
    if not _is_valid_path(connection.scope["path"]):
        raise ApiProblem(HTTPStatus.NOT_FOUND, NOT_FOUND_DETAIL)
    need = handler.opt.get("need")
    if need not in NEEDS:
        raise ApiProblem(HTTPStatus.FORBIDDEN, "this address is closed: its route declares no permission")
    if need == "open" and not handler.opt.get("identify"):
        connection.scope["user"] = ANONYMOUS
        return
    principal = await identify_principal(connection)
    connection.scope["user"] = principal
    if principal.kind == "session" and connection.scope.get("method", "GET") not in SAFE_METHODS:
        _require_csrf_token(connection, principal)
    if principal.has_permission(need):
        return
    if principal.kind == "anonymous":
        raise ApiProblem(
            HTTPStatus.UNAUTHORIZED,
            "sign in first. Remedy: POST /api/v1/session, or send an API token as `Authorization: Bearer …`.",
            headers={"WWW-Authenticate": 'Bearer realm="crowdperf"'},
        )
    raise ApiProblem(
        HTTPStatus.FORBIDDEN,
        f"this needs the permission {need!r}, which {principal.name!r} does not have here. Remedy: ask an "
        "administrator."
        if need != "self"
        else "this is for a person who is signed in with a password, not for an API token.",
    )


async def identify_principal(connection: Connection) -> Principal:
    """Whom the connection acts for.

    Raises:
        Problem: 401, credentials were sent and are not valid: never quietly treated as none.
    """
    context = connection.app.state.app_state
    authorization = connection.headers.get("authorization", "")
    if authorization:
        scheme, _, text = authorization.partition(" ")
        principal = (
            await context.accounts.find_token_principal(text.strip(), context.now())
            if scheme.lower() == "bearer"
            else None
        )
        if principal is None:
            raise ApiProblem(
                HTTPStatus.UNAUTHORIZED,
                "the API token is not valid, or has expired. Remedy: make a new one under /api/v1/tokens.",
                headers={"WWW-Authenticate": 'Bearer realm="crowdperf", error="invalid_token"'},
            )
        return principal  # type: ignore[no-any-return]
    cookie = connection.cookies.get(SESSION_COOKIE)
    if cookie:
        principal = await context.accounts.find_session_principal(cookie, context.now())
        if principal is not None:
            return principal  # type: ignore[no-any-return]
    return ANONYMOUS_VIEWER if is_anonymous_access_allowed(connection, context.config.web) else ANONYMOUS


class SessionMonitor:
    """Looks every 30 s whether who opened a connection may still have it: it can stay open for days."""

    def __init__(self, app: Any, principal: Principal) -> None:
        self._app = app
        self._principal = principal
        self._checked_at = time.monotonic()

    async def is_still_valid(self) -> bool:
        """False when the session or token has ended, or may see something else by now. An outage changes nothing."""
        if self._principal.kind == "anonymous" or time.monotonic() - self._checked_at < SESSION_CHECK_S:
            return True
        self._checked_at = time.monotonic()
        try:
            return bool(await self._app.accounts.refresh_principal(self._principal, self._app.now()) == self._principal)
        except OUTAGE:
            return True


def is_anonymous_access_allowed(connection: Connection, web: Web) -> bool:
    """Whether somebody without an account may look on.

    "auto" says yes to this very machine only: both ends of the connection are loopback addresses, the page was asked
    for by a loopback name (a foreign page whose name was rebound to 127.0.0.1 has another), and no proxy has handed
    the request on.
    """
    if web.anonymous != "auto":
        return web.anonymous == "viewer"
    if web.trusted_proxies or any(name in connection.headers for name in PROXY_HEADERS):
        return False
    server, client = connection.scope.get("server"), connection.scope.get("client")
    name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    hosts = (server[0] if server else "", client[0] if client else "", name)
    return is_loopback(web.host) and all(is_loopback(host) for host in hosts)


def require_all_cameras(principal: Principal) -> None:
    """Raise a Problem (403) for somebody who may see some cameras only: what concerns all is not theirs to change."""
    if principal.cameras is not None:
        raise ApiProblem(
            HTTPStatus.FORBIDDEN, "only who may see all cameras may do that. Remedy: ask an administrator."
        )


def is_loopback(host: str) -> bool:
    """Whether the address or name is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def get_client_address(connection: Connection) -> str:
    """The other end, as far as it is known: behind a trusted proxy, what the proxy says."""
    return connection.client.host[:64] if connection.client else ""


def is_same_origin(origin: str | None, host: str | None) -> bool:
    """Whether the page that asks came from this server. Programs send no origin, and are no browsers."""
    return origin is None or urlsplit(origin).netloc.lower() == (host or "").lower()


def require_same_origin(connection: Connection) -> None:
    """Raise a Problem (403) when a page of another origin makes this request."""
    if not is_same_origin(connection.headers.get("origin"), connection.headers.get("host")):
        raise ApiProblem(HTTPStatus.FORBIDDEN, "the page that asks for this is of another origin")


def _require_csrf_token(connection: Connection, principal: Principal) -> None:
    """A browser sends its cookie whatever page asks; only this server's own pages know the session's CSRF token."""
    require_same_origin(connection)
    if not is_same_secret(connection.headers.get(CSRF_HEADER, ""), principal.csrf):
        raise ApiProblem(
            HTTPStatus.FORBIDDEN,
            "the header X-CSRF-Token is missing or wrong. Remedy: send the `csrf` of GET /api/v1/session.",
        )
