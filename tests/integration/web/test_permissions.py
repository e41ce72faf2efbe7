"""Every row of docs/reference/permissions.md, asked of a running server by every kind of caller."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from http import HTTPStatus

import httpx
import msgspec
import pytest
import websockets.exceptions
from websockets.sync.client import connect

from crowdperf.accounts import credentials
from crowdperf.accounts.account_store import ACCOUNTS_KEY
from crowdperf.accounts.principal import Account
from crowdperf.supervision.config_patch import ConfigRequest
from crowdperf.web.config_client import ConfigClient
from crowdperf.web.problems import conflict
from tests.conftest import ROOT, RedisServer
from tests.support.permissions import ALLOWED, LIMITED_TO, list_callers, list_routes
from tests.support.tables import BEGIN, END
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

PASSWORD = "correct horse battery"
HASH = credentials.hash_password(PASSWORD)
PAGE = ROOT / "docs" / "reference" / "permissions.md"
REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
SAFE = ("GET", "HEAD", "WEBSOCKET")
LAST = "DELETE /api/v1/session"
"""Signs the caller out."""


def read_page() -> dict[str, dict[str, str]]:
    """Read the table of the page: route, then caller, then what the server is to answer."""
    begin, end = BEGIN.format(name="permissions"), END.format(name="permissions")
    lines = PAGE.read_text(encoding="utf-8").split(begin, 1)[1].split(end, 1)[0].strip().splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): dict(zip(head[2:], row[2:])) for row in rows}


@pytest.fixture(scope="module")
def served(_redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """The site, with and without anonymous viewers. No request changes its configuration."""

    async def refuse(_client: ConfigClient, _request: ConfigRequest) -> None:
        raise conflict("the test changes no configuration")

    with (
        pytest.MonkeyPatch.context() as patch,
        serving(_redis_session.url, tmp_path_factory.mktemp("open"), with_anonymous("viewer")) as everybody,
        serving(_redis_session.url, tmp_path_factory.mktemp("closed"), with_anonymous("none")) as closed,
    ):
        patch.setattr(ConfigClient, "request", refuse)
        yield {"viewer": everybody, "none": closed}


def with_anonymous(value: str) -> dict:
    return {**CONFIG, "web": {"anonymous": value}}


@pytest.fixture
def sign_in(served: dict[str, Served], redis_server: RedisServer) -> Iterator[type[httpx.Client]]:
    """Return what makes a client of that kind of caller."""
    clients = []

    def make(caller: str) -> httpx.Client:
        principal = list_callers()[caller]
        web = served["viewer" if caller == "`anonymous: viewer`" else "none"]
        client = httpx.Client(base_url=web.url, timeout=TIMEOUT_S)
        clients.append(client)
        if principal.kind == "anonymous":
            return client
        cameras = None if principal.cameras is None else LIMITED_TO
        row = Account(name=principal.name, role=principal.role, password=HASH, created_at=time.time(), cameras=cameras)
        redis_server.client().hset(ACCOUNTS_KEY, row.name, msgspec.json.encode(row))
        made = client.post("/api/v1/session", json={"name": row.name, "password": PASSWORD})
        assert made.status_code == 200, made.text
        client.headers["X-CSRF-Token"] = made.json()["csrf"]
        if principal.kind == "token":
            body = {"label": "walk", "permissions": sorted(principal.permissions), "password": PASSWORD}
            token = client.post("/api/v1/tokens", json=body).json()
            client.cookies.clear()
            del client.headers["X-CSRF-Token"]
            client.headers["Authorization"] = f"Bearer {token['token']}"
        return client

    yield make
    for client in clients:
        client.close()


def ask(client: httpx.Client, route: str) -> int:
    """Send the request with parameters of nothing and a body that no route takes; return the status.

    A handler that is reached refuses the body before it does anything.
    """
    method, path = route.split(" ", 1)
    path = re.sub(r"\{\w+:int\}", "99999", re.sub(r"\{\w+:(?:str|path)\}", "none", path))
    if method == "WEBSOCKET":
        return open_socket(client, path)
    body = {} if method in SAFE else {"content": b"[]", "headers": {"Content-Type": "application/json"}}
    with client.stream(method, path, **body) as reply:
        return reply.status_code


def open_socket(client: httpx.Client, path: str) -> int:
    """Open the WebSocket as the client would; return the status of the handshake."""
    headers = {name: client.headers[name] for name in ("Authorization",) if name in client.headers}
    headers |= {"Cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())}
    try:
        with connect(str(client.base_url.join(path)).replace("http", "ws", 1), additional_headers=headers):
            return HTTPStatus.SWITCHING_PROTOCOLS
    except websockets.exceptions.InvalidStatus as refused:
        return refused.response.status_code


def test_every_route_has_its_row() -> None:
    assert read_page().keys() == {route.name for route in list_routes()}, "remedy: python -m tests.support.tables"


@pytest.mark.parametrize("caller", list_callers())
def test_server_answers_as_the_page_says(sign_in, caller: str) -> None:
    client, page = sign_in(caller), read_page()
    wrong = {}
    for route in sorted(page, key=LAST.__eq__):
        status, expected = ask(client, route), page[route][caller]
        if (status in REFUSALS) != (expected != ALLOWED) or (expected != ALLOWED and status != int(expected)):
            wrong[route] = f"{status} instead of {expected}"
        assert status < 500 or status == HTTPStatus.SERVICE_UNAVAILABLE, route
    assert wrong == {}


def test_cookie_alone_changes_nothing(sign_in) -> None:
    """A foreign page can make the browser send the cookie, but does not know the token of the session."""
    client = sign_in("admin")
    del client.headers["X-CSRF-Token"]
    changing = [route for route in list_routes() if route.method not in SAFE and route.need != "open"]
    assert len(changing) > 30
    assert {route.name: ask(client, route.name) for route in changing} == {route.name: 403 for route in changing}


def test_wrong_credentials_are_not_taken_for_none(served: dict[str, Served]) -> None:
    """Also where everybody may look."""
    closed = [route for route in list_routes() if route.need != "open"]
    with httpx.Client(base_url=served["viewer"].url, timeout=TIMEOUT_S) as client:
        client.headers["Authorization"] = "Bearer cperf_none_none"
        answers = {route.name: ask(client, route.name) for route in closed}
    assert answers == {route.name: 403 if route.method == "WEBSOCKET" else 401 for route in closed}


def test_limited_administrator_makes_no_unlimited_account(sign_in) -> None:
    client = sign_in("limited admin")
    body = {"name": "eve", "role": "admin", "password": PASSWORD}
    assert client.post("/api/v1/users", json=body).status_code == 403
    assert client.patch("/api/v1/users/limited-admin", json={"all_cameras": True}).status_code == 403
