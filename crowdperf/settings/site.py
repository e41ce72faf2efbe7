"""The site as a whole: its name and clock, Redis, the web server, how long history is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from crowdperf.settings.base import Seconds, Settings


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
