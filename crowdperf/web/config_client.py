"""Asking for changes of the configuration and for looks at cameras: by commands of their own, over a pipe.

A camera's password, FFmpeg and a camera that hangs stay out of the web process. A change goes on when this process is
restarted for it: the command has a session of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec

from crowdperf.runtime.redaction import redact
from crowdperf.settings.base import ConfigError
from crowdperf.settings.site import Web
from crowdperf.supervision.config_patch import ConfigRequest, ConfigResponse, ProbeRequest, ProbeResult
from crowdperf.web.problems import ApiProblem

CHANGE_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 9.8
MAX_PROBES = 2

CommandReply = TypeVar("CommandReply")
log = logging.getLogger(__name__)


class ConfigClient:
    """The commands that one web process runs.

    Args:
        changed: called when an order has been carried out, before its outcome is handed on.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._probe_slots = asyncio.Semaphore(MAX_PROBES)

    async def request(self, request: ConfigRequest) -> ConfigResponse:
        """Carry an order out.

        Raises:
            Problem: it cannot be done, and nothing was changed; 503, it is not done yet, and goes on.
        """
        try:
            outcome = await _run_command(
                ["config", "ask"], msgspec.json.encode(request), ConfigResponse, CHANGE_TIMEOUT_S, kill=False
            )
        except asyncio.TimeoutError:
            raise ApiProblem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the change is not done within {CHANGE_TIMEOUT_S:g} s, and goes on by itself. "
                "Remedy: see whether it has come before asking for it again.",
            ) from None
        if outcome.status != HTTPStatus.OK:
            raise ApiProblem(HTTPStatus(outcome.status), outcome.detail, list(outcome.reasons))
        # Whoever changes something finds it changed.
        self._on_change()
        return outcome

    async def restart_programs(self, names: list[str]) -> None:
        """Have programs restarted by a command that outlives this process, which may be one of them."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "crowdperf",
            "ctl",
            "restart",
            *names,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        log.info("restarting %s, by process %d", ", ".join(names), process.pid)

    async def probe_source(self, request: ProbeRequest) -> ProbeResult:
        """Open a source once; the answer is there within ten seconds.

        Raises:
            Problem: 429, as many are being looked at as this process looks at in one go.
        """
        if self._probe_slots.locked():
            raise ApiProblem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "other cameras are being tested just now. Remedy: try again in ten seconds.",
                headers={"Retry-After": "10"},
            )
        async with self._probe_slots:
            try:
                return await _run_command(
                    ["look"], msgspec.json.encode(request), ProbeResult, PROBE_TIMEOUT_S, kill=True
                )
            except asyncio.TimeoutError:
                return ProbeResult(
                    ok=False, detail="no picture within ten seconds. Remedy: check address, network and camera."
                )


async def _run_command(
    arguments: list[str], request: bytes, reply_type: type[CommandReply], timeout_s: float, *, kill: bool
) -> CommandReply:
    """Run `crowdperf <words>` with `asked` on its standard input.

    Raises:
        Problem: 500, the command failed; the log says why.
        asyncio.TimeoutError: it took too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "crowdperf",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        answer, said = await asyncio.wait_for(_exchange(process, request), timeout_s)
    finally:
        if kill and process.returncode is None:
            process.kill()
    try:
        return msgspec.json.decode(answer, type=reply_type)
    except msgspec.DecodeError:
        log.error("crowdperf %s failed: %s", " ".join(arguments), redact(said.decode(errors="replace")))
        raise ApiProblem(
            HTTPStatus.INTERNAL_SERVER_ERROR, "the command failed; the web process's log says why. Nothing was changed."
        ) from None


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> tuple[bytes, bytes]:
    """What it answers: to the end of its output, which may come before its own end."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(request)
    process.stdin.close()
    answer = await process.stdout.read()
    said = b"" if answer else await process.stderr.read()
    return answer, said


def open_listening_socket(web: Web) -> socket.socket:
    """A socket that listens at the configured address.

    Raises:
        ConfigError: it is in use, or not this machine's, or not permitted.
    """
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        # asyncio sends at once (TCP_NODELAY) only where the protocol is named: else every answer of more than one
        # segment waits 40 ms for the client's delayed acknowledgement.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"cannot listen on {web.host} port {web.port}: {error.strerror or error}. "
            f"Remedy: stop what uses port {web.port}, or set web.host and web.port in the configuration."
        ) from None
    return listening
