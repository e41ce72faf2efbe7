"""Every route of the description, thrown whatever schemathesis thinks of: nothing is answered with a 500."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from crowdperf.accounts import credentials
from crowdperf.accounts.account_store import ACCOUNTS_KEY
from crowdperf.accounts.principal import Account
from tests.conftest import RedisServer
from tests.support.webserver import CONFIG, TIMEOUT_S, Served, serving

PASSWORD = "correct horse battery"
HASH = credentials.hash_password(PASSWORD)
ENDLESS = "/api/v1/stream"
SIGNING_OUT = ("DELETE /api/v1/session", "DELETE /api/v1/users/{name}", "PUT /api/v1/session/kiosk")
COMMANDS = ("/config/", "/camera-test", "POST /api/v1/cameras", "PUT", "PATCH", "DELETE", "POST /api/v1/a")
"""Where a request may run a command of its own: half a second each, so that fewer are thrown."""


@pytest.fixture(scope="module")
def served(_redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("schema")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.MonkeyPatch.context() as patch, serving(_redis_session.url, folder, CONFIG) as made:
        patch.setenv("CROWDPERF_CONFIG", str(folder / "config.json"))
        patch.setenv("CROWDPERF_DATA", str(folder / "var"))
        yield made


@pytest.fixture
def session(served: Served, redis_server: RedisServer) -> dict[str, str]:
    """Return the headers of an administrator; without the CSRF token every change would be refused."""
    row = Account(name="ada", role="admin", password=HASH, created_at=time.time())
    redis_server.client().hset(ACCOUNTS_KEY, "ada", msgspec.json.encode(row))
    with httpx.Client(base_url=served.url, timeout=TIMEOUT_S) as client:
        csrf = client.post("/api/v1/session", json={"name": "ada", "password": PASSWORD}).json()["csrf"]
        return {"Cookie": f"crowdperf_session={client.cookies['crowdperf_session']}", "X-CSRF-Token": csrf}


def test_no_request_by_the_schema_is_a_500(served: Served, session: dict[str, str]) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/schema/openapi.json")
    seen: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        name = f"{operation.method.upper()} {operation.path}"
        # Signing out, losing the account or its permissions would make all that follows a 401 or 403.
        if operation.path == ENDLESS or name in SIGNING_OUT:
            continue
        seen[name] = throw(operation, session, 2 if any(part in name for part in COMMANDS) else 8)
    assert len(seen) > 40
    failed = {name: codes for name, codes in seen.items() if any(code >= 500 and code != 503 for code in codes)}
    assert failed == {}
    assert sum(200 in codes or 201 in codes or 204 in codes for codes in seen.values()) > 15, "not all were refused"


def throw(operation, headers: dict[str, str], examples: int) -> set[int]:
    """Send generated requests; return the statuses."""
    statuses: set[int] = set()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)), known=st.booleans()
    )
    def run(case, known: bool) -> None:
        if known and "camera_id" in (case.path_parameters or {}):
            case.path_parameters["camera_id"] = "plaza"
        statuses.add(case.call(headers=headers, timeout=TIMEOUT_S).status_code)

    run()
    return statuses


@pytest.mark.parametrize("size", [64 * 1024 + 1, 5_000_000])
def test_a_body_that_is_too_large_is_refused(served: Served, session: dict[str, str], size: int) -> None:
    body = b'{"name": "' + b"x" * size + b'"}'
    headers = {**session, "Content-Type": "application/json"}
    for address in ("/api/v1/session", "/api/v1/cameras", "/api/v1/cameras/plaza/lines"):
        reply = httpx.post(served.url + address, content=body, headers=headers, timeout=TIMEOUT_S)
        assert (reply.status_code, reply.headers["content-type"]) == (413, "application/problem+json")

        def pieces() -> Iterator[bytes]:
            yield from (body[at : at + 8192] for at in range(0, len(body), 8192))

        unsized = httpx.post(served.url + address, content=pieces(), headers=headers, timeout=TIMEOUT_S)
        assert unsized.status_code == 413, "without a Content-Length as well"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"', "true"])
def test_what_is_no_number_is_no_coordinate(served: Served, session: dict[str, str], number: str) -> None:
    body = f'{{"id": "n", "p1": [{number}, 0.2], "p2": [0.5, 0.9]}}'
    headers = {**session, "Content-Type": "application/json"}
    reply = httpx.post(
        f"{served.url}/api/v1/cameras/plaza/lines/check", content=body, headers=headers, timeout=TIMEOUT_S
    )
    assert (reply.status_code, reply.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize(
    "path",
    [
        "/..%2f..%2fconfig.json",
        "/js/..%2f..%2f..%2fconfig.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/js/%00main.js",
        "/js/main.js/x",
        "/js/" + "x" * 300,
        "/" + "x/" * 3000,
        "/api/v1/cameras/..%2f..%2fetc%2fpasswd/snapshot.jpg",
        "/api/v1/config/versions/..%2f1",
    ],
)
def test_no_path_leads_out_of_the_served_files(served: Served, session: dict[str, str], path: str) -> None:
    request = httpx.Request("GET", served.url, headers=session)
    request.url = request.url.copy_with(raw_path=path.encode())
    with httpx.Client(timeout=TIMEOUT_S) as client:
        reply = client.send(request)
    assert reply.status_code in (400, 404), reply.text
    assert "root:" not in reply.text
    assert "cameras" not in reply.text or reply.headers["content-type"] == "application/problem+json"


def test_a_name_that_is_markup_stays_text(served: Served, session: dict[str, str]) -> None:
    """JSON alone, never sniffed, under a policy without inline script: the pages put names in as text nodes."""
    evil = "<img src=x onerror=alert(1)>"
    reply = httpx.get(f"{served.url}/api/v1/counts", params={"camera": evil}, headers=session, timeout=TIMEOUT_S)
    assert reply.status_code == 404
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "'unsafe" not in reply.headers["content-security-policy"]
