"""What `crowdperf check` says of connections that others can read."""

from __future__ import annotations

import msgspec
import pytest

from crowdperf.cli.check import check_exposure
from crowdperf.settings.config import parse

TLS = {"ssl_certfile": "a", "ssl_keyfile": "b"}


@pytest.mark.parametrize(
    ("web", "redis", "expected"),
    [
        ({}, "", []),
        ({"host": "0.0.0.0"}, "", ["without TLS"]),
        ({"host": "192.0.2.3"}, "", ["without TLS"]),
        ({"host": "0.0.0.0", **TLS}, "", []),
        ({"host": "0.0.0.0", "trusted_proxies": ["192.0.2.1"]}, "", []),
        ({}, "redis://127.0.0.1:6379", []),
        ({}, "unix:///run/redis.sock", []),
        ({}, "rediss://user:pass-word@store.example:6379", []),
        ({}, "redis://store.example:6379", ["without password and TLS"]),
        ({}, "redis://user:pass-word@192.0.2.3:6379", ["without TLS"]),
    ],
)
def test_readable_connections_are_reported(web: dict[str, object], redis: str, expected: list[str]) -> None:
    found = list(check_exposure(parse(msgspec.json.encode({"web": web, "redis": {"url": redis}}))))
    assert [finding.ok for finding in found] == [False] * len(expected)
    for finding, text in zip(found, expected, strict=True):
        assert text in finding.text
        assert "Remedy: " in finding.text
        assert "pass-word" not in finding.text
