"""The real web application behind a real uvicorn, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.config import Config, Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import WebConfig, build_web_config
from crowdperf.web.process import main
from tests.conftest import missing, wait_until
from tests.support.noon import noon_zone
from tests.support.ports import free_port

CONFIG: dict[str, Any] = {
    "site": {"name": "Riverside plaza", "timezone": noon_zone()},  # the counts of today are not to end meanwhile
    "cameras": [
        {
            "id": "plaza",
            "name": "Plaza north",
            "url": "rtsp://viewer:s3cret-pass@192.0.2.7/stream?token=t0ken",
            "lines": [{"id": "gate", "name": "North gate", "p1": [0.5, 0.95], "p2": [0.5, 0.3]}],
            "zones": [
                {
                    "id": "stage",
                    "name": "Stage",
                    "polygon": [[0.05, 0.5], [0.4, 0.5], [0.4, 0.95], [0.05, 0.95]],
                    "limit": 4,
                },
            ],
        },
        {
            "id": "lobby",
            "name": "Lobby",
            "url": "rtsp://192.0.2.8/",
            "lines": [{"id": "door", "name": "Door", "p1": [0.2, 0.6], "p2": [0.8, 0.6], "in_side": "negative"}],
            "zones": [{"id": "desk", "name": "Desk", "polygon": [[0.5, 0.5], [0.9, 0.5], [0.9, 0.9], [0.5, 0.9]]}],
        },
        {"id": "dock", "name": "Loading dock", "url": "rtsp://192.0.2.9/", "enabled": False},
    ],
}
BERLIN: dict[str, Any] = {**CONFIG, "site": {"name": "Riverside plaza", "timezone": "Europe/Berlin"}}
"""The same where the clocks change."""
TIMEOUT_S = 60.0
"""Of a request: a busy machine is late, not wrong."""


def site_config(redis_url: str, port: int, base: dict[str, Any] | None = None) -> Config:
    """Return the test site's configuration on that port."""
    return parse(
        msgspec.json.encode(
            {
                "redis": {"url": redis_url},
                **(base or CONFIG),
                "web": {"host": "127.0.0.1", "port": port, **(base or CONFIG).get("web", {})},
            }
        )
    )


class Served:
    """A running web process, as a thread."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self.config = config
        self.paths = paths
        self.process_config: WebConfig = build_web_config(Deployment(config, paths))
        self.url = f"http://127.0.0.1:{config.web.port}"
        self.port = config.web.port
        self.runtime = ProcessRuntime("web", 0)
        self.thread = threading.Thread(target=main, args=(self.process_config, self.runtime), daemon=True)

    def start(self) -> None:
        """Start and wait until the port answers."""
        self.thread.start()
        wait_until(self._is_answering, what="the web server")

    def _is_answering(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self) -> None:
        """Stop and wait for the end."""
        self.runtime.stop()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive(), "the web process did not stop"


@contextlib.contextmanager
def serving(redis_url: str, folder: Path, base: dict[str, Any] | None = None) -> Iterator[Served]:
    """Yield the test site, served."""
    server = Served(site_config(redis_url, free_port(), base), Paths(folder))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def certify(folder: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for localhost, and its key."""
    if not shutil.which("openssl"):
        missing("openssl")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
