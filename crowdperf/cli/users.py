"""Manage accounts and API tokens from the machine's command line: `crowdperf users`."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import secrets
import sys
import time

from crowdperf.accounts import credentials, principal
from crowdperf.accounts.account_store import TOKEN_PREFIX, AccountStore
from crowdperf.accounts.credentials import SetupSecret, SignInLimiter, build_setup_link
from crowdperf.accounts.principal import PERMISSIONS, ROLES, Account, AccountError, Token
from crowdperf.messaging.redis.client import OUTAGE, connect_async, describe_outage
from crowdperf.messaging.schema import AuditEntry
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Deployment, Installation
from crowdperf.settings.site import build_dashboard_url


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `crowdperf users`."""
    root = argparse.ArgumentParser(prog="crowdperf users", description="Accounts and API tokens of this site.")
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("list", help="every account")
    add = commands.add_parser("add", help="make an account; asks for its password (or reads one line of stdin)")
    add.add_argument("--role", choices=ROLES, default="viewer")
    add.add_argument("--cameras", help="comma-separated ids; without it all cameras")
    for name, text in (
        ("password", "set a new password"),
        ("remove", "remove an account"),
        ("role", "change the role"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("name")
        if name == "role":
            command.add_argument("role", choices=ROLES)
        if name == "password":
            command.add_argument("--revoke-tokens", action="store_true", help="revoke its API tokens as well")
    add.add_argument("name")
    token = commands.add_parser("token", help="make an API token; prints its secret once")
    token.add_argument("name")
    token.add_argument("--label", required=True)
    token.add_argument("--permissions", default="read", help=f"comma-separated: {', '.join(PERMISSIONS)}")
    token.add_argument("--days", type=int, default=90)
    kiosk = commands.add_parser("kiosk", help="make a kiosk, or its new link; prints the link, which opens once")
    kiosk.add_argument("name")
    commands.add_parser("setup-link", help="the one-time link that makes the first administrator")
    return root


def main(words: list[str], installation: Installation) -> int:
    """Run one command."""
    arguments = build_parser().parse_args(words)
    deployment = installation.load()
    try:
        return asyncio.run(_UsersCommand(deployment).run(arguments))
    except OUTAGE as error:
        raise ConfigError(describe_outage(error, "start the site with ./crowdperf.sh run.")) from None
    except (AccountError, credentials.WeakPasswordError) as error:
        raise ConfigError(str(error)) from None


class _UsersCommand:
    """One run of the command line."""

    def __init__(self, deployment: Deployment) -> None:
        self._client = connect_async(deployment.redis_url)
        self._store = AccountStore(self._client, deployment.config.key_prefix)
        self._limiter = SignInLimiter(self._client, deployment.config.key_prefix)
        self._base_url = build_dashboard_url(deployment.config.web)
        self._setup_secret = SetupSecret(deployment.paths.sockets)
        self._operator = getpass.getuser()

    async def run(self, arguments: argparse.Namespace) -> int:
        """Run the command and close the connection."""
        try:
            await getattr(self, f"_{arguments.command.replace('-', '_')}")(arguments)
        finally:
            await self._client.aclose()
        return 0

    def _build_audit_entry(self, action: str, target: str, detail: str = "") -> AuditEntry:
        return AuditEntry(ts=time.time(), who=self._operator, via="cli", action=action, target=target, detail=detail)

    async def _list(self, _arguments: argparse.Namespace) -> None:
        for name, row in sorted((await self._store.read_accounts()).items()):
            cameras = "all cameras" if row.cameras is None else ", ".join(row.cameras) or "no cameras"
            print(f"{name:<24} {row.role:<10} {cameras}{'  (disabled)' if row.disabled else ''}")

    async def _add(self, arguments: argparse.Namespace) -> None:
        account = Account(
            name=arguments.name,
            role=arguments.role,
            password=credentials.hash_password(_read_password(arguments.name)),
            created_at=time.time(),
            cameras=None if arguments.cameras is None else sorted(set(arguments.cameras.split(","))),
        )
        principal.check_account_name(account.name)
        entry = self._build_audit_entry("account.create", account.name, f"role {account.role}")
        await self._store.edit(lambda rows: principal.add_account(rows, account), entry)
        self._setup_secret.remove()
        print(f"made the account {account.name!r} ({account.role})")

    async def _password(self, arguments: argparse.Namespace) -> None:
        new = credentials.hash_password(_read_password(arguments.name))
        entry = self._build_audit_entry("account.password", arguments.name)
        await self._store.edit(
            lambda rows: principal.change_account(rows, arguments.name, password=new),
            entry,
            revoke_tokens_of=arguments.name if arguments.revoke_tokens else "",
        )
        await self._limiter.forget_account(arguments.name)
        ended = "sessions and API tokens" if arguments.revoke_tokens else "sessions"
        print(f"{arguments.name!r} has a new password; its {ended} have ended")

    async def _role(self, arguments: argparse.Namespace) -> None:
        entry = self._build_audit_entry("account.change", arguments.name, f"role {arguments.role}")
        await self._store.edit(lambda rows: principal.change_account(rows, arguments.name, role=arguments.role), entry)
        print(f"{arguments.name!r} is {arguments.role} now")

    async def _remove(self, arguments: argparse.Namespace) -> None:
        entry = self._build_audit_entry("account.remove", arguments.name)
        await self._store.edit(lambda rows: principal.remove_account(rows, arguments.name), entry)
        print(f"removed the account {arguments.name!r}")

    async def _token(self, arguments: argparse.Namespace) -> None:
        permissions = [name.strip() for name in arguments.permissions.split(",")]
        unknown = [name for name in permissions if name not in PERMISSIONS]
        if unknown or not 1 <= arguments.days <= principal.MAX_TOKEN_DAYS:
            raise ConfigError(
                f"a token has some of the permissions {', '.join(PERMISSIONS)} and at most "
                f"{principal.MAX_TOKEN_DAYS} days. Remedy: correct --permissions or --days."
            )
        owner = await self._store.read_account(arguments.name)
        if owner is None:
            raise principal.UnknownAccountError(
                f"there is no account {arguments.name!r}. Remedy: see `crowdperf users list`."
            )
        text, now = credentials.generate_secret(), time.time()
        row = Token(
            id=secrets.token_hex(6),
            account=arguments.name,
            label=arguments.label,
            secret_sha256=credentials.hash_secret(text),
            permissions=[name for name in PERMISSIONS if name in permissions],
            created_at=now,
            expires_at=now + arguments.days * 86_400,
            account_id=owner.id,
        )
        await self._store.add_token(row, self._build_audit_entry("token.create", row.id, f"for {arguments.name}"))
        print(f"{TOKEN_PREFIX}{row.id}_{text}")

    async def _kiosk(self, arguments: argparse.Namespace) -> None:
        principal.check_account_name(arguments.name)
        secret = credentials.generate_secret()
        account = principal.build_kiosk(arguments.name, credentials.hash_secret(secret), time.time())
        entry = self._build_audit_entry("kiosk.link", account.name)
        await self._store.edit(lambda rows: principal.add_kiosk(rows, account), entry)
        print(credentials.build_kiosk_link(self._base_url, account.name, secret))

    async def _setup_link(self, _arguments: argparse.Namespace) -> None:
        if await self._store.read_accounts():
            raise AccountError("the site has accounts already. Remedy: `crowdperf users password NAME` or `add`.")
        print(build_setup_link(self._base_url, self._setup_secret.create()))


def _read_password(name: str) -> str:
    """Read a password twice from a terminal, else one line of standard input, and check it."""
    if sys.stdin.isatty():
        password = getpass.getpass(f"password for {name}: ")
        if getpass.getpass("again: ") != password:
            raise credentials.WeakPasswordError("the two differ. Remedy: type the same password twice.")
    else:
        password = sys.stdin.readline().rstrip("\n")
    credentials.check_password(password, name)
    return password
