"""The proxy files of docs/ in front of the web process: sign-in, streams, pictures, and who is believed."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from crowdperf.accounts.credentials import SetupSecret
from tests.conftest import RedisServer
from tests.integration.web.test_live import binary
from tests.support.browser import dashboard
from tests.support.proxy import Proxy, proxied
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, Served, certify, serving

KINDS = ["nginx", pytest.param("caddy", marks=pytest.mark.long)]
CLIENT = "127.0.0.2"
"""Another address than the proxy's own, as every client has."""
ADA = {"name": "ada", "password": "correct horse battery"}


@pytest.fixture
def server(redis_server: RedisServer, tmp_path: Path) -> Iterator[Served]:
    with serving(redis_server.url, tmp_path, {**CONFIG, "web": {"trusted_proxies": ["127.0.0.1"]}}) as served:
        yield served


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return certify(tmp_path)


@pytest.fixture
def trust(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.fixture(params=KINDS)
def proxy(
    request: pytest.FixtureRequest, server: Served, certificate: tuple[Path, Path], tmp_path: Path
) -> Iterator[Proxy]:
    folder = tmp_path / request.param
    folder.mkdir()
    with proxied(request.param, server.port, certificate, folder) as made:
        yield made


def test_everything_works_behind_it(server: Served, site: SyntheticSite, proxy: Proxy, trust: ssl.SSLContext) -> None:
    site.start()
    elsewhere = httpx.HTTPTransport(verify=trust, local_address=CLIENT)
    with httpx.Client(base_url=proxy.url, transport=elsewhere, timeout=30) as ada:
        plain = httpx.get(f"http://localhost:{proxy.plain_port}/history?x=1", headers={"Host": "localhost"})
        assert plain.status_code in (301, 308)
        assert plain.headers["location"].startswith("https://localhost")
        assert ada.get("/healthz").status_code == 200
        assert ada.get("/api/v1/cameras").status_code == 401, "who comes through it does not sit at this machine"

        # What a client says of where it comes from is not believed; what the proxy says is.
        spoofed = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
        made = ada.post(
            "/api/v1/setup", json={**ADA, "secret": SetupSecret(server.paths.sockets).create()}, headers=spoofed
        )
        assert made.status_code == 200, made.text
        cookie = made.headers["set-cookie"]
        assert all(word in cookie for word in ("__Host-crowdperf_session", "Secure", "HttpOnly", "SameSite"))
        assert "strict-transport-security" in made.headers
        csrf = {"X-CSRF-Token": made.json()["csrf"]}
        entries = ada.get("/api/v1/audit").json()["entries"]
        assert {row["address"] for row in entries} == {CLIENT}

        token = {"label": "script", "permissions": ["read"], "days": 1, "password": ADA["password"]}
        own = {**csrf, "Origin": proxy.url}
        assert ada.post("/api/v1/tokens", json=token, headers=own).status_code == 201
        foreign = {**csrf, "Origin": "https://elsewhere.example"}
        assert ada.post("/api/v1/tokens", json=token, headers=foreign).status_code == 403
        assert ada.post("/api/v1/tokens", json="x" * 70_000, headers=own).status_code == 413

        session = "; ".join(f"{name}={value}" for name, value in ada.cookies.items())
        events_come_at_once(site, proxy, trust, session)
        asyncio.run(pictures_come(proxy, trust, session))
        jar = [{"name": name, "value": value, "url": proxy.url} for name, value in ada.cookies.items()]
    with dashboard(proxy.url, cookies=jar, self_signed=True) as shown:
        shown.wait_for_picture("plaza")
        before = shown.read_total("person", "in")
        site.publish_crossing("plaza", "gate", "in")
        shown.wait_for_total("person", "in", before + 1)
        assert shown.page.evaluate("document.querySelector('.account-name').textContent") == "ada"


def events_come_at_once(site: SyntheticSite, proxy: Proxy, trust: ssl.SSLContext, session: str) -> None:
    """Check that one small event arrives although no later data flushes a buffer."""
    connection = http.client.HTTPSConnection("localhost", proxy.port, context=trust, timeout=30)
    connection.request("GET", "/api/v1/stream", headers={"Cookie": session})
    reply = connection.getresponse()
    assert reply.status == 200
    assert reply.readline() == b"retry: 2000\n"
    crossing = site.publish_crossing("plaza", "gate", "in").encode()
    while crossing not in reply.readline():
        pass
    connection.close()


async def pictures_come(proxy: Proxy, trust: ssl.SSLContext, session: str) -> None:
    address = f"wss://localhost:{proxy.port}/api/v1/live"
    headers = {"Cookie": session}
    async with connect(address, ssl=trust, origin=proxy.url, additional_headers=headers) as socket:
        await socket.send(json.dumps({"subscribe": ["plaza"], "seen": 0}))
        head, jpeg = await binary(socket)
        while head["state"] != "live":
            head, jpeg = await binary(socket)
        assert jpeg[:2] == b"\xff\xd8"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, ssl=trust, origin="https://elsewhere.example", additional_headers=headers):
            pass
    assert refused.value.response.status_code == 403
