"""The Litestar application. `uvicorn crowdperf.web.app:app` serves it by hand, against a running Redis."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import CacheControlHeader
from litestar.di import Provide
from litestar.static_files import create_static_files_router

from crowdperf import config
from crowdperf.runtime import Metrics
from crowdperf.settings.paths import Paths
from crowdperf.slices import WebSlice, web_slice
from crowdperf.web import (
    alert_rules,
    alerts,
    areas,
    audits,
    cameras,
    density,
    exports,
    history,
    live,
    operations,
    people,
    report,
    roll_calls,
    shapes,
    sign_in,
    site,
    stream,
    system,
    users,
    versions,
    violations,
    visits,
)
from crowdperf.web.access import Who, guard, provide_who
from crowdperf.web.context import Context, SiteContext
from crowdperf.web.openapi import config as openapi_config
from crowdperf.web.problems import HANDLERS
from crowdperf.web.security import add_headers

PAGES = Path(__file__).resolve().parents[2] / "web"
LARGEST_BODY = 64 * 1024


def create_app(slice_: WebSlice, metrics: Metrics | None = None) -> Litestar:
    """The application of one site.

    Args:
        slice_: its configuration.
        metrics: where the process counts; an own one that nobody publishes by default.
    """
    context = Context(slice_, metrics or Metrics())

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await context.start()
        try:
            yield
        finally:
            await context.close()

    def provide() -> Context:
        return context

    app = Litestar(
        route_handlers=[
            Router(
                "/api/v1",
                route_handlers=[
                    site.router,
                    history.router,
                    exports.router,
                    report.router,
                    audits.router,
                    stream.router,
                    live.router,
                    sign_in.router,
                    users.router,
                    cameras.router,
                    areas.router,
                    alert_rules.router,
                    density.router,
                    system.router,
                    shapes.router,
                    versions.router,
                    alerts.router,
                    visits.router,
                    roll_calls.router,
                    people.router,
                    violations.router,
                ],
            ),
            operations.router,
            create_static_files_router(
                "/",
                directories=[PAGES],
                html_mode=True,
                opt={"need": "open"},
                # Revalidated each time, so that an update of the server is an update of its pages.
                cache_control=CacheControlHeader(no_cache=True),
            ),
        ],
        dependencies={
            "site": Provide(provide, sync_to_thread=False, use_cache=True),
            "who": Provide(provide_who, sync_to_thread=False),
        },
        guards=[guard],
        exception_handlers=HANDLERS,
        before_send=[add_headers],
        lifespan=[lifespan],
        openapi_config=openapi_config(),
        request_max_body_size=LARGEST_BODY,
        # Litestar would replace this process's log handler, and with it the one that takes secrets out.
        logging_config=None,
        signature_namespace={"SiteContext": SiteContext, "Who": Who},
    )
    app.state.context = context
    return app


def _by_hand() -> Litestar:
    """The application of the configuration that the environment names, for an uvicorn started by hand."""
    path = Path(os.environ.get("CROWDPERF_CONFIG", "config.json"))
    paths = Paths(Path(os.environ.get("CROWDPERF_DATA", "var")))
    app = create_app(web_slice(config.load(path), paths))
    app.on_startup.append(_end_streams_on_signal)
    return app


def _end_streams_on_signal(app: Litestar) -> None:
    """Let Ctrl-C end open live streams: uvicorn waits for its clients before it tells the application."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def on_signal(number: int, frame: FrameType | None, before: Any = before) -> None:
            app.state.context.end_streams()
            if callable(before):
                before(number, frame)

        signal.signal(number, on_signal)


def __getattr__(name: str) -> Any:
    """`app`, made when it is first asked for: importing this module reads no configuration."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = _by_hand()
    return made
