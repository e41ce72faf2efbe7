"""The optional copy of the history in PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from crowdperf.settings.base import ConfigError, Settings

POSTGRES_SCHEMES = ("postgresql", "postgres")


class Postgres(Settings, frozen=True, kw_only=True):
    """Where events and summaries are copied to. Without a `dsn` there is no copy."""

    dsn: str = ""
    """`env:NAME` or `file:PATH`, which hold the URL; or the URL itself, `postgresql://user@host/database`."""


def validate_dsn(where: str, dsn: str) -> None:
    """A reference, or a URL that can be parsed.

    Raises:
        ConfigError: it is neither; the text never holds the URL, which may carry a password.
    """
    if not dsn or dsn.startswith(("env:", "file:")):
        return
    try:
        parts = urlsplit(dsn)
        odd = parts.scheme not in POSTGRES_SCHEMES or not parts.path.strip("/") or parts.port == 0 or "@" in parts.path
    except ValueError:
        odd = True
    if odd:
        raise ConfigError(
            f"{where} is no PostgreSQL URL. Remedy: write postgresql://user@host:5432/database (in a password "
            "'/' as %2F, '@' as %40), or better env:NAME or file:PATH."
        )


def resolve_dsn(reference: str, root: Path) -> str:
    """The URL that a reference stands for; files are relative to `root`.

    Raises:
        ConfigError: the variable is unset, the file cannot be read, or what it holds is no URL.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        dsn = os.environ.get(name, "").strip()
        if not dsn:
            raise ConfigError(f"postgres.dsn names the environment variable {name}, which is not set. Remedy: set it.")
    elif kind == "file":
        try:
            dsn = (root / name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"postgres.dsn names the file {name!r}, which cannot be read: {error.strerror}. Remedy: correct it."
            ) from None
    else:
        return reference
    if not dsn or dsn.startswith(("env:", "file:")):
        raise ConfigError(f"postgres.dsn: {kind} {name} holds no PostgreSQL URL. Remedy: put the URL there.")
    validate_dsn(f"postgres.dsn: what {kind} {name} holds", dsn)
    return dsn


def redact_secrets(text: str, dsn: str) -> str:
    """`text` without the URL's password, in whatever form a driver repeats it."""
    parts = urlsplit(dsn)
    secrets = {parts.password or "", unquote(parts.password or "")}
    secrets |= {value for name, value in parse_qsl(parts.query) if "password" in name}
    text = text.replace(dsn, "***")
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
