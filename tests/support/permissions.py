"""The matrix of routes and callers: what docs/reference/permissions.md has to say, as the code declares it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from litestar import Litestar

from crowdperf.accounts.principal import (
    ANONYMOUS,
    ANONYMOUS_VIEWER,
    PERMISSIONS,
    ROLE_PERMISSIONS,
    ROLES,
    Principal,
)
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import build_web_config
from crowdperf.web.app import create_app
from crowdperf.web.auth import needs_all_cameras

ALLOWED = "yes"
LIMITED_TO = ["lobby"]
"""Cameras of the limited accounts."""


class Route(NamedTuple):
    """One method of one address."""

    method: str
    path: str
    need: str
    all_cameras: bool

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def build_app(folder: Path) -> Litestar:
    """Build the application of an empty site."""
    return create_app(build_web_config(Deployment(parse(b"{}"), Paths(folder))))


def list_routes() -> list[Route]:
    """List every method of every address, ordered by address. OPTIONS tells the methods alone, and changes nothing."""
    found = set()
    with tempfile.TemporaryDirectory() as folder:
        for route in build_app(Path(folder)).routes:
            for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)]):
                for method in sorted(getattr(handler, "http_methods", ())) or ["WEBSOCKET"]:
                    row = Route(method, route.path, handler.opt.get("need", ""), needs_all_cameras(handler.opt))
                    found |= {row} if method != "OPTIONS" else set()
    return sorted(found, key=lambda row: (row.path, row.method))


def list_callers() -> dict[str, Principal]:
    """Return every kind of caller, by the heading of its column."""
    sessions = {
        role: Principal(name=role, kind="session", role=role, permissions=ROLE_PERMISSIONS[role]) for role in ROLES
    }
    only = frozenset(LIMITED_TO)
    return {
        "nobody": ANONYMOUS,
        "`anonymous: viewer`": ANONYMOUS_VIEWER,
        **dict(reversed(sessions.items())),
        "limited operator": replace_cameras(sessions["operator"], only),
        "limited admin": replace_cameras(sessions["admin"], only),
        "`read` token": Principal(name="admin", kind="token", role="admin", permissions=frozenset({"read"})),
        "full token": Principal(name="admin", kind="token", role="admin", permissions=frozenset(PERMISSIONS)),
    }


def replace_cameras(principal: Principal, cameras: frozenset[str]) -> Principal:
    """Return the principal, limited to these cameras."""
    return Principal(
        name=f"limited-{principal.name}",
        kind=principal.kind,
        role=principal.role,
        permissions=principal.permissions,
        cameras=cameras,
    )


def judge(route: Route, caller: Principal) -> str:
    """Say what the guard answers: `yes`, or the status of its refusal. A refused WebSocket always gets 403."""
    if not caller.has_permission(route.need):  # type: ignore[arg-type]
        return "401" if caller.kind == "anonymous" and route.method != "WEBSOCKET" else "403"
    return "403" if route.all_cameras and caller.cameras is not None else ALLOWED


def build_matrix() -> list[tuple[str, ...]]:
    """Build the rows of the matrix, its heading first."""
    callers = list_callers()
    rows = [
        (f"`{route.name}`", f"`{route.need}`", *(judge(route, caller) for caller in callers.values()))
        for route in list_routes()
    ]
    return [("route", "needs", *callers), *rows]
