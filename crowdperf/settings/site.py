"""The site as a whole: name and clock, Redis, web server, retention, workers, PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Meta, Struct, field

from crowdperf.settings.base import ConfigError, Seconds, Settings


class Site(Settings, frozen=True, kw_only=True):
    """Display name and clock of the site."""

    name: str = "crowdperf"
    timezone: str = "UTC"


class Redis(Settings, frozen=True, kw_only=True):
    """The Redis server for streams and history. An empty `url` starts the embedded server."""

    url: str = ""
    key_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9:_.-]*$")] = ""
    memory_mb: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    """Memory limit of the embedded server in MiB; 0 takes half of the machine's memory."""


class Web(Settings, frozen=True, kw_only=True):
    """REST API and dashboard."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    anonymous: Literal["auto", "viewer", "none"] = "auto"
    """Access without sign-in. auto: viewer from this machine only, and only without a proxy."""
    trusted_proxies: list[str] = field(default_factory=list)
    """Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto are trusted."""


def build_dashboard_url(web: Web) -> str:
    """Build the dashboard's URL as seen from this machine."""
    host = "127.0.0.1" if web.host in ("0.0.0.0", "::", "") else f"[{web.host}]" if ":" in web.host else web.host
    return f"{'https' if web.ssl_certfile else 'http'}://{host}:{web.port}"


class Retention(Settings, frozen=True, kw_only=True):
    """How long history is kept, by kind. Counts outlive the crossings they come from."""

    crossings_days: Annotated[int, Meta(ge=1, le=36_500)] = 365
    zones_days: Annotated[int, Meta(ge=1, le=36_500)] = 365
    """Also the retention of the density grids."""
    events_days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    minute_counts_days: Annotated[int, Meta(ge=1, le=36_500)] = 7
    hour_counts_days: Annotated[int, Meta(ge=1, le=36_500)] = 1830
    day_counts_days: Annotated[int, Meta(ge=1, le=36_500)] = 36_500
    audit_days: Annotated[int, Meta(ge=1, le=36_500)] = 730
    detections_s: Seconds = 600.0
    evidence_days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    evidence_mb: Annotated[int, Meta(ge=1, le=10**8)] = 2048
    """Above this size the oldest day of pictures is deleted first."""


SENTINEL_SCHEME = "redis+sentinel://"


class SentinelAddress(Struct, frozen=True):
    """The parts of `redis+sentinel://user:password@host:port,host:port/service/db`."""

    sentinels: list[tuple[str, int]]
    service: str
    db: int
    login: dict[str, str]
    """Credentials for the data servers."""
    sentinel_login: dict[str, str]
    """Credentials for the Sentinels, from the query (`?sentinel_password=…`)."""


def parse_sentinel_url(url: str) -> SentinelAddress:
    """Parse a `redis+sentinel://` URL. The message of a ValueError holds no credentials."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    sentinels = []
    for host in hosts.split(","):
        name, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        if not name or not port.isdigit():
            raise ValueError(f"{host!r} is not a Sentinel (host:port)")
        sentinels.append((name.strip("[]"), int(port)))
    service, _, db = parts.path.strip("/").partition("/")
    if not service or (db and not db.isdigit()):
        raise ValueError("it names no service behind the Sentinels")
    extra = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if not set(extra) <= {"sentinel_username", "sentinel_password"}:
        raise ValueError(f"it has unknown options: {', '.join(sorted(extra))}")
    return SentinelAddress(
        sentinels,
        service,
        int(db or 0),
        {name: unquote(text) for name, text in (("username", user), ("password", password)) if text},
        {name.removeprefix("sentinel_"): text for name, text in extra.items()},
    )


Instances = Annotated[int, Meta(ge=1, le=16)]


class Workers(Settings, frozen=True, kw_only=True):
    """Instances per worker. The work is split over them; one serves some hundred cameras."""

    notify: Instances = 1
    visitors: Instances = 1
    ppe: Instances = 1
    areas: Instances = 1
    recorder: Instances = 1
    housekeeping: Instances = 1


POSTGRES_SCHEMES = ("postgresql", "postgres")


class Postgres(Settings, frozen=True, kw_only=True):
    """The PostgreSQL database that receives a copy of the history; without a `dsn` there is no copy."""

    dsn: str = ""
    """`env:NAME` or `file:PATH` of the URL, or the URL itself: `postgresql://user@host/database`."""


def validate_dsn(where: str, dsn: str) -> None:
    """Raise ConfigError unless `dsn` is a reference or a URL; the message never holds the URL."""
    if not dsn or dsn.startswith(("env:", "file:")):
        return
    try:
        parts = urlsplit(dsn)
        malformed = (
            parts.scheme not in POSTGRES_SCHEMES or not parts.path.strip("/") or parts.port == 0 or "@" in parts.path
        )
    except ValueError:
        malformed = True
    if malformed:
        raise ConfigError(
            f"{where} is not a PostgreSQL URL. Remedy: write postgresql://user@host:5432/database (in a password "
            "'/' as %2F, '@' as %40), or better env:NAME or file:PATH."
        )


def resolve_dsn(reference: str, root: Path) -> str:
    """Return the URL that a reference stands for (files below `root`), or raise ConfigError."""
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
    validate_dsn(f"postgres.dsn: the content of {kind} {name}", dsn)
    return dsn
