"""`redis+sentinel://`: a Redis that is found by asking its Sentinels which server is the master now."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Struct

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
