"""The web process: uvicorn, stopped by the process runtime."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from crowdperf.runtime.process_runtime import ProcessRuntime
from crowdperf.settings.base import ConfigError
from crowdperf.settings.process_config import WebConfig
from crowdperf.web.app import create_app
from crowdperf.web.serving.connections import DeadlineProtocol, limit_handshakes, open_listening_socket
from crowdperf.web.state import AppState

TICK_S = 0.5
SHUTDOWN_GRACE_S = 3


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the runtime has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(config: WebConfig, runtime: ProcessRuntime) -> None:
    """Serve until the runtime stops.

    Raises:
        ConfigError: The address cannot be bound, or the certificate cannot be read.
    """
    listening = open_listening_socket(config.web)
    app = create_app(config, runtime.metrics)
    try:
        settings = uvicorn.Config(
            app,
            http=DeadlineProtocol,
            ssl_certfile=config.web.ssl_certfile or None,
            ssl_keyfile=config.web.ssl_keyfile or None,
            log_config=None,
            access_log=False,
            server_header=False,
            # uvicorn by default trusts the proxy headers of every client at 127.0.0.1.
            proxy_headers=bool(config.web.trusted_proxies),
            forwarded_allow_ips=config.web.trusted_proxies,
            timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            # It makes a JPEG larger, and takes 3 ms of the event loop for each.
            ws_per_message_deflate=False,
        )
        settings.load()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"the certificate {config.web.ssl_certfile!r} and key {config.web.ssl_keyfile!r} cannot be used: {error}. "
            "Remedy: correct web.ssl_certfile and web.ssl_keyfile."
        ) from None
    server = _Server(settings)
    asyncio.run(_serve(server, app.state.app_state, runtime, listening))


async def _serve(server: uvicorn.Server, state: AppState, runtime: ProcessRuntime, listening: socket.socket) -> None:
    loop, stop_requested = asyncio.get_running_loop(), asyncio.Event()
    limit_handshakes(loop)
    serving = asyncio.create_task(server.serve(sockets=[listening]))

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed already.
            loop.call_soon_threadsafe(stop_requested.set)

    runtime.on_stop(wake)
    stopping = asyncio.create_task(stop_requested.wait())
    while not serving.done():
        # Called from the loop itself, so that the watchdog detects a loop that hangs.
        runtime.tick()
        state.publish_metrics()
        state.raise_feed_error()
        if runtime.stopping and not server.should_exit:
            state.end_streams()
            server.should_exit = True
        waited_for = [serving] if server.should_exit else [serving, stopping]
        await asyncio.wait(waited_for, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    serving.result()
