"""Changes of the configuration and camera tests: each runs a `crowdperf` command and talks to it over pipes.

Camera passwords, FFmpeg and a camera that hangs stay out of the web process. The command has its own session, so a
change continues when it restarts this process.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec

from crowdperf.primitives.redaction import redact
from crowdperf.supervision.config_patch import ConfigRequest, ConfigResponse, ProbeRequest, ProbeResult
from crowdperf.web.problems import ApiProblem

CHANGE_TIMEOUT_S = 30.0
PROBE_TIMEOUT_S = 9.8
MAX_PROBES = 2

CommandReply = TypeVar("CommandReply")
log = logging.getLogger(__name__)


class ConfigClient:
    """Run the configuration commands of one web process.

    Args:
        on_change: Called after a successful change, before its response is returned.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._probe_slots = asyncio.Semaphore(MAX_PROBES)

    async def request(self, request: ConfigRequest) -> ConfigResponse:
        """Run a change of the configuration.

        Raises:
            ApiProblem: The change is refused, and nothing was changed; 503, it is still running, and continues.
        """
        try:
            response = await _run_command(
                ["config", "ask"], msgspec.json.encode(request), ConfigResponse, CHANGE_TIMEOUT_S, kill=False
            )
        except asyncio.TimeoutError:
            raise ApiProblem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the change takes longer than {CHANGE_TIMEOUT_S:g} s, and continues in the background. "
                "Remedy: check whether it took effect before repeating it.",
            ) from None
        if response.status != HTTPStatus.OK:
            raise ApiProblem(HTTPStatus(response.status), response.detail, list(response.reasons))
        # The caller's next request must see the change.
        self._on_change()
        return response

    async def restart_programs(self, names: list[str]) -> None:
        """Restart programs by a command that outlives this process, which may be one of them."""
        process = await _start_command(["ctl", "restart", *names], asyncio.subprocess.DEVNULL)
        log.info("restarting %s by process %d", ", ".join(names), process.pid)

    async def probe_source(self, request: ProbeRequest) -> ProbeResult:
        """Open a source once; the result arrives within ten seconds.

        Raises:
            ApiProblem: 429, this process already tests as many sources as it may.
        """
        if self._probe_slots.locked():
            raise ApiProblem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "other cameras are being tested now. Remedy: try again in ten seconds.",
                headers={"Retry-After": "10"},
            )
        async with self._probe_slots:
            try:
                return await _run_command(
                    ["probe-source"], msgspec.json.encode(request), ProbeResult, PROBE_TIMEOUT_S, kill=True
                )
            except asyncio.TimeoutError:
                return ProbeResult(
                    ok=False, detail="no picture within ten seconds. Remedy: check address, network and camera."
                )


async def _run_command(
    arguments: list[str], request: bytes, reply_type: type[CommandReply], timeout_s: float, *, kill: bool
) -> CommandReply:
    """Run `crowdperf <arguments>` with `request` on its standard input.

    Raises:
        ApiProblem: 500, the command failed; the log holds the reason.
        asyncio.TimeoutError: The command took too long.
    """
    process = await _start_command(arguments, asyncio.subprocess.PIPE)
    try:
        output, errors = await asyncio.wait_for(_exchange(process, request), timeout_s)
    finally:
        if kill and process.returncode is None:
            process.kill()
    try:
        return msgspec.json.decode(output, type=reply_type)
    except msgspec.DecodeError:
        log.error("crowdperf %s failed: %s", " ".join(arguments), redact(errors.decode(errors="replace")))
        raise ApiProblem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "the command failed, nothing was changed. Remedy: see the log of the web process.",
        ) from None


async def _start_command(arguments: list[str], pipe: int) -> asyncio.subprocess.Process:
    """Start `crowdperf <arguments>` in its own session, with `pipe` for its three streams."""
    command = (sys.executable, "-m", "crowdperf", *arguments)
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> tuple[bytes, bytes]:
    """Send the request; return standard output and, without output, standard error."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(request)
    process.stdin.close()
    output = await process.stdout.read()
    return output, b"" if output else await process.stderr.read()
