"""Accounts over real HTTP and a real Redis: who gets in, who sees what, and what is written down of it."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import AsyncMock

import httpx
import msgspec
import pytest
import redis
from msgspec.structs import replace
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from crowdperf.__main__ import main
from crowdperf.accounts import credentials
from crowdperf.accounts.account_store import ACCOUNTS_KEY, SESSION_TOUCH_S, TOKENS_KEY, AccountStore
from crowdperf.accounts.credentials import SetupSecret, SignInLimiter
from crowdperf.accounts.principal import Account, Token
from crowdperf.messaging import codec
from crowdperf.messaging.redis.client import connect_async
from crowdperf.messaging.schema import AuditEntry
from crowdperf.messaging.streams import AUDIT
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.environment import Paths
from crowdperf.web import auth
from crowdperf.web.app import create_app
from crowdperf.web.state import AppState
from tests.conftest import RedisServer, wait_until
from tests.support.people import HASH, PASSWORD, People
from tests.support.synthetic import SyntheticSite
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving, site_config

NEW_TOKEN = {"label": "export", "permissions": ["read"], "password": PASSWORD}
ENTRY = AuditEntry(ts=0.0, who="test", via="cli", action="session.open", target="rita")
AWAY = {"X-Forwarded-For": "203.0.113.9"}
"""Makes a request one that came through a proxy, so that it is nobody's."""


