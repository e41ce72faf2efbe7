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

from crowdperf.accounts.passwords import same
from crowdperf.accounts.permissions import ANONYMOUS_VIEWER, NEEDS, NOBODY, Principal
from crowdperf.events.connection import OUTAGE
from crowdperf.settings.site import Web
from crowdperf.web.problems import NOTHING_HERE, Problem

COOKIE = "crowdperf_session"
SAFE = ("GET", "HEAD", "OPTIONS")
CSRF_HEADER = "x-csrf-token"
LONGEST_NAME = 255
"""Bytes of a file's name."""
LONGEST_PATH = 1000
WATCH_S = 30.0
FORWARDING = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

Connection = ASGIConnection[Any, Any, Any, Any]


def _names_something(path: str) -> bool:
    """False for what no file and no route can be called: the system's calls raise for it instead of finding nothing."""
    longest = max(len(part.encode(errors="replace")) for part in path.split("/"))
    return "\0" not in path and len(path) <= LONGEST_PATH and longest <= LONGEST_NAME


def provide_who(scope: Scope) -> Principal:
    """The principal that the guard found."""
    who: Principal = scope["user"]
    return who


Who = NamedDependency[Principal]
"""How a route asks whom it works for."""


async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Find out who asks, and refuse what they may not.

    Raises:
        Problem: 401 for somebody who is not signed in, 403 for somebody who may not, or whose request was forged.
    """
    if connection.scope.get("method") == "OPTIONS":
        return
    if not _names_something(connection.scope["path"]):
        raise Problem(HTTPStatus.NOT_FOUND, NOTHING_HERE)
    need = handler.opt.get("need")
    if need not in NEEDS:
        raise Problem(HTTPStatus.FORBIDDEN, "this address is closed: its route declares no permission")
    if need == "open" and not handler.opt.get("identify"):
        connection.scope["user"] = NOBODY
        return
    who = await identify(connection)
    connection.scope["user"] = who
    if who.kind == "session" and connection.scope.get("method", "GET") not in SAFE:
        _refuse_forgery(connection, who)
    if who.may(need):
        return
    if who.kind == "anonymous":
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "sign in first. Remedy: POST /api/v1/session, or send an API token as `Authorization: Bearer …`.",
            headers={"WWW-Authenticate": 'Bearer realm="crowdperf"'},
        )
    raise Problem(
        HTTPStatus.FORBIDDEN,
        f"this needs the permission {need!r}, which {who.name!r} does not have here. Remedy: ask an administrator."
        if need != "self"
        else "this is for a person who is signed in with a password, not for an API token.",
    )


async def identify(connection: Connection) -> Principal:
    """Whom the connection acts for.

    Raises:
        Problem: 401, credentials were sent and are not valid: never quietly treated as none.
    """
    context = connection.app.state.context
    authorization = connection.headers.get("authorization", "")
    if authorization:
        scheme, _, text = authorization.partition(" ")
        who = await context.accounts.bearer(text.strip(), context.now()) if scheme.lower() == "bearer" else None
        if who is None:
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "the API token is not valid, or has expired. Remedy: make a new one under /api/v1/tokens.",
                headers={"WWW-Authenticate": 'Bearer realm="crowdperf", error="invalid_token"'},
            )
        return who  # type: ignore[no-any-return]
    cookie = connection.cookies.get(COOKIE)
    if cookie:
        who = await context.accounts.session(cookie, context.now())
        if who is not None:
            return who  # type: ignore[no-any-return]
    return ANONYMOUS_VIEWER if anonymous_may_look(connection, context.slice.web) else NOBODY


class Watch:
    """Looks every 30 s whether who opened a connection may still have it: it can stay open for days."""

    def __init__(self, site: Any, who: Principal) -> None:
        self._site = site
        self._who = who
        self._looked_at = time.monotonic()

    async def may_stay(self) -> bool:
        """False when the session or token has ended, or may see something else by now. An outage changes nothing."""
        if self._who.kind == "anonymous" or time.monotonic() - self._looked_at < WATCH_S:
            return True
        self._looked_at = time.monotonic()
        try:
            return bool(await self._site.accounts.again(self._who, self._site.now()) == self._who)
        except OUTAGE:
            return True


def anonymous_may_look(connection: Connection, web: Web) -> bool:
    """Whether somebody without an account may look on.

    "auto" says yes to this very machine only: both ends of the connection are loopback addresses, the page was asked
    for by a loopback name (a foreign page whose name was rebound to 127.0.0.1 has another), and no proxy has handed
    the request on.
    """
    if web.anonymous != "auto":
        return web.anonymous == "viewer"
    if web.trusted_proxies or any(name in connection.headers for name in FORWARDING):
        return False
    server, client = connection.scope.get("server"), connection.scope.get("client")
    name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    hosts = (server[0] if server else "", client[0] if client else "", name)
    return is_loopback(web.host) and all(is_loopback(host) for host in hosts)


def sees_all(who: Principal) -> None:
    """Raise a Problem (403) for somebody who may see some cameras only: what concerns all is not theirs to change."""
    if who.cameras is not None:
        raise Problem(HTTPStatus.FORBIDDEN, "only who may see all cameras may do that. Remedy: ask an administrator.")


def is_loopback(host: str) -> bool:
    """Whether the address or name is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_address(connection: Connection) -> str:
    """The other end, as far as it is known: behind a trusted proxy, what the proxy says."""
    return connection.client.host[:64] if connection.client else ""


def same_origin(origin: str | None, host: str | None) -> bool:
    """Whether the page that asks came from this server. Programs send no origin, and are no browsers."""
    return origin is None or urlsplit(origin).netloc.lower() == (host or "").lower()


def refuse_foreign_pages(connection: Connection) -> None:
    """Raise a Problem (403) when a page of another origin makes this request."""
    if not same_origin(connection.headers.get("origin"), connection.headers.get("host")):
        raise Problem(HTTPStatus.FORBIDDEN, "the page that asks for this is of another origin")


def _refuse_forgery(connection: Connection, who: Principal) -> None:
    """A browser sends its cookie whatever page asks; only this server's own pages know the session's CSRF token."""
    refuse_foreign_pages(connection)
    if not same(connection.headers.get(CSRF_HEADER, ""), who.csrf):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            "the header X-CSRF-Token is missing or wrong. Remedy: send the `csrf` of GET /api/v1/session.",
        )
