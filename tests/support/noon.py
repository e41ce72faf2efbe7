"""A place where midnight is far: for tests of what counts as today."""

from __future__ import annotations

from datetime import datetime, timezone


def noon_zone() -> str:
    """Return a time zone, never UTC, in which it is about noon now."""
    ahead = 12 - datetime.now(timezone.utc).hour or 1
    # The sign of these names is the other way round.
    return f"Etc/GMT{-ahead:+d}"
