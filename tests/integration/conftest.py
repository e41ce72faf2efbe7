"""The web process and its made-up site, which every test of the web part needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import Served, serving


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    """The test site, served."""
    with serving(redis_server.url, tmp_path) as served:
        yield served


@pytest.fixture
def site(server: Served, redis_server: RedisServer) -> Iterator[SyntheticSite]:
    """Its cameras and crossings, made by the test."""
    made = SyntheticSite(server.config, server.paths, redis_server.url)
    yield made
    made.close()
