"""Who may do what: roles, permissions, and the principal that a request acts for. Pure."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Role = Literal["admin", "operator", "reception", "viewer"]
Permission = Literal["read", "visitors", "review", "configure", "admin"]
"""read: see cameras, figures, events. visitors: invite them, check them in and out. review: judge violations,
acknowledge alerts. configure: cameras, lines, zones, rules. admin: accounts, tokens, audit log, processes.
"""
Need = Literal["open", "self", "read", "visitors", "review", "configure", "admin"]
"""What a route asks for: a permission; `open` is for everybody, `self` for whoever is signed in with a password."""

ROLES: tuple[Role, ...] = ("admin", "operator", "reception", "viewer")
PERMISSIONS: tuple[Permission, ...] = ("read", "visitors", "review", "configure", "admin")
NEEDS: tuple[Need, ...] = ("open", "self", *PERMISSIONS)
ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    "admin": frozenset(PERMISSIONS),
    "operator": frozenset({"read", "visitors", "review", "configure"}),
    "reception": frozenset({"read", "visitors"}),
    "viewer": frozenset({"read"}),
}


class Principal(Struct, frozen=True, kw_only=True):
    """Whom a request acts for, and what that one may do."""

    name: str
    """The account's name; empty for somebody who is not signed in."""
    kind: Literal["anonymous", "session", "token"]
    role: Role | None = None
    permissions: frozenset[Permission] = frozenset()
    cameras: frozenset[str] | None = None
    """The cameras that may be seen; None is all of them, those of the future included."""
    session: str = ""
    """Key of the session, for a principal of that kind."""
    csrf: str = ""
    token: str = ""
    """Id of the API token, for a principal of that kind."""

    def has_permission(self, need: Need) -> bool:
        """Whether the principal may use a route that asks for `need`."""
        if need == "open":
            return True
        if need == "self":
            return self.kind == "session"
        return need in self.permissions

    def can_see(self, camera: str) -> bool:
        """Whether the principal may know of that camera."""
        return self.cameras is None or camera in self.cameras


ANONYMOUS = Principal(name="", kind="anonymous")
ANONYMOUS_VIEWER = Principal(name="", kind="anonymous", role="viewer", permissions=ROLE_PERMISSIONS["viewer"])


def intersect_cameras(cameras: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """What both allow; None is everything."""
    if cameras is None or other is None:
        return other if cameras is None else cameras
    return cameras & other
