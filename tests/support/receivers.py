"""Real receivers of what crowdperf sends to the outside: an HTTP server, an SMTP server, an MQTT broker."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler
from aiosmtpd.smtp import AuthResult, LoginPassword
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.conftest import missing, wait_until
from tests.support.ports import free_port


class Hook:
    """An HTTP server (HTTPS with a context) that keeps what is posted, and answers with `answers`, then 204."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.requests.append((self.path, dict(self.headers), body))
                status, headers = hook.answers.pop(0) if hook.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def hook(tls: ssl.SSLContext | None = None) -> Iterator[Hook]:
    """Yield a running one."""
    server = Hook(tls)
    try:
        yield server
    finally:
        server.stop()


class _Keep(MessageHandler):
    def __init__(self, letters: list[Message]) -> None:
        super().__init__()
        self._letters = letters

    def handle_message(self, message: Message) -> None:
        self._letters.append(message)


class Mailbox:
    """aiosmtpd, with user `crowdperf` and that password; with a context it insists on STARTTLS or, `at_once`, TLS."""

    def __init__(self, password: str, tls: ssl.SSLContext | None = None, at_once: bool = False) -> None:
        self.letters: list[Message] = []

        def authenticate(_server: Any, _run_session: Any, _envelope: Any, mechanism: str, data: Any) -> AuthResult:
            good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"crowdperf", password.encode())
            return AuthResult(success=good, handled=good)

        self._controller = Controller(
            _Keep(self.letters),
            hostname="127.0.0.1",
            port=free_port(),
            authenticator=authenticate,
            auth_required=True,
            # aiosmtpd calls STARTTLS alone TLS.
            auth_require_tls=tls is not None and not at_once,
            ssl_context=tls if at_once else None,
            tls_context=None if at_once else tls,
            require_starttls=tls is not None and not at_once,
        )
        self._controller.start()
        self.port = self._controller.port

    def stop(self) -> None:
        """Close the port."""
        self._controller.stop()


@contextlib.contextmanager
def mailbox(password: str, tls: ssl.SSLContext | None = None, at_once: bool = False) -> Iterator[Mailbox]:
    """Yield a running one."""
    server = Mailbox(password, tls, at_once)
    try:
        yield server
    finally:
        server.stop()


class Broker:
    """Mosquitto on a port of its own, and a client that has subscribed to everything.

    With a certificate and its key it speaks TLS alone, with a password it admits the user `crowdperf` alone.
    """

    def __init__(self, folder: Path, certificate: tuple[Path, Path] | None = None, password: str = "") -> None:
        binary = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if binary is None:
            missing("no mosquitto: apt install mosquitto")
        self.port = free_port()
        self._binary, self._config = str(binary), folder / "mosquitto.conf"
        self._certificate, self._password = certificate, password
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(not password).lower()}"]
        # Where it is started by root, Mosquitto would give up root's rights before it reads its files.
        lines.append("user root")
        if certificate is not None:
            lines += [f"certfile {certificate[0]}", f"keyfile {certificate[1]}"]
        if password:
            lines.append(f"password_file {folder / 'passwords'}")
            tool = Path(binary).parent.parent / "bin" / "mosquitto_passwd"
            subprocess.run([tool, "-c", "-b", folder / "passwords", "crowdperf", password], check=True)
        self._config.write_text("\n".join([*lines, ""]))
        self.topics: dict[str, bytes] = {}
        self.messages: list[tuple[str, bytes, bool]] = []
        self.start()

    def start(self) -> None:
        """Start it, subscribed."""
        self.process = subprocess.Popen(
            [self._binary, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: listens(self.port), what="mosquitto")
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="test")
        self.client.on_message = self._on_message
        subscribed = threading.Event()
        self.client.on_subscribe = lambda _client, _data, _id, _codes, _properties: subscribed.set()
        self.client.on_connect = self._on_connect
        if self._certificate is not None:
            self.client.tls_set(str(self._certificate[0]))
        if self._password:
            self.client.username_pw_set("crowdperf", self._password)
        self.client.connect("localhost" if self._certificate else "127.0.0.1", self.port)
        self.client.loop_start()
        wait_until(subscribed.is_set, what="the subscription")

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: ConnectFlags, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        client.subscribe("#", 1)

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        self.topics[message.topic] = payload
        self.messages.append((message.topic, payload, message.retain))

    def kill(self) -> None:
        """kill -9."""
        self.client.loop_stop()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def broker(folder: Path, certificate: tuple[Path, Path] | None = None, password: str = "") -> Iterator[Broker]:
    """Yield a running one."""
    server = Broker(folder, certificate, password)
    try:
        yield server
    finally:
        server.kill()


def listens(port: int) -> bool:
    """Check whether a server listens on this port of the machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
