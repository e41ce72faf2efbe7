"""The site as a whole: its name and clock, Redis, the web server, how long history is kept.

`redis+sentinel://`: a Redis that is found by asking its Sentinels which server is the master now.

How many instances each worker has.

The optional copy of the history in PostgreSQL.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from msgspec import Meta, Struct, field

from crowdperf.settings.base import ConfigError, Seconds, Settings


class Site(Settings, frozen=True, kw_only=True):
    """What people call the place, and its clock."""

    name: str = "crowdperf"
    timezone: str = "UTC"


class Redis(Settings, frozen=True, kw_only=True):
    """Where the streams and the history live. An empty `url` starts the embedded server."""

    url: str = ""
    key_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.-]*$")] = ""
    memory_mb: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    """Bound of the embedded server's data in MiB; 0 takes half of the machine's memory."""


class Web(Settings, frozen=True, kw_only=True):
    """REST API and dashboard."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    anonymous: Literal["auto", "viewer", "none"] = "auto"
    """What who is not signed in may do. auto: look on from this very machine, while no proxy stands before it."""
    trusted_proxies: list[str] = field(default_factory=list)
    """Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are believed."""


def build_dashboard_url(web: Web) -> str:
    """The dashboard's address, as this machine would open it."""
    host = "127.0.0.1" if web.host in ("0.0.0.0", "::", "") else f"[{web.host}]" if ":" in web.host else web.host
    return f"{'https' if web.ssl_certfile else 'http'}://{host}:{web.port}"


class Retention(Settings, frozen=True, kw_only=True):
    """How long history is kept, by kind. Counts outlive the crossings they were counted from."""

    crossings_days: Annotated[int, Meta(ge=1, le=36_500)] = 365
    zones_days: Annotated[int, Meta(ge=1, le=36_500)] = 365
    """The minutes of zones, and the density grids."""
    events_days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    minute_counts_days: Annotated[int, Meta(ge=1, le=36_500)] = 7
    hour_counts_days: Annotated[int, Meta(ge=1, le=36_500)] = 1830
    day_counts_days: Annotated[int, Meta(ge=1, le=36_500)] = 36_500
    audit_days: Annotated[int, Meta(ge=1, le=36_500)] = 730
    detections_s: Seconds = 600.0
    evidence_days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    evidence_mb: Annotated[int, Meta(ge=1, le=10**8)] = 2048
    """Beyond this the oldest day of pictures goes first."""


SENTINEL_SCHEME = "redis+sentinel://"


class SentinelAddress(Struct, frozen=True):
    """What the URL says: `redis+sentinel://user:password@host:port,host:port/service/db?sentinel_password=…`."""

    sentinels: list[tuple[str, int]]
    service: str
    db: int
    login: dict[str, str]
    """For the data servers."""
    sentinel_login: dict[str, str]
    """For the Sentinels, which have accounts of their own."""


def parse_sentinel_url(url: str) -> SentinelAddress:
    """Parse the URL.

    Raises:
        ValueError: it cannot be used; the text holds no credentials.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        if not name or not port.isdigit():
            raise ValueError(f"{host!r} is no Sentinel (host:port)")
        sentinels.append((name.strip("[]"), int(port)))
    service, _, db = parts.path.strip("/").partition("/")
    if not service or (db and not db.isdigit()):
        raise ValueError("it names no service behind the Sentinels")
    extra = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if not set(extra) <= {"sentinel_username", "sentinel_password"}:
        raise ValueError(f"it has options that are unknown: {', '.join(sorted(extra))}")
    return SentinelAddress(
        sentinels,
        service,
        int(db or 0),
        {name: unquote(text) for name, text in (("username", user), ("password", password)) if text},
        {name.removeprefix("sentinel_"): text for name, text in extra.items()},
    )


Instances = Annotated[int, Meta(ge=1, le=16)]


class Workers(Settings, frozen=True, kw_only=True):
    """Instances per worker. The work is split over them; one is enough for some hundred cameras."""

    notify: Instances = 1
    visitors: Instances = 1
    ppe: Instances = 1
    areas: Instances = 1
    recorder: Instances = 1
    housekeeping: Instances = 1


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
