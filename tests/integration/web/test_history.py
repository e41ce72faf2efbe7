"""Counts and charts over real HTTP, in the site's zone (Europe/Berlin)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest

from crowdperf.settings.site import Web
from crowdperf.web.api import history
from crowdperf.web.serving import query_thread
from crowdperf.web.serving.connections import open_listening_socket
from tests.conftest import RedisServer
from tests.support.ports import free_port
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import BERLIN as BERLIN_SITE
from tests.support.webserver import TIMEOUT_S, Served, serving

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with serving(redis_server.url, tmp_path, BERLIN_SITE) as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as made:
        yield made


def local(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).timestamp()


def cross(site: SyntheticSite, *times: str) -> None:
    for text in times:
        site.publish_crossing("plaza", "gate", "in", ts=local(text))


def get(client: httpx.Client, path: str, **parameters: str) -> dict:
    reply = client.get(f"/api/v1/{path}", params={key.rstrip("_"): value for key, value in parameters.items()})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_day_ends_at_local_midnight_when_clocks_change(client: httpx.Client, site: SyntheticSite) -> None:
    cross(site, "2026-03-28T23:59:59", "2026-03-29T00:00:00", "2026-03-29T23:59:59", "2026-03-30T00:00:00")
    span = {"from_": "2026-03-28T00:00:00+01:00", "to": "2026-03-31T00:00:00+02:00"}
    days = get(client, "counts", group="day", **span)["counts"]
    assert days == [
        {"day": "2026-03-27T23:00:00.000Z", "count": 1},
        {"day": "2026-03-28T23:00:00.000Z", "count": 2},
        {"day": "2026-03-29T22:00:00.000Z", "count": 1},
    ]
    chart = get(client, "series", bucket="day", group="", **span)
    assert chart["series"] == [{"counts": [1, 2, 1]}]
    assert chart["timezone"] == "Europe/Berlin"
    assert chart["starts"] == [
        "2026-03-28T00:00:00.000+01:00",
        "2026-03-29T00:00:00.000+01:00",
        "2026-03-30T00:00:00.000+02:00",
    ]
    hours = get(client, "series", from_="2026-03-29T00:00:00+01:00", to="2026-03-30T00:00:00+02:00", bucket="hour")
    assert len(hours["starts"]) == 23
    assert [row["direction"] for row in hours["series"]] == ["in"]
    assert sum(hours["series"][0]["counts"]) == 2


def test_a_chart_has_zeros_and_one_row_per_group(client: httpx.Client, site: SyntheticSite) -> None:
    site.publish_crossing("plaza", "gate", "in", ts=local("2026-05-01T10:00:10"))
    site.publish_crossing("plaza", "gate", "out", "car", ts=local("2026-05-01T10:02:59"))
    span = {"from_": "2026-05-01T10:00:30+02:00", "to": "2026-05-01T10:04:00+02:00"}
    chart = get(client, "series", bucket="minute", group="class,direction", **span)
    assert chart["series"] == [{"class": "car", "direction": "out", "counts": [0, 0, 1, 0]}]
    assert get(client, "series", bucket="minute", group="", camera="lobby", **span)["series"] == [
        {"counts": [0, 0, 0, 0]}
    ]


def test_columns_come_in_the_order_asked_for(client: httpx.Client, site: SyntheticSite) -> None:
    site.publish_crossing("plaza", "gate", "out", ts=local("2026-05-01T10:30:00"))
    site.publish_crossing("plaza", "gate", "in", ts=local("2026-05-01T11:30:00"))
    span = {"from_": "2026-05-01T00:00:00+02:00", "to": "2026-05-02T00:00:00+02:00"}
    by_hour = get(client, "counts", group="hour,direction", **span)["counts"]
    assert [row["direction"] for row in by_hour] == ["out", "in"]
    by_direction = get(client, "counts", group="direction,hour", **span)["counts"]
    assert [row["direction"] for row in by_direction] == ["in", "out"]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("counts?group=hour,day", "at most"),
        ("counts?group=week", "'week'"),
        ("series?bucket=week", "'week'"),
        ("series?group=hour", "'hour'"),
        ("series?bucket=minute&from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z", "shorter range"),
    ],
)
def test_a_chart_that_cannot_be_is_refused_with_the_remedy(client: httpx.Client, path: str, word: str) -> None:
    reply = client.get(f"/api/v1/{path}")
    assert reply.status_code == 400
    assert word in reply.json()["detail"]
    assert "Remedy" in reply.json()["detail"]


@pytest.mark.parametrize("path", ["counts?group=minute,direction", "series?bucket=minute&group=direction"])
def test_more_figures_than_the_limit_are_refused(
    client: httpx.Client, site: SyntheticSite, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    cross(site, "2026-05-01T10:00:10", "2026-05-01T10:01:10", "2026-05-01T10:02:10")
    span = "&from=2026-05-01T10:00:00%2B02:00&to=2026-05-01T10:03:00%2B02:00"
    monkeypatch.setattr(history, "MAX_POINTS", 3)
    assert client.get(f"/api/v1/{path}{span}").status_code == 200
    monkeypatch.setattr(history, "MAX_POINTS", 2)
    reply = client.get(f"/api/v1/{path}{span}")
    assert reply.status_code == 400
    assert "at most 2 figures" in reply.json()["detail"]
    assert "shorter range" in reply.json()["detail"]


def test_a_large_request_above_the_limit_is_refused_at_once(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = "/api/v1/series?bucket=minute&from=2026-01-01T00:00:00Z&to=2026-01-04T00:00:00Z"
    assert client.get(large).status_code == 200
    monkeypatch.setattr(query_thread, "MAX_HEAVY_QUERIES", 0)
    reply = client.get(large)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
    assert client.get("/api/v1/series?bucket=hour").status_code == 200


def test_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY only where the socket's protocol is named."""
    with open_listening_socket(Web(host="127.0.0.1", port=free_port())) as listening:
        assert listening.proto == socket.IPPROTO_TCP
