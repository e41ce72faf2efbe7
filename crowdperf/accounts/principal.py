"""Accounts, API tokens, roles and permissions, and the rules for changing them. Pure: time is a parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from secrets import compare_digest
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
KIOSK_LINK_S = 86_400
"""How long the link of a kiosk may be opened; it opens once."""

Accounts = Mapping[str, "Account"]


class AccountError(Exception):
    """Raised for a change that the rules forbid; the message names the account and the remedy."""


class UnknownAccountError(AccountError):
    """Raised when the account does not exist."""


class Account(Struct, frozen=True, kw_only=True):
    """One person who may sign in."""

    name: str
    role: Role
    password: str
    """Encoded Argon2id hash; empty: sign-in with a password is disabled."""
    created_at: float
    cameras: list[str] | None = None
    """Ids of the visible cameras; null is all."""
    disabled: bool = False
    generation: int = 0
    """Increases with each change of password or role, which ends the sessions of older generations."""
    id: str = ""
    """Random; empty for accounts of older versions. It tells two accounts apart that had the same name in turn."""
    link_sha256: str = ""
    """Hash of the secret in the link that signs a kiosk in, hex; empty once it was opened."""
    link_ends_at: float = 0.0

    def to_principal(self, session: str, csrf: str, *, is_kiosk: bool = False) -> Principal:
        """Convert to the principal of a browser's session.

        Args:
            session: Key of the session.
            csrf: Its CSRF token.
            is_kiosk: Whether the browser is a kiosk, which may check in and out only.

        Returns:
            The principal.
        """
        permissions = ROLE_PERMISSIONS[self.role]
        return Principal(
            name=self.name,
            account_id=self.id,
            kind="kiosk" if is_kiosk else "session",
            role=self.role,
            permissions=permissions & ROLE_PERMISSIONS["kiosk"] if is_kiosk else permissions,
            cameras=_to_set(self.cameras),
            session=session,
            csrf=csrf,
        )


class Token(Struct, frozen=True, kw_only=True):
    """An API token: programs send it in place of a password."""

    id: str
    account: str
    label: str
    secret_sha256: str
    """Hash of the secret part, hex. A slow hash would add nothing to 256 random bits."""
    permissions: list[Permission]
    created_at: float
    expires_at: float
    cameras: list[str] | None = None
    account_id: str = ""

    def to_principal(self, owner: Account, now: float) -> Principal | None:
        """Convert to a principal with the permissions that token and owner share; None once it is void."""
        if now >= self.expires_at or owner.disabled or owner.id != self.account_id:
            return None
        return Principal(
            name=owner.name,
            account_id=owner.id,
            kind="token",
            role=owner.role,
            permissions=frozenset(self.permissions) & ROLE_PERMISSIONS[owner.role],
            cameras=intersect_cameras(_to_set(owner.cameras), _to_set(self.cameras)),
            token=self.id,
        )


def _to_set(cameras: list[str] | None) -> frozenset[str] | None:
    return None if cameras is None else frozenset(cameras)


def check_account_name(name: str) -> None:
    """Raise AccountError for an invalid account name."""
    if not ACCOUNT_NAME_PATTERN.fullmatch(name):
        raise AccountError(f"{name!r} is no account's name. Remedy: use letters, digits and . _ @ -; 64 at most.")


def add_account(accounts: Accounts, account: Account) -> dict[str, Account]:
    """Add an account, unless the name is taken; names that differ in case only count as equal."""
    if account.name.lower() in {name.lower() for name in accounts}:
        raise AccountError(f"the account {account.name!r} exists already. Remedy: choose another name.")
    return {**accounts, account.name: account}


def add_first_admin(accounts: Accounts, account: Account) -> dict[str, Account]:
    """Add the first administrator, unless there is an account already."""
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
    """Change one account; None keeps a value.

    Args:
        accounts: Accounts by name.
        name: Name of the account to change.
        role: New role.
        cameras: Ids of the visible cameras.
        all_cameras: Make all cameras visible.
        disabled: Disable or enable sign-in.
        password: Encoded hash of the new password.

    Returns:
        The accounts after the change.

    Raises:
        AccountError: The account does not exist, or no administrator would be left.
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


def build_kiosk(name: str, link_sha256: str, now: float) -> Account:
    """Build the account of a kiosk: without a password, to be opened by a link.

    Args:
        name: Name of the kiosk.
        link_sha256: Hash of the secret in the link.
        now: Unix seconds.

    Returns:
        The account.
    """
    return Account(
        name=name,
        role="kiosk",
        password="",
        created_at=now,
        link_sha256=link_sha256,
        link_ends_at=now + KIOSK_LINK_S,
    )


