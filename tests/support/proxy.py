"""nginx and Caddy with the files of docs/, on loopback ports in front of one web process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT, missing, wait_until
from tests.support.ports import free_port
from tests.support.receivers import listens

AROUND = """daemon off;
user root;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/crowdperf.conf;
}}
"""


class Proxy:
    """Where it listens."""

    def __init__(self) -> None:
        self.port = free_port()
        self.plain_port = free_port()
        self.url = f"https://localhost:{self.port}"


def replaced(file: str, changes: dict[str, str]) -> str:
    """Return a file of docs/ with the operator's own values in place of the example's."""
    text = (ROOT / "docs" / file).read_text()
    for there, instead in changes.items():
        assert there in text, f"docs/{file} has changed: {there!r} is not in it"
        text = text.replace(there, instead)
    return text


def program(name: str) -> str:
    """Return its path; skips, or fails in CI, where there is none."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if not found:
        missing(f"no {name}: apt install {name}")
    assert found
    return found


@contextlib.contextmanager
def proxied(kind: str, backend: int, certificate: tuple[Path, Path], folder: Path) -> Iterator[Proxy]:
    """Yield a running proxy of that kind before the web process on port `backend`."""
    made = Proxy()
    command = {"nginx": _nginx, "caddy": _caddy}[kind](made, backend, certificate, folder)
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **home}, stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(made.port) or process.poll() is not None, what=kind)
        assert process.poll() is None, (folder / "proxy.log").read_text()
        yield made
    finally:
        process.terminate()
        process.wait(30)


def _nginx(proxy: Proxy, backend: int, certificate: tuple[Path, Path], folder: Path) -> list[str]:
    own = {
        "listen 80;": f"listen 127.0.0.1:{proxy.plain_port};",
        "listen 443 ssl;": f"listen 127.0.0.1:{proxy.port} ssl;",
        "server_name site.example;": "server_name localhost;",
        "/etc/ssl/site.pem": str(certificate[0]),
        "/etc/ssl/site.key": str(certificate[1]),
        "http://127.0.0.1:8080": f"http://127.0.0.1:{backend}",
    }
    (folder / "crowdperf.conf").write_text(replaced("nginx.conf", own))
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder))
    return [program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _caddy(proxy: Proxy, backend: int, certificate: tuple[Path, Path], folder: Path) -> list[str]:
    own = {
        "site.example {": f"localhost:{proxy.port} {{\n\ttls {certificate[0]} {certificate[1]}",
        "reverse_proxy 127.0.0.1:8080": f"reverse_proxy 127.0.0.1:{backend}",
    }
    options = f"{{\n\tadmin off\n\thttp_port {proxy.plain_port}\n}}\n"
    (folder / "Caddyfile").write_text(options + replaced("Caddyfile", own))
    return [program("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
