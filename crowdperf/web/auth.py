"""Authentication and authorisation: the one guard before every route.

A route declares the permission that it needs (`need="read"`, see accounts.principal.Need). A route without it is closed
to all callers, and a test fails. Elsewhere only the routes' choice of visible cameras concerns access.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection, Request
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from crowdperf.accounts.credentials import is_same_secret
from crowdperf.accounts.principal import ANONYMOUS, ANONYMOUS_VIEWER, NEEDS, Principal
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.settings.base import is_loopback
from crowdperf.settings.site import Web
from crowdperf.web.problems import NOT_FOUND_DETAIL, ApiProblem, forbidden

SESSION_COOKIE = "crowdperf_session"
SECURE_SESSION_COOKIE = f"__Host-{SESSION_COOKIE}"
"""Name under TLS. Browsers take such a cookie only from this very host over TLS, so no other page can plant one."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
CSRF_HEADER = "x-csrf-token"
MAX_NAME_BYTES = 255
"""Longest file name of the file system, in bytes."""
MAX_PATH_LENGTH = 1000
SESSION_CHECK_S = 30.0
PROXY_HEADERS = ("forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "via")
PROXY_HEADER_HEAD = "x-forwarded-"
MIN_USER_ID = 1000
"""The first user id of a person; servers have lower ones."""
SERVER_USER_IDS = range(61_184, 65_536)
"""Further user ids of servers: those that systemd lends, and 65534, as which some proxies run."""
SOCKET_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

Connection = ASGIConnection[Any, Any, Any, Any]
AnyRequest = Request[Any, Any, Any]


def _is_valid_path(path: str) -> bool:
    """Check whether a path can name a file or route: system calls raise for others."""
    max_bytes = max(len(part.encode(errors="replace")) for part in path.split("/"))
    return "\0" not in path and len(path) <= MAX_PATH_LENGTH and max_bytes <= MAX_NAME_BYTES


def provide_principal(scope: Scope) -> Principal:
    """Return the principal that the guard has identified."""
    principal: Principal = scope["user"]
    return principal


PrincipalDependency = NamedDependency[Principal]
"""Annotation by which a route receives its caller."""


async def authorize(connection: Connection, handler: BaseRouteHandler) -> None:
    """Identify the caller, and refuse what the caller may not do.

    Raises:
        ApiProblem: 401 without a sign-in; 403 without the permission or all cameras, or for a forged request.
    """
    if connection.scope.get("method") == "OPTIONS":
        return
    _require_json(connection)
    if not _is_valid_path(connection.scope["path"]):
        raise ApiProblem(HTTPStatus.NOT_FOUND, NOT_FOUND_DETAIL)
    need = handler.opt.get("need")
    if need not in NEEDS:
        raise forbidden("this address is closed: its route declares no permission")
    if need == "open" and not handler.opt.get("identify"):
        connection.scope["user"] = ANONYMOUS
        return
    principal = await identify_principal(connection)
    connection.scope["user"] = principal
    if principal.kind in ("session", "kiosk") and connection.scope.get("method", "GET") not in SAFE_METHODS:
        _require_csrf_token(connection, principal)
    if principal.has_permission(need):
        if needs_all_cameras(handler.opt):
            require_all_cameras(principal)
        return
    if principal.kind == "anonymous":
        raise _unauthorized(
            "sign in first. Remedy: POST /api/v1/session, or send an API token as `Authorization: Bearer …`."
        )
    raise forbidden(
        f"this needs the permission {need!r}, which {principal.name!r} does not have here. Remedy: ask an "
        "administrator."
        if need != "self"
        else "this is for a person who is signed in with a password, not for an API token or a kiosk."
    )


async def identify_principal(connection: Connection) -> Principal:
    """Identify the principal of a connection.

    Raises:
        ApiProblem: 401, the credentials are not valid: they never count as none.
    """
    state = connection.app.state.app_state
    authorization = connection.headers.get("authorization", "")
    if authorization:
        scheme, _, text = authorization.partition(" ")
        principal = (
            await state.accounts.find_token_principal(text.strip(), state.now()) if scheme.lower() == "bearer" else None
        )
        if principal is None:
            raise _unauthorized(
                "the API token is not valid, or has expired. Remedy: create a new one under /api/v1/tokens.",
                ', error="invalid_token"',
            )
        return principal  # type: ignore[no-any-return]
    cookie = get_session_cookie(connection)
    if cookie:
        principal = await state.accounts.find_session_principal(cookie, state.now())
        if principal is not None:
            return principal  # type: ignore[no-any-return]
    return ANONYMOUS_VIEWER if await is_anonymous_access_allowed(connection, state.config.web) else ANONYMOUS


def get_session_cookie_name(connection: Connection) -> str:
    """Return the name of the session's cookie, which is another one under TLS."""
    return SECURE_SESSION_COOKIE if connection.scope["scheme"] in ("https", "wss") else SESSION_COOKIE


def get_session_cookie(connection: Connection) -> str:
    """Return the value of the session's cookie; empty without one."""
    return connection.cookies.get(get_session_cookie_name(connection), "")


def _require_json(connection: Connection) -> None:
    """Raise ApiProblem (415) for a body of another media type: a form of a foreign page can send those."""
    headers = connection.headers
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if connection.scope.get("method", "GET") in SAFE_METHODS or not has_body:
        return
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ApiProblem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body is sent as {media_type[:80] or 'nothing'!r}, not as JSON. Remedy: send the header Content-Type: "
            "application/json.",
        )