def add_kiosk(accounts: Accounts, account: Account) -> dict[str, Account]:
    """Add a kiosk, or give one a new link, which signs its device out."""
    before = accounts.get(account.name)
    if before is None:
        return add_account(accounts, account)
    if before.role != "kiosk":
        raise AccountError(f"{account.name!r} is the account of a person. Remedy: choose another name for the kiosk.")
    return {**accounts, account.name: replace(account, id=before.id, generation=before.generation + 1)}


def open_kiosk(accounts: Accounts, name: str, link_sha256: str, now: float) -> dict[str, Account]:
    """Use up the link of a kiosk.

    Args:
        accounts: Accounts by name.
        name: Name of the kiosk.
        link_sha256: Hash of the secret in the link.
        now: Unix seconds.

    Returns:
        The accounts after the change.

    Raises:
        AccountError: The link is not valid, was opened, or has expired.
    """
    kiosk = accounts.get(name)
    valid = kiosk is not None and not kiosk.disabled and now < kiosk.link_ends_at
    if kiosk is None or not valid or not compare_digest(kiosk.link_sha256, link_sha256):
        raise AccountError("the link of this kiosk is not valid, was opened, or is old. Remedy: have a new one made.")
    return {**accounts, name: replace(kiosk, link_sha256="", link_ends_at=0.0)}


def remove_account(accounts: Accounts, name: str) -> dict[str, Account]:
    """Remove one account, unless it is the last administrator."""
    _get_account(accounts, name)
    return _require_admin(accounts, {other: row for other, row in accounts.items() if other != name}, name)


def _get_account(accounts: Accounts, name: str) -> Account:
    if name not in accounts:
        raise UnknownAccountError(f"there is no account {name!r}. Remedy: see the list of accounts.")
    return accounts[name]


def _require_admin(before: Accounts, after: dict[str, Account], name: str) -> dict[str, Account]:
    """Return `after`, unless the change removes the last administrator."""
    if _has_admin(before) and not _has_admin(after):
        raise AccountError(f"{name!r} is the last administrator. Remedy: make another account admin first.")
    return after


def _has_admin(accounts: Accounts) -> bool:
    """Check for one who may change accounts: limited to some cameras, an administrator may not."""
    return any(row.role == "admin" and not row.disabled and row.cameras is None for row in accounts.values())


Role = Literal["admin", "operator", "reception", "viewer", "kiosk"]
Permission = Literal["read", "visitors", "review", "configure", "admin", "kiosk"]
"""The rights of a role.

read: cameras, figures and events. visitors: invitations, check-in and check-out. review: violations and alerts.
configure: cameras, lines, zones and rules. admin: accounts, tokens, audit log and processes. kiosk: check-in and
check-out by the code of a badge."""
Need = Literal["open", "self", "read", "visitors", "review", "configure", "admin", "kiosk"]
"""Permission that a route needs: `open` is for all callers, `self` for a password session."""

ROLES: tuple[Role, ...] = ("admin", "operator", "reception", "viewer", "kiosk")
PERMISSIONS: tuple[Permission, ...] = ("read", "visitors", "review", "configure", "admin", "kiosk")
NEEDS: tuple[Need, ...] = ("open", "self", *PERMISSIONS)
ROLE_PERMISSIONS: dict[Role, frozenset[Permission]] = {
    "admin": frozenset(PERMISSIONS),
    "operator": frozenset({"read", "visitors", "review", "configure", "kiosk"}),
    "reception": frozenset({"read", "visitors", "kiosk"}),
    "viewer": frozenset({"read"}),
    "kiosk": frozenset({"kiosk"}),
}


class Principal(Struct, frozen=True, kw_only=True):
    """The caller that a request acts for, with its rights."""

    name: str
    """Name of the account; empty for an anonymous caller."""
    account_id: str = ""
    kind: Literal["anonymous", "session", "token", "kiosk"]
    role: Role | None = None
    permissions: frozenset[Permission] = frozenset()
    cameras: frozenset[str] | None = None
    """Ids of the visible cameras; None is all, future ones included."""
    session: str = ""
    """Key of the session, for kinds `session` and `kiosk`."""
    csrf: str = ""
    token: str = ""
    """Id of the API token, for kind `token`."""

    def has_permission(self, need: Need) -> bool:
        """Check whether the principal may use a route that needs `need`."""
        if need == "open":
            return True
        if need == "self":
            return self.kind == "session"
        return need in self.permissions

    def can_see(self, *cameras: str) -> bool:
        """Check whether the principal may see all of these cameras."""
        return self.cameras is None or self.cameras.issuperset(cameras)


ANONYMOUS = Principal(name="", kind="anonymous")
ANONYMOUS_VIEWER = Principal(name="", kind="anonymous", role="viewer", permissions=ROLE_PERMISSIONS["viewer"])


def intersect_cameras(cameras: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """Intersect two sets of visible cameras; None is all."""
    if cameras is None or other is None:
        return other if cameras is None else cameras
    return cameras & other
