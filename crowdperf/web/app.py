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
from crowdperf.slices import WebConfig, build_web_config
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
from crowdperf.web.access import PrincipalDependency, authorize, provide_principal
from crowdperf.web.context import AppDependency, AppState
from crowdperf.web.openapi import build_openapi_config as openapi_config
from crowdperf.web.problems import EXCEPTION_HANDLERS
from crowdperf.web.security import add_security_headers

PAGES_DIR = Path(__file__).resolve().parents[2] / "web"
MAX_BODY_BYTES = 64 * 1024


def create_app(config: WebConfig, metrics: Metrics | None = None) -> Litestar:
    """The application of one site.

    Args:
        slice_: its configuration.
        metrics: where the process counts; an own one that nobody publishes by default.
    """
    context = AppState(config, metrics or Metrics())

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await context.start()
        try:
            yield
        finally:
            await context.close()

    def provide() -> AppState:
        return context

    app = Litestar(
        route_handlers=[
            Router(
                "/api/v1",
                route_handlers=[
                    site.router,
                    history.router,
                    exports.exports_router,
                    report.router,
                    audits.audits_router,
                    stream.router,
                    live.router,
                    sign_in.router,
                    users.router,
                    cameras.router,
                    areas.router,
                    alert_rules.alert_rules_router,
                    density.density_router,
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
                directories=[PAGES_DIR],
                html_mode=True,
                opt={"need": "open"},
                # Revalidated each time, so that an update of the server is an update of its pages.
                cache_control=CacheControlHeader(no_cache=True),
            ),
        ],
        dependencies={
            "app": Provide(provide, sync_to_thread=False, use_cache=True),
            "principal": Provide(provide_principal, sync_to_thread=False),
        },
        guards=[authorize],
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[add_security_headers],
        lifespan=[lifespan],
        openapi_config=openapi_config(),
        request_max_body_size=MAX_BODY_BYTES,
        # Litestar would replace this process's log handler, and with it the one that takes secrets out.
        logging_config=None,
        signature_namespace={"AppDependency": AppDependency, "PrincipalDependency": PrincipalDependency},
    )
    app.state.app_state = context
    return app


def _create_standalone_app() -> Litestar:
    """The application of the configuration that the environment names, for an uvicorn started by hand."""
    path = Path(os.environ.get("CROWDPERF_CONFIG", "config.json"))
    paths = Paths(Path(os.environ.get("CROWDPERF_DATA", "var")))
    app = create_app(build_web_config(config.load(path), paths))
    app.on_startup.append(_end_streams_on_signal)
    return app


def _end_streams_on_signal(app: Litestar) -> None:
    """Let Ctrl-C end open live streams: uvicorn waits for its clients before it tells the application."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def on_signal(number: int, frame: FrameType | None, before: Any = before) -> None:
            app.state.app_state.end_streams()
            if callable(before):
                before(number, frame)

        signal.signal(number, on_signal)


def __getattr__(name: str) -> Any:
    """`app`, made when it is first asked for: importing this module reads no configuration."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = _create_standalone_app()
    return made
