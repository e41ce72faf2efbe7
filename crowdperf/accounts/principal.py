"""Accounts and API tokens as they are stored, and the rules of changing them. Pure: time is a parameter.

Who may do what: roles, permissions, and the principal that a request acts for. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

ACCOUNT_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
AccountName = Annotated[
    str,
    Meta(
        pattern=rf"^{ACCOUNT_NAME_PATTERN.pattern}$",
        description="Letters, digits and . _ @ -; 64 at most.",
        examples=["ada"],
    ),
]
MAX_TOKEN_DAYS = 366

Accounts = Mapping[str, "Account"]


class AccountError(Exception):
    """A change that the rules forbid; the message names the account and the remedy."""


class UnknownAccountError(AccountError):
    """There is no such account."""


class Account(Struct, frozen=True, kw_only=True):
    """One person who may sign in."""

    name: str
    role: Role
    password: str
    """Argon2id, in its own encoded form; empty: nobody can sign in with a password."""
    created_at: float
    cameras: list[str] | None = None
    """Ids of the cameras that may be seen; null is all."""
    disabled: bool = False
    generation: int = 0
    """Raised by a change of password or role: sessions of an older generation have ended."""

    def to_principal(self, session: str, csrf: str) -> Principal:
        """The account as signed in with its password."""
        return Principal(
            name=self.name,
            kind="session",
            role=self.role,
            permissions=ROLE_PERMISSIONS[self.role],
            cameras=None if self.cameras is None else frozenset(self.cameras),
            session=session,
            csrf=csrf,
        )


class Token(Struct, frozen=True, kw_only=True):
    """An API token: what a program sends in place of a password."""

    id: str
    account: str
    label: str
    secret_sha256: str
    """Of the secret part, hex. A slow hash would add nothing: the secret is 256 random bits."""
    permissions: list[Permission]
    created_at: float
    expires_at: float
    cameras: list[str] | None = None

    def to_principal(self, owner: Account, now: float) -> Principal | None:
        """What the token may do: its own permissions, as far as its owner has them today. None: it is over."""
        if now >= self.expires_at or owner.disabled:
            return None
        of_token = None if self.cameras is None else frozenset(self.cameras)
        of_owner = None if owner.cameras is None else frozenset(owner.cameras)
        return Principal(
            name=owner.name,
            kind="token",
            role=owner.role,
            permissions=frozenset(self.permissions) & ROLE_PERMISSIONS[owner.role],
            cameras=intersect_cameras(of_owner, of_token),
            token=self.id,
        )


def check_account_name(name: str) -> None:
    """Raise AccountError for what is no account's name."""
    if not ACCOUNT_NAME_PATTERN.fullmatch(name):
        raise AccountError(f"{name!r} is no account's name. Remedy: use letters, digits and . _ @ -; 64 at most.")


def add_account(accounts: Accounts, account: Account) -> dict[str, Account]:
    """The accounts with a new one.

    Raises:
        AccountError: the name is taken; names that differ in case only count as the same.
    """
    if account.name.lower() in {name.lower() for name in accounts}:
        raise AccountError(f"the account {account.name!r} exists already. Remedy: choose another name.")
    return {**accounts, account.name: account}


def add_first_admin(accounts: Accounts, account: Account) -> dict[str, Account]:
    """The first administrator.

    Raises:
        AccountError: there is an account already; the setup link is good for one.
    """
    if accounts:
        raise AccountError(
            "this site has an administrator already. Remedy: sign in; `crowdperf users` resets passwords."
        )
    return {account.name: account}


def change_account(
    accounts: Accounts,
    name: str,
    *,
    role: Role | None = None,
    cameras: Iterable[str] | None = None,
    all_cameras: bool = False,
    disabled: bool | None = None,
    password: str | None = None,
) -> dict[str, Account]:
    """The accounts with one of them changed; what is None stays.

    Raises:
        AccountError: there is no such account, or nobody would be left who may administer.
    """
    before = _get_account(accounts, name)
    after = replace(
        before,
        role=role or before.role,
        disabled=before.disabled if disabled is None else disabled,
        password=password or before.password,
        cameras=None if all_cameras else before.cameras if cameras is None else sorted(set(cameras)),
    )
    if after.password != before.password or after.role != before.role or after.disabled:
        after = replace(after, generation=before.generation + 1)
    return _require_admin(accounts, {**accounts, name: after}, name)


def remove_account(accounts: Accounts, name: str) -> dict[str, Account]:
    """The accounts without that one.

    Raises:
        AccountError: there is no such account, or it is the last that may administer.
    """
    _get_account(accounts, name)
    return _require_admin(accounts, {other: row for other, row in accounts.items() if other != name}, name)


def _get_account(accounts: Accounts, name: str) -> Account:
    if name not in accounts:
        raise UnknownAccountError(f"there is no account {name!r}. Remedy: see the list of accounts.")
    return accounts[name]


def _require_admin(before: Accounts, after: dict[str, Account], name: str) -> dict[str, Account]:
    """`after`, unless the change takes the last one away who may administer the site."""
    if _has_admin(before) and not _has_admin(after):
        raise AccountError(f"{name!r} is the last administrator. Remedy: make another account admin first.")
    return after


def _has_admin(accounts: Accounts) -> bool:
    return any(row.role == "admin" and not row.disabled for row in accounts.values())


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
