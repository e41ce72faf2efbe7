"""An installation in a folder of the test."""

from __future__ import annotations

import json
from pathlib import Path

from crowdperf.settings.config import Installation


def make_installation(folder: Path, redis_url: str) -> Installation:
    """Write a config.json that names the server, and return its installation."""
    (folder / "config.json").write_text(json.dumps({"redis": {"url": redis_url}}))
    return Installation(folder)