@pytest.fixture(scope="module")
def _served(_redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(_redis_session.url, tmp_path_factory.mktemp("web")) as served:
        yield served


@pytest.fixture
def server(_served: Served, redis_server: RedisServer) -> Served:
    SetupSecret(_served.paths.sockets).remove()
    return _served


@pytest.fixture
def people(server: Served, redis_server: RedisServer) -> People:
    return People(server, redis_server)


@pytest.fixture
def nobody(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as made:
        yield made


@pytest.fixture
def site(server: Served, redis_server: RedisServer) -> Iterator[SyntheticSite]:
    made = SyntheticSite(server.config, server.paths, redis_server.url)
    yield made
    made.close()


def audit(client: httpx.Client, **query: str) -> list[dict]:
    reply = client.get("/api/v1/audit", params=query)
    assert reply.status_code == 200, reply.text
    return reply.json()["entries"]


def test_the_setup_link_makes_one_administrator_and_no_second(server: Served, nobody: httpx.Client) -> None:
    link = SetupSecret(server.paths.sockets)
    secret = link.create()
    assert nobody.get("/api/v1/session").json()["setup"] is True
    assert nobody.get("/setup/").status_code == nobody.get("/login/").status_code == 200
    ada = {"name": "ada", "password": PASSWORD}
    assert nobody.post("/api/v1/setup", json={**ada, "secret": secret + "x"}).status_code == 403
    assert nobody.post("/api/v1/setup", json={"name": "ada", "password": "short", "secret": secret}).status_code == 400
    reply = nobody.post("/api/v1/setup", json={**ada, "secret": secret})
    assert (reply.status_code, reply.json()["role"]) == (200, "admin")
    assert nobody.get("/api/v1/session").json()["name"] == "ada", "signed in at once"
    assert nobody.get("/api/v1/users").json()["users"][0]["name"] == "ada"
    assert nobody.post("/api/v1/setup", json={"secret": secret, "name": "eve", "password": PASSWORD}).status_code == 403
    again = link.create()
    refused = nobody.post("/api/v1/setup", json={"secret": again, "name": "eve", "password": PASSWORD})
    assert refused.status_code == 409, "a secret alone is not enough where there is an account"
    assert [row["action"] for row in audit(nobody)] == ["session.open", "account.setup", "request.refuse"]


def test_a_new_site_says_the_link_and_an_old_one_does_not(redis_server: RedisServer, tmp_path: Path) -> None:
    link = SetupSecret(Paths(tmp_path).sockets)
    with serving(redis_server.url, tmp_path):
        wait_until(lambda: link.read() is not None, what="the setup link")
    row = Account(name="ada", role="admin", password=HASH, created_at=0)
    redis_server.client().hset(ACCOUNTS_KEY, "ada", msgspec.json.encode(row))
    with serving(redis_server.url, tmp_path):
        wait_until(lambda: link.read() is None, what="the end of the link")


def test_sign_in_cookie_is_http_only_and_sign_out_ends_it(people: People, nobody: httpx.Client) -> None:
    people.add("ada", "operator")
    reply = nobody.post("/api/v1/session", json={"name": "ada", "password": PASSWORD})
    cookie = reply.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie, "a browser would drop it on plain http"
    assert PASSWORD not in reply.text
    assert HASH not in reply.text
    me = nobody.get("/api/v1/session").json()
    assert (me["name"], me["permissions"]) == ("ada", ["read", "visitors", "review", "configure", "kiosk"])
    kept = dict(nobody.cookies)
    assert nobody.delete("/api/v1/session", headers={"X-CSRF-Token": me["csrf"]}).status_code == 204
    nobody.cookies.update(kept)
    ended = nobody.get("/api/v1/session").json()
    assert ended["signed_in"] is False, "the server has forgotten it, whatever the browser keeps"


def test_wrong_name_and_wrong_password_look_alike(people: People, nobody: httpx.Client) -> None:
    people.add("ada", "viewer")
    wrong = nobody.post("/api/v1/session", json={"name": "ada", "password": "not the password"})
    unknown = nobody.post("/api/v1/session", json={"name": "eve", "password": "not the password"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert "set-cookie" not in wrong.headers


def test_attempts_are_limited_over_all_web_processes(
    people: People, nobody: httpx.Client, redis_server: RedisServer, tmp_path: Path
) -> None:
    people.add("ada", "viewer")
    for _ in range(5):
        assert nobody.post("/api/v1/session", json={"name": "ada", "password": "guess guess"}).status_code == 401
    with (
        serving(redis_server.url, tmp_path) as second,
        httpx.Client(base_url=second.url, timeout=TIMEOUT_S) as elsewhere,
    ):
        reply = elsewhere.post("/api/v1/session", json={"name": "Ada", "password": PASSWORD})
    assert reply.status_code == 429, "even the right password waits now, in another process as well"
    assert 0 < int(reply.headers["retry-after"]) <= 900
    people.add("bob", "viewer")
    assert nobody.post("/api/v1/session", json={"name": "bob", "password": PASSWORD}).status_code == 200


def test_the_addresses_of_one_ipv6_network_count_as_one(people: People, redis_server: RedisServer) -> None:
    people.add("ada", "viewer")

    async def attempt(address: str) -> int:
        async with connect_async(redis_server.url) as client:
            return await SignInLimiter(client).register_attempt("ada", address)

    waits = [asyncio.run(attempt(f"2001:db8:1:2::{number}")) for number in range(6)]
    assert [wait > 0 for wait in waits] == [False] * 5 + [True]
    assert asyncio.run(attempt("2001:db8:1:3::1")) == 0
    assert asyncio.run(attempt("::ffff:203.0.113.9")) == 0


def test_a_new_sign_in_ends_the_browsers_earlier_session(people: People) -> None:
    people.add("bob", "viewer")
    with people.browser("ada", "admin") as browser, people.browser("ada") as other:
        kept = dict(browser.cookies)
        reply = browser.post("/api/v1/session", json={"name": "bob", "password": PASSWORD})
        assert reply.json()["name"] == "bob"
        browser.cookies.clear()
        browser.cookies.update(kept)
        assert browser.get("/api/v1/session").json()["signed_in"] is False
        assert other.get("/api/v1/session").json()["signed_in"] is True, "another browser's goes on"


def test_a_success_forgives_the_mistakes_before_it(people: People, nobody: httpx.Client) -> None:
    people.add("ada", "viewer")
    for password in (*["mistyped it"] * 4, PASSWORD, *["mistyped it"] * 2):
        nobody.post("/api/v1/session", json={"name": "ada", "password": password})
    assert nobody.post("/api/v1/session", json={"name": "ada", "password": PASSWORD}).status_code == 200, "the eighth"


@pytest.mark.parametrize("headers", [{}, {"X-CSRF-Token": "guess"}, {"X-CSRF-Token": ""}])
def test_a_cookie_alone_changes_nothing(people: People, headers: dict[str, str]) -> None:
    with people.browser("ada", "admin") as ada:
        del ada.headers["X-CSRF-Token"]
        new = {"name": "eve", "role": "admin", "password": PASSWORD}
        assert ada.post("/api/v1/users", json=new, headers=headers).status_code == 403
        assert ada.get("/api/v1/users/eve").status_code == 404


def test_a_foreign_page_changes_nothing_and_signs_nobody_in(people: People, nobody: httpx.Client) -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    with people.browser("ada", "admin") as ada:
        new = {"name": "eve", "role": "admin", "password": PASSWORD}
        assert ada.post("/api/v1/users", json=new, headers=foreign).status_code == 403
    sign_in = {"name": "ada", "password": PASSWORD}
    assert nobody.post("/api/v1/session", json=sign_in, headers=foreign).status_code == 403


def routes(tmp_path: Path) -> list[tuple[str, str, str]]:
    """(method, address, need) of every route, with something in the place of each path parameter."""
    found = []
    for route in create_app(Served(site_config("redis://", 1), Paths(tmp_path)).process_config).routes:
        for handler in getattr(route, "route_handlers", []):
            for method in getattr(handler, "http_methods", ()):
                address = "/".join("1" if part.startswith("{") else part for part in route.path_format.split("/"))
                if method != "OPTIONS":
                    found.append((method, address, handler.opt["need"]))
    return found


def test_every_route_refuses_whoever_lacks_its_permission(
    people: People, nobody: httpx.Client, server: Served, tmp_path: Path
) -> None:
    guarded = [row for row in routes(tmp_path) if row[2] != "open"]
    assert len(guarded) > 15
    browsers = {role: people.browser(role, role) for role in ("viewer", "reception", "operator", "kiosk")}
    grants = {
        "viewer": {"read"},
        "reception": {"read", "visitors", "kiosk"},
        "operator": {"read", "visitors", "review", "configure", "kiosk"},
        "kiosk": {"kiosk"},
    }
    for method, address, need in guarded:
        if address.endswith(("/stream", "/live")):
            continue
        reply = nobody.request(method, address, headers=AWAY)
        assert reply.status_code == 401, (method, address)
        assert reply.headers["content-type"] == "application/problem+json"
        for role, browser in browsers.items():
            if need not in grants[role] | {"self"}:
                assert browser.request(method, address).status_code == 403, (method, address, role)
    for browser in browsers.values():
        browser.close()
    assert nobody.get("/api/v1/stream", headers=AWAY).status_code == 401


def test_a_kiosk_checks_in_and_out_until_it_is_revoked(
    people: People, nobody: httpx.Client, redis_server: RedisServer
) -> None:
    with people.browser("root", "admin") as root:
        visitor = {"name": "Grace Hopper", "email": "grace@site.example", "host": "Ada", "walk_in": True}
        code = root.post("/api/v1/visits", json=visitor).json()["code"]
        made = root.post("/api/v1/kiosks", json={"name": "entrance"})
        name, secret = made.json()["link"].removeprefix("/kiosk/#").split(":")
        assert nobody.post("/api/v1/kiosk-session", json={"name": name, "secret": "guess"}).status_code == 403
        opened = nobody.post("/api/v1/kiosk-session", json={"name": name, "secret": secret})
        assert (opened.status_code, opened.json()["permissions"]) == (200, ["kiosk"]), opened.text
        with httpx.Client(base_url=nobody.base_url) as other:
            assert other.post("/api/v1/kiosk-session", json={"name": name, "secret": secret}).status_code == 403
        (key,) = [
            key for key in redis_server.client().keys("crowdperf:session:*") if redis_server.client().ttl(key) < 0
        ]
        assert "max-age=34560000" in nobody.get("/api/v1/session").headers["set-cookie"].lower()
        assert nobody.post(f"/api/v1/kiosk/{code}", json={}).status_code == 403, "a foreign page has no token"
        nobody.headers["X-CSRF-Token"] = opened.json()["csrf"]
        inside = nobody.post(f"/api/v1/kiosk/{code}", json={}).json()
        assert inside.keys() == {"id", "state", "name", "host"}
        assert inside["state"] == "checked_in"
        assert nobody.post(f"/api/v1/kiosk/{code}", json={}).json()["state"] == "checked_out"
        assert nobody.get("/api/v1/kiosk").json() == {"briefing": "", "nda_version": ""}
        for method, address in FOR_STAFF:
            assert nobody.request(method, f"/api/v1/{address}").status_code == 403, address
        assert audit(root, who="entrance")[0]["via"] == "kiosk"
        link = root.post("/api/v1/kiosks", json={"name": "entrance"}).json()["link"]
        assert redis_server.client().exists(key) == 0, "a new link revokes the device"
        assert nobody.get("/api/v1/session").json()["signed_in"] is False
        again = {"name": "entrance", "secret": link.rpartition(":")[2]}
        assert nobody.post("/api/v1/kiosk-session", json=again).status_code == 200
        assert root.delete("/api/v1/users/entrance").status_code == 204
        assert nobody.get("/api/v1/session").json()["signed_in"] is False
        assert redis_server.client().keys("crowdperf:sessions:entrance") == []


FOR_STAFF = (
    *(("GET", address) for address in ("visits", "watch-list", "roll-calls", "cameras", "stream", "tokens", "users")),
    *(("POST", address) for address in ("visits", "roll-calls", "roll-calls/1/end", "watch-list", "tokens")),
    ("DELETE", "session"),
    ("PUT", "session/password"),
)


def test_a_browser_of_the_staff_becomes_a_kiosk(people: People) -> None:
    with people.browser("rita", "reception") as desk:
        assert desk.get("/api/v1/visits").status_code == 200
        assert desk.put("/api/v1/session/kiosk", json={"kiosk": True}).json()["permissions"] == ["kiosk"]
        for method, address in FOR_STAFF:
            assert desk.request(method, f"/api/v1/{address}").status_code == 403, address
        assert desk.get("/api/v1/kiosk").status_code == 200
        assert desk.post("/api/v1/session", json={"name": "rita", "password": PASSWORD}).status_code == 200
        assert desk.get("/api/v1/visits").status_code == 200, "a sign-in gives it back"


@pytest.mark.parametrize("change", ["limit", "close"])
def test_renewing_a_session_takes_back_no_change_of_it(redis_server: RedisServer, change: str) -> None:
    async def renew_during_the_change() -> tuple[str, bytes | None]:
        async with connect_async(redis_server.url) as client:
            store = AccountStore(client)
            account = Account(name="rita", role="reception", password="", created_at=0.0)
            account = (await store.edit(lambda rows: {**rows, "rita": account}, ENTRY))["rita"]
            value, _ = await store.open_session(account, 1.0, ENTRY)
            principal = await store.find_session_principal(value, 1.0)
            assert principal is not None
            read = store.read_account

            async def change_and_read(name: str) -> Account | None:
                if change == "limit":
                    await store.limit_to_kiosk(principal.session, ENTRY)
                else:
                    await store.close_session(principal.session, ENTRY)
                return await read(name)

            store.read_account = change_and_read  # type: ignore[method-assign]
            await store.find_session_principal(value, 2.0 + SESSION_TOUCH_S)
            store.read_account = read  # type: ignore[method-assign]
            after = await store.find_session_principal(value, 2.0 + SESSION_TOUCH_S)
            return after.kind if after else "none", await client.get(principal.session)

    kind, raw = asyncio.run(renew_during_the_change())
    assert kind == {"limit": "kiosk", "close": "none"}[change]
    assert (raw is None) == (change == "close")


def test_who_may_see_one_camera_learns_nothing_of_another(people: People, site: SyntheticSite, server: Served) -> None:
    site.publish_crossing("plaza", "gate", "in")
    hidden = site.publish_crossing("lobby", "door", "in")
    site.make_metrics("capture-lobby").set_text("last_error", "lobby's own trouble", "lobby")
    site.make_metrics("capture-lobby").count("frames_captured", 5, "lobby")
    site.make_metrics("inference").count("frames_analysed", 5, "lobby")
    site.publish_metrics()
    with people.browser("ada", "operator", ["plaza"]) as ada:
        assert [row["id"] for row in ada.get("/api/v1/cameras").json()["cameras"]] == ["plaza"]
        for address in ("cameras/{}", "cameras/{}/snapshot.jpg", "counts?camera={}", "events?camera={}"):
            there, nowhere = (ada.get("/api/v1/" + address.format(name)) for name in ("lobby", "nobody"))
            assert there.status_code == nowhere.status_code == 404
            assert there.text.replace("lobby", "nobody") == nowhere.text, "a hidden camera looks like none"
        assert ada.get("/api/v1/counts?group=camera").json()["counts"] == [{"camera": "plaza", "count": 1}]
        for address in ("events", "events?type=LineCrossed", "occupancy"):
            assert "lobby" not in ada.get("/api/v1/" + address).text, address
        assert len(ada.get("/api/v1/events").json()["events"]) == 1
        assert "lobby" not in ada.get("/metrics").text
        debug = ada.get("/debug")
        assert set(debug.json()["cameras"]) == {"plaza"}
        assert "lobby" not in debug.text
        with ada.stream("GET", "/api/v1/stream") as reply:
            lines, text = reply.iter_lines(), ""
            while "event: status" not in text:  # from then on nothing is missed
                text += next(lines) + "\n"
            site.publish_crossing("lobby", "door", "out")
            seen = site.publish_crossing("plaza", "gate", "out")
            while seen not in text:
                text += next(lines) + "\n"
        assert "lobby" not in text
        assert hidden not in text
        cookies = "; ".join(f"{name}={value}" for name, value in ada.cookies.items())

    async def watch() -> dict:
        url = f"ws://127.0.0.1:{server.port}/api/v1/live"
        async with connect(url, additional_headers={"Cookie": cookies}) as socket:
            await socket.send(json.dumps({"subscribe": ["plaza", "lobby", "nobody"]}))
            return json.loads(await socket.recv())

    assert asyncio.run(watch()) == {"subscribed": ["plaza"], "unknown": ["lobby", "nobody"]}


def test_the_live_socket_wants_somebody_too(server: Served) -> None:
    async def talk() -> None:
        async with connect(f"ws://127.0.0.1:{server.port}/api/v1/live", additional_headers=AWAY):
            pass

    with pytest.raises(InvalidStatus) as refused:
        asyncio.run(talk())
    assert refused.value.response.status_code == 403


def test_a_token_works_until_it_is_revoked_and_makes_no_other(people: People, nobody: httpx.Client) -> None:
    with people.browser("ada", "operator") as ada:
        made = ada.post("/api/v1/tokens", json={**NEW_TOKEN, "cameras": ["plaza"]})
        assert made.status_code == 201, made.text
        token = made.json()
        bearer = {"Authorization": f"Bearer {token['token']}", **AWAY}
        assert [c["id"] for c in nobody.get("/api/v1/cameras", headers=bearer).json()["cameras"]] == ["plaza"]
        assert nobody.get("/api/v1/users", headers=bearer).status_code == 403
        assert nobody.post("/api/v1/tokens", headers=bearer, json=NEW_TOKEN).status_code == 403
        more = ada.post("/api/v1/tokens", json={**NEW_TOKEN, "permissions": ["admin"]})
        assert more.status_code == 403, "no token does more than its owner"
        listed = ada.get("/api/v1/tokens")
        assert [row["id"] for row in listed.json()["tokens"]] == [token["id"]]
        assert token["token"].rpartition("_")[2] not in listed.text
        with people.browser("bob", "operator") as bob:
            assert bob.get("/api/v1/tokens").json()["tokens"] == []
            assert bob.delete(f"/api/v1/tokens/{token['id']}").status_code == 404, "somebody else's"
        assert ada.delete(f"/api/v1/tokens/{token['id']}").status_code == 204
        assert nobody.get("/api/v1/cameras", headers=bearer).status_code == 401


@pytest.mark.parametrize("text", ["Bearer nonsense", "Bearer cperf_", "Basic YTpi", "Bearer", "x" * 3000])
def test_invalid_token_is_refused_and_not_anonymous(nobody: httpx.Client, text: str) -> None:
    assert nobody.get("/api/v1/cameras").status_code == 200
    assert nobody.get("/api/v1/cameras", headers={"Authorization": text}).status_code == 401


def test_accounts_are_managed_and_each_change_is_written_down(people: People) -> None:
    with people.browser("ada", "admin") as ada:
        new = {"name": "bob", "role": "viewer", "password": PASSWORD, "cameras": ["plaza"]}
        assert ada.post("/api/v1/users", json=new).status_code == 201
        assert ada.post("/api/v1/users", json={**new, "name": "Bob"}).status_code == 409
        assert ada.post("/api/v1/users", json={**new, "name": "<script>"}).status_code == 400
        assert ada.post("/api/v1/users", json={**new, "name": "eve", "rolle": 1}).status_code == 400
        with people.browser("bob") as bob:
            assert bob.get("/api/v1/session").json()["role"] == "viewer"
            assert ada.patch("/api/v1/users/bob", json={"cameras": None}).json()["cameras"] is None
            assert bob.get("/api/v1/session").json()["cameras"] is None, "with the next request"
            assert ada.patch("/api/v1/users/bob", json={"role": "operator"}).json()["role"] == "operator"
            assert bob.get("/api/v1/session").json()["signed_in"] is False, "the session was of another role"
        assert ada.patch("/api/v1/users/ada", json={"role": "viewer"}).status_code == 409
        assert ada.delete("/api/v1/users/ada").status_code == 409
        assert ada.delete("/api/v1/users/bob").status_code == 204
        assert ada.delete("/api/v1/users/bob").status_code == 404
        entries = audit(ada)
        assert [(row["who"], row["action"], row["target"]) for row in entries] == [
            ("ada", "account.remove", "bob"),
            ("ada", "account.change", "bob"),
            ("ada", "account.change", "bob"),
            ("bob", "session.open", "bob"),
            ("ada", "account.create", "bob"),
            ("ada", "session.open", "ada"),
        ]
        assert entries[1]["detail"] == "role operator"
        assert entries[0]["address"] == "127.0.0.1"
        assert PASSWORD not in json.dumps(entries)
        page = ada.get("/api/v1/audit", params={"limit": 2}).json()
        assert (
            ada.get("/api/v1/audit", params={"cursor": page["next_cursor"], "limit": 1}).json()["entries"][0]
            == entries[2]
        )
        assert [row["id"] for row in audit(ada, who="bob")] == [entries[3]["id"]]


@pytest.mark.parametrize("by", ["rest", "cli"])
def test_a_name_used_again_opens_nothing_of_its_former_owner(
    people: People,
    nobody: httpx.Client,
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    redis, new = redis_server.client(), {"name": "bob", "role": "viewer", "password": PASSWORD}
    with people.browser("root", "admin") as root:
        assert root.post("/api/v1/users", json=new).status_code == 201
        with people.browser("bob") as bob:
            made = bob.post("/api/v1/tokens", json=NEW_TOKEN)
            bearer = {"Authorization": f"Bearer {made.json()['token']}"}
            assert nobody.get("/api/v1/cameras", headers=bearer).status_code == 200
            sessions = set(redis.keys("crowdperf:session:*"))
            if by == "rest":
                assert root.delete("/api/v1/users/bob").status_code == 204
            else:
                (tmp_path / "config.json").write_bytes(msgspec.json.encode({"redis": {"url": redis_server.url}}))
                monkeypatch.chdir(tmp_path)
                assert main(["users", "remove", "bob"]) == 0
            assert len(sessions - set(redis.keys("crowdperf:session:*"))) == 1, "bob's alone is deleted"
            assert redis.hlen(TOKENS_KEY) == 0
            (entry, *_) = audit(root, action="account.remove")
            assert entry["detail"] == f"revoked the tokens {made.json()['id']}"
            assert root.post("/api/v1/users", json={**new, "role": "admin"}).status_code == 201
            assert bob.get("/api/v1/session").json()["signed_in"] is False
            assert nobody.get("/api/v1/cameras", headers=bearer).status_code == 401
        with people.browser("bob") as bob:
            assert bob.get("/api/v1/tokens").json()["tokens"] == []


def test_tokens_left_by_an_older_version_end(people: People, nobody: httpx.Client, redis_server: RedisServer) -> None:
    left = Token(
        id="a1",
        account="bob",
        label="x",
        secret_sha256=credentials.hash_secret("secret"),
        permissions=["read"],
        created_at=0,
        expires_at=time.time() + 3600,
    )
    redis_server.client().hset(TOKENS_KEY, "a1", msgspec.json.encode(left))
    with people.browser("root", "admin") as root:
        new = {"name": "bob", "role": "admin", "password": PASSWORD}
        assert root.post("/api/v1/users", json=new).status_code == 201
        assert redis_server.client().hlen(TOKENS_KEY) == 0
        redis_server.client().hset(TOKENS_KEY, "a1", msgspec.json.encode(left))
        assert nobody.get("/api/v1/cameras", headers={"Authorization": "Bearer cperf_a1_secret"}).status_code == 401
        people.add("bob", "viewer")
        reply = nobody.get("/api/v1/cameras", headers={"Authorization": "Bearer cperf_a1_secret"})
        assert reply.status_code == 200, "an account without an id keeps its tokens"


def test_a_refused_request_is_audited_once_a_minute(
    people: People, nobody: httpx.Client, redis_server: RedisServer
) -> None:
    redis = redis_server.client()
    with people.browser("ada", "viewer") as ada, people.browser("root", "admin") as root:

        def refuse(client: httpx.Client, method: str, address: str, body: object) -> tuple[str, str, str]:
            for _ in range(2):
                assert client.request(method, f"/api/v1/{address}", json=body).status_code in (403, 429)
            found = audit(root, action="request.refuse")
            assert len(found) == 1, found
            redis.delete("crowdperf:audit", *redis.keys("crowdperf:login:refused:*"))
            return found[0]["who"], found[0]["target"], found[0]["detail"]

        wrong = {"secret": "guess", "name": "eve", "password": PASSWORD}
        assert refuse(nobody, "POST", "setup", wrong) == ("", "POST /api/v1/setup", "status 403")
        old = {"old": "wrong wrong", "new": "another good one"}
        assert refuse(ada, "PUT", "session/password", old) == ("ada", "PUT /api/v1/session/password", "status 403")
        found = refuse(ada, "DELETE", "users/root", None)
        assert found == ("ada", "DELETE /api/v1/users/{name}", "status 403")
        for _ in range(5):
            nobody.post("/api/v1/session", json={"name": "bob", "password": "guess guess"})
        again = {"name": "bob", "password": PASSWORD}
        assert refuse(nobody, "POST", "session", again) == ("", "POST /api/v1/session", "status 429")


def test_refusals_of_many_addresses_share_one_entry(redis_server: RedisServer, tmp_path: Path) -> None:
    state = AppState(Served(site_config(redis_server.url, 1), Paths(tmp_path)).process_config, Metrics())
    client = redis_server.client()

    async def refuse_many() -> None:
        for number in range(200):
            await state.write_refusal(replace(ENTRY, action="request.refuse", address=f"2001:db8:{number:x}::1"))
        assert client.xlen("crowdperf:audit") == 60
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "write_audit_entry", AsyncMock(side_effect=redis.ConnectionError))
            await state.write_refusal_count()
            await state.write_refusal(replace(ENTRY, address="192.0.2.7"))
        await state.write_refusal_count()
        await state.write_refusal_count()
        await state.close()

    asyncio.run(refuse_many())
    assert client.xlen("crowdperf:audit") == 61, "nothing is left out of the second minute"
    ((_, fields),) = client.xrevrange("crowdperf:audit", count=1)
    counted = codec.decode(AUDIT, fields)
    assert (counted.action, counted.target) == ("request.refuse", "")
    assert counted.detail == "141 more requests were refused, without entries of their own"


def test_a_new_password_ends_every_other_session(people: People) -> None:
    with people.browser("ada", "viewer") as ada, people.browser("ada") as elsewhere:
        wrong = ada.put("/api/v1/session/password", json={"old": "wrong wrong", "new": "another good one"})
        assert wrong.status_code == 403
        assert ada.put("/api/v1/session/password", json={"old": PASSWORD, "new": "weak"}).status_code == 400
        reply = ada.put("/api/v1/session/password", json={"old": PASSWORD, "new": "another good one"})
        assert reply.status_code == 200
        assert ada.get("/api/v1/session").json()["signed_in"] is True
        assert elsewhere.get("/api/v1/session").json()["signed_in"] is False


def test_a_reset_password_ends_sessions_and_waiting(people: People, nobody: httpx.Client) -> None:
    new, sign_in = "another good one", {"name": "ada", "password": "another good one"}
    with people.browser("root", "admin") as root, people.browser("ada", "viewer") as ada:
        bearer = {"Authorization": f"Bearer {ada.post('/api/v1/tokens', json=NEW_TOKEN).json()['token']}"}
        for _ in range(22):
            waiting = nobody.post("/api/v1/session", json={"name": "ada", "password": "guess guess"})
        assert waiting.status_code == 429
        assert root.patch("/api/v1/users/ada", json={"password": new}).status_code == 200
        assert ada.get("/api/v1/session").json()["signed_in"] is False
        assert nobody.post("/api/v1/session", json=sign_in).status_code == 200, "a reset ends the waiting"
        assert nobody.get("/api/v1/cameras", headers=bearer).status_code == 200
        both = {"password": PASSWORD, "revoke_tokens": True}
        assert root.patch("/api/v1/users/ada", json=both).status_code == 200
        assert nobody.get("/api/v1/cameras", headers=bearer).status_code == 401
        assert "password new, revoked the tokens" in audit(root, action="account.change")[0]["detail"]


def test_ones_own_new_password_may_revoke_tokens(people: People, nobody: httpx.Client) -> None:
    with people.browser("ada", "viewer") as ada:
        bearer = {"Authorization": f"Bearer {ada.post('/api/v1/tokens', json=NEW_TOKEN).json()['token']}"}
        change = {"old": PASSWORD, "new": "another good one", "revoke_tokens": True}
        assert ada.put("/api/v1/session/password", json=change).status_code == 200
        assert nobody.get("/api/v1/cameras", headers=bearer).status_code == 401


def test_an_open_browser_alone_makes_no_token(people: People) -> None:
    with people.browser("ada", "viewer") as ada:
        refused = ada.post("/api/v1/tokens", json={**NEW_TOKEN, "password": "guess guess"})
        assert refused.status_code == 403
        assert refused.json()["detail"] == (
            "the password is wrong, so no token was made. Remedy: give your own password again."
        )
        assert ada.post("/api/v1/tokens", json={**NEW_TOKEN, "password": ""}).status_code == 400
        assert ada.get("/api/v1/tokens").json()["tokens"] == []
        statuses = [ada.post("/api/v1/tokens", json={**NEW_TOKEN, "password": "guess guess"}) for _ in range(5)]
        assert statuses[-1].status_code == 429, "guesses are limited here as at the sign-in"


def test_json_that_nests_without_end_is_refused(people: People) -> None:
    with people.browser("ada", "operator") as ada:
        body = b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
        headers = {"Content-Type": "application/json"}
        refused = ada.patch("/api/v1/cameras/plaza", content=body, headers=headers)
        assert (refused.status_code, "nested too deep" in refused.text) == (400, True), refused.text


def test_an_open_stream_ends_with_its_session(
    people: People, site: SyntheticSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "SESSION_CHECK_S", 0.1)
    with (
        people.browser("ada", "viewer") as ada,
        people.browser("root", "admin") as root,
        ada.stream("GET", "/api/v1/stream") as reply,
    ):
        lines = reply.iter_lines()
        assert next(lines) == "retry: 2000"
        assert root.patch("/api/v1/users/ada", json={"disabled": True}).status_code == 200
        # Each event makes the stream look around; it ends by itself, or this would go on for ever.
        deadline = time.monotonic() + TIMEOUT_S
        while next(lines, None) is not None:
            assert time.monotonic() < deadline, "the stream goes on"
            site.publish_crossing("plaza", "gate", "in")


@pytest.mark.parametrize(
    ("web", "headers", "expected"),
    [
        ({}, {}, 200),
        ({}, {"Host": "rebound.example"}, 401),
        ({}, {"X-Real-IP": "203.0.113.9"}, 401),
        ({}, {"Via": "1.1 proxy"}, 401),
        ({}, {"X-Forwarded-Host": "site.example"}, 401),
        ({}, {"Referer": "https://site.example/"}, 401),
        ({}, {"Referer": "http://[nonsense/"}, 401),
        ({"anonymous": "none"}, {}, 401),
        ({"anonymous": "viewer"}, {"Host": "site.example", "X-Forwarded-For": "203.0.113.9"}, 200),
        ({"host": "0.0.0.0"}, {}, 401),
        ({"trusted_proxies": ["127.0.0.1"]}, {}, 401),
    ],
)
def test_only_this_machine_looks_on_without_an_account(
    redis_server: RedisServer, tmp_path: Path, web: dict, headers: dict[str, str], expected: int
) -> None:
    with serving(redis_server.url, tmp_path, {**CONFIG, "web": web}) as server:
        reply = httpx.get(f"{server.url}/api/v1/cameras", headers=headers, timeout=TIMEOUT_S)
        assert reply.status_code == expected
        change = httpx.post(f"{server.url}/api/v1/users", headers=headers, json={}, timeout=TIMEOUT_S)
        assert change.status_code == 401, "nobody changes anything without an account"
        assert httpx.get(f"{server.url}/healthz", headers=headers, timeout=TIMEOUT_S).status_code == 200


def test_a_proxy_that_adds_no_header_is_no_person(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(redis_server.url, tmp_path) as server:

        def get_status(version: str) -> int:
            with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as sent:
                head = f"GET /api/v1/cameras HTTP/{version}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                sent.sendall(head.encode())
                return int(sent.makefile().readline().split()[1])

        assert (get_status("1.0"), get_status("1.1")) == (401, 200)
        monkeypatch.setattr(auth, "find_socket_owner", lambda *ports: 33)
        assert get_status("1.1") == 401, "www-data is a server"


@pytest.mark.parametrize(("trusted", "believed"), [(["127.0.0.0/8"], True), (["192.0.2.1"], False), ([], False)])
def test_forwarded_headers_count_only_from_a_trusted_proxy(
    redis_server: RedisServer, tmp_path: Path, trusted: list[str], believed: bool
) -> None:
    row = Account(name="ada", role="admin", password=HASH, created_at=0)
    redis_server.client().hset(ACCOUNTS_KEY, "ada", msgspec.json.encode(row))
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Host": "site.example"}
    base = {**CONFIG, "web": {"trusted_proxies": trusted}}
    with (
        serving(redis_server.url, tmp_path, base) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT_S) as client,
    ):
        reply = client.post("/api/v1/session", json={"name": "ada", "password": PASSWORD}, headers=headers)
        assert reply.status_code == 200
        assert ("secure" in reply.headers["set-cookie"].lower()) is believed
        assert reply.headers["set-cookie"].startswith("__Host-crowdperf_session=" if believed else "crowdperf_session=")
        assert ("strict-transport-security" in reply.headers) is believed
        cookie = {"Cookie": reply.headers["set-cookie"].split(";")[0]}
        (entry,) = client.get("/api/v1/audit", headers={**headers, **cookie}).json()["entries"]
        assert entry["address"] == ("203.0.113.9" if believed else "127.0.0.1")


def test_the_cookie_of_an_older_version_ends_under_tls(redis_server: RedisServer, tmp_path: Path) -> None:
    base = {**CONFIG, "web": {"trusted_proxies": ["127.0.0.0/8"], "anonymous": "none"}}
    with serving(redis_server.url, tmp_path, base) as server, httpx.Client(base_url=server.url) as client:
        People(server, redis_server).add("ada", "admin")
        sign_in = {"name": "ada", "password": PASSWORD}
        plain = client.post("/api/v1/session", json=sign_in).cookies["crowdperf_session"]
        client.cookies.clear()
        tls = {"X-Forwarded-Proto": "https", "Cookie": f"crowdperf_session={plain}"}
        assert client.get("/api/v1/session", headers=tls).json()["signed_in"] is False, "any page could have planted it"
        made = client.post("/api/v1/session", json=sign_in, headers=tls)
        ended, secure = sorted(made.headers.get_list("set-cookie"), key=lambda text: text.startswith("__Host-"))
        assert ended.startswith('crowdperf_session=""; ')
        assert "Max-Age=0" in ended
        tls["Cookie"] = secure.split(";")[0]
        assert client.get("/api/v1/session", headers=tls).json()["signed_in"] is True

        async def watch() -> object:
            url = f"ws://127.0.0.1:{server.port}/api/v1/live"
            async with connect(url, additional_headers=tls) as socket:
                await socket.send(json.dumps({"subscribe": ["nowhere"]}))
                return json.loads(await socket.recv())

        assert asyncio.run(watch()) == {"subscribed": [], "unknown": ["nowhere"]}
        with client.stream("GET", "/api/v1/stream", headers=tls) as reply:
            assert reply.status_code == 200
            assert next(reply.iter_lines()) == "retry: 2000"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_a_body_is_json_and_says_so(people: People, media_type: str) -> None:
    with people.browser("ada", "admin") as ada:
        body = b'{"name": "entrance"}'
        refused = ada.post("/api/v1/kiosks", content=body, headers={"Content-Type": media_type})
        assert refused.status_code == 415
        assert "Remedy: send the header Content-Type: application/json." in refused.json()["detail"]
        as_json = {"Content-Type": "application/json; charset=utf-8"}
        assert ada.post("/api/v1/kiosks", content=body, headers=as_json).status_code == 201


def test_accounts_from_the_command_line(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode({"redis": {"url": redis_server.url}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROWDPERF_CONFIG", raising=False)

    def users(*words: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        status = main(["users", *words])
        return status, *capsys.readouterr()

    assert users("setup-link")[1].startswith("http://127.0.0.1:8080/setup/#")
    assert users("add", "ada", "--role", "admin", typed="weak\n")[0] == 2
    assert users("add", "ada", "--role", "admin", typed=PASSWORD + "\n")[1] == "made the account 'ada' (admin)\n"
    assert users("list")[1].split() == ["ada", "admin", "all", "cameras"]
    assert users("setup-link")[0] == 2, "there is an account"
    assert users("token", "ada", "--label", "backup")[1].startswith("cperf_")
    assert users("token", "ada", "--label", "backup", "--permissions", "everything")[0] == 2
    new = "another good one\n"
    assert "its sessions have ended" in users("password", "ada", typed=new)[1]
    assert redis_server.client().hlen(TOKENS_KEY) == 1
    assert "sessions and API tokens have ended" in users("password", "ada", "--revoke-tokens", typed=new)[1]
    assert redis_server.client().hlen(TOKENS_KEY) == 0
    status, _, output = users("remove", "ada")
    assert (status, "last administrator" in output) == (2, True)
