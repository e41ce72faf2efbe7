"""The web process: uvicorn, told when to stop by the runtime."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from crowdperf.runtime import Runtime
from crowdperf.settings.base import ConfigError
from crowdperf.slices import WebSlice
from crowdperf.web.address import listen
from crowdperf.web.app import create_app
from crowdperf.web.context import Context

TICK_S = 0.5
GRACE_S = 3


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the runtime has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(slice_: WebSlice, runtime: Runtime) -> None:
    """Serve until told to stop.

    Raises:
        ConfigError: the address cannot be listened on, or the certificate not be read.
    """
    listening = listen(slice_.web)
    app = create_app(slice_, runtime.metrics)
    try:
        settings = uvicorn.Config(
            app,
            ssl_certfile=slice_.web.ssl_certfile or None,
            ssl_keyfile=slice_.web.ssl_keyfile or None,
            log_config=None,
            access_log=False,
            server_header=False,
            # uvicorn itself would believe the headers of whoever comes from 127.0.0.1.
            proxy_headers=bool(slice_.web.trusted_proxies),
            forwarded_allow_ips=slice_.web.trusted_proxies,
            timeout_graceful_shutdown=GRACE_S,
        )
        settings.load()
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"the certificate {slice_.web.ssl_certfile!r} and key {slice_.web.ssl_keyfile!r} cannot be used: {error}. "
            "Remedy: correct web.ssl_certfile and web.ssl_keyfile."
        ) from None
    server = _Server(settings)
    asyncio.run(_serve(server, app.state.context, runtime, listening))


async def _serve(server: uvicorn.Server, context: Context, runtime: Runtime, listening: socket.socket) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # told to stop when it has stopped
            loop.call_soon_threadsafe(told.set)

    runtime.on_stop(wake)
    stopping = asyncio.create_task(told.wait())
    while not serving.done():
        # From the loop itself: a loop that hangs is what the watchdog must see.
        runtime.tick()
        context.measure()
        context.check()
        if runtime.stopping and not server.should_exit:
            context.end_streams()
            server.should_exit = True
        waited_for = [serving] if server.should_exit else [serving, stopping]
        await asyncio.wait(waited_for, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    serving.result()