def _unauthorized(detail: str, error: str = "") -> ApiProblem:
    challenge = f'Bearer realm="crowdperf"{error}'
    return ApiProblem(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})


class SessionMonitor:
    """Check every 30 s whether the session or token of an open connection is still valid."""

    def __init__(self, app: Any, principal: Principal) -> None:
        self._app = app
        self._principal = principal
        self._checked_at = time.monotonic()

    async def is_still_valid(self) -> bool:
        """Check whether the principal is unchanged: not ended, same cameras. An outage changes nothing."""
        if self._principal.kind == "anonymous" or time.monotonic() - self._checked_at < SESSION_CHECK_S:
            return True
        self._checked_at = time.monotonic()
        try:
            return bool(await self._app.accounts.refresh_principal(self._principal, self._app.now()) == self._principal)
        except OUTAGE:
            return True


async def is_anonymous_access_allowed(connection: Connection, web: Web) -> bool:
    """Check whether a caller without an account may read.

    "auto" allows this machine only: both ends of the connection are loopback addresses, and no proxy forwards requests.
    The page was requested by a loopback name: a foreign page whose name was rebound to 127.0.0.1 has another.
    """
    if web.anonymous != "auto":
        return web.anonymous == "viewer"
    server, client = connection.scope.get("server"), connection.scope.get("client")
    if web.trusted_proxies or not is_loopback(web.host) or not server or not client or _shows_proxy(connection):
        return False
    urls = [f"//{connection.headers.get('host', '')}"]
    # A proxy may rewrite Host, but not what the page says of itself.
    urls += [connection.headers[name] for name in ("origin", "referer") if name in connection.headers]
    if not all(is_loopback(host) for host in (server[0], client[0], *map(_get_host, urls))):
        return False
    # The table may have a line for each of 100,000 connections: its reading must not hold up the event loop.
    return is_person(await asyncio.to_thread(find_socket_owner, client[1], server[1] or 0))


def _get_host(url: str) -> str:
    """Return the host of a URL; empty for none, and for what is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _shows_proxy(connection: Connection) -> bool:
    """Check for what proxies send, and browsers and curl do not: their headers, and HTTP/1.0."""
    return connection.scope.get("http_version") == "1.0" or any(
        name in PROXY_HEADERS or name.startswith(PROXY_HEADER_HEAD) for name in connection.headers
    )


def is_person(user_id: int | None) -> bool:
    """Check whether a user of this machine can be a person, or crowdperf itself, and not another server."""
    if user_id is None:
        return False
    return user_id in (0, os.geteuid()) or (user_id >= MIN_USER_ID and user_id not in SERVER_USER_IDS)


def find_socket_owner(client_port: int, server_port: int) -> int | None:
    """Find the user of the client's end of a connection on this machine; None for one of another machine.

    A proxy that adds no header looks like a browser, but runs as a user for servers.
    """
    line = re.compile(rb"^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:%04X(?: +\S+){4} +(\d+) " % (client_port, server_port), re.M)
    for table in SOCKET_TABLES:
        found = line.search(table.read_bytes()) if table.exists() else None
        if found:
            return int(found[1])
    return None


def needs_all_cameras(opt: Mapping[str, Any]) -> bool:
    """Check whether a route is closed to accounts that are limited to some cameras.

    So is all of `admin`: who makes accounts could make one without the limit.
    """
    return opt.get("need") == "admin" or bool(opt.get("all_cameras"))


def require_all_cameras(principal: Principal) -> None:
    """Raise ApiProblem (403) for a principal who may see some cameras only."""
    if principal.cameras is not None:
        raise forbidden("this needs access to all cameras. Remedy: ask an administrator.")


def get_client_address(connection: Connection) -> str:
    """Return the client's address; behind a trusted proxy, the one that the proxy reports."""
    return connection.client.host[:64] if connection.client else ""


def is_same_origin(origin: str | None, host: str | None) -> bool:
    """Check whether the request came from a page of this server. Programs send no origin."""
    return origin is None or urlsplit(origin).netloc.lower() == (host or "").lower()


def require_same_origin(connection: Connection) -> None:
    """Raise ApiProblem (403) when a page of another origin makes this request."""
    if not is_same_origin(connection.headers.get("origin"), connection.headers.get("host")):
        raise forbidden("the request comes from a page of another origin")


def _require_csrf_token(connection: Connection, principal: Principal) -> None:
    """Require the session's CSRF token: browsers send the cookie for any page, the token only for ours."""
    require_same_origin(connection)
    if not is_same_secret(connection.headers.get(CSRF_HEADER, ""), principal.csrf):
        raise forbidden("the header X-CSRF-Token is missing or wrong. Remedy: send the `csrf` of GET /api/v1/session.")
