"""The Litestar application: routes, static pages and security headers.

`uvicorn crowdperf.web.app:app` serves it by hand, against a running Redis.
"""

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
from litestar.datastructures import CacheControlHeader, MutableScopeHeaders
from litestar.di import Provide
from litestar.static_files import create_static_files_router
from litestar.types import Message, Scope

from crowdperf.accounts.principal import ANONYMOUS, Principal
from crowdperf.messaging.schema import AuditEntry
from crowdperf.runtime.metrics import Metrics
from crowdperf.runtime.process_runtime import raise_file_limit
from crowdperf.settings import config
from crowdperf.settings.environment import Paths, read_environment
from crowdperf.settings.process_config import WebConfig, build_web_config
from crowdperf.web import health, live_routes, sign_in
from crowdperf.web.api import (
    accounts,
    alerts,
    cameras,
    configuration,
    history,
    kiosks,
    lines_zones,
    privacy,
    reports,
    roll_calls,
    site,
    system,
    violations,
    visits,
)
from crowdperf.web.auth import PrincipalDependency, authorize, provide_principal
from crowdperf.web.parameters import From, Span, To, build_openapi_config, parse_span
from crowdperf.web.problems import EXCEPTION_HANDLERS
from crowdperf.web.state import (
    AppDependency,
    AppState,
    ContextDependency,
    RequestContext,
    SpanDependency,
)

PAGES_DIR = Path(__file__).resolve().parents[2] / "web"
MAX_BODY_BYTES = 64 * 1024
API_MODULES: tuple[Any, ...] = (
    site, history, reports, live_routes, sign_in, accounts, cameras, alerts, system, lines_zones,
    configuration, visits, kiosks, roll_calls, privacy, violations,
)  # fmt: skip
"""Modules with a router below /api/v1."""


def create_app(config: WebConfig, metrics: Metrics | None = None) -> Litestar:
    """Create the application of one site.

    Args:
        config: Configuration of the site.
        metrics: Metrics of the process; by default a new object that is not published.
    """
    state = AppState(config, metrics or Metrics())

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await state.start()
        try:
            yield
        finally:
            await state.close()

    def provide() -> AppState:
        return state

    app = Litestar(
        route_handlers=[
            Router("/api/v1", route_handlers=[module.router for module in API_MODULES]),
            health.router,
            create_static_files_router(
                "/",
                directories=[PAGES_DIR],
                html_mode=True,
                opt={"need": "open"},
                # Browsers revalidate each time, so that they see a new version's pages at once.
                cache_control=CacheControlHeader(no_cache=True),
            ),
        ],
        dependencies={
            "app": Provide(provide, sync_to_thread=False, use_cache=True),
            "principal": Provide(provide_principal, sync_to_thread=False),
            "context": Provide(RequestContext, sync_to_thread=False),
            "time_range": Provide(_provide_time_range, sync_to_thread=False),
        },
        guards=[authorize],
        exception_handlers=EXCEPTION_HANDLERS,
        before_send=[add_security_headers, audit_refusal],
        lifespan=[lifespan],
        openapi_config=build_openapi_config(),
        request_max_body_size=MAX_BODY_BYTES,
        # Litestar would replace this process's log handler, which redacts secrets.
        logging_config=None,
        signature_namespace={
            "AppDependency": AppDependency,
            "ContextDependency": ContextDependency,
            "PrincipalDependency": PrincipalDependency,
            "SpanDependency": SpanDependency,
        },
    )
    app.state.app_state = state
    return app


def _provide_time_range(app: AppDependency, start: From = None, end: To = None) -> Span:
    """Parse the range of a request, in the site's zone; by default today."""
    return parse_span(start, end, app.now(), app.calendar.zone)


def _create_standalone_app() -> Litestar:
    """Create the application for an uvicorn started by hand, configured by environment variables."""
    raise_file_limit()
    path = Path(os.environ.get("CROWDPERF_CONFIG", "config.json"))
    paths = Paths(Path(os.environ.get("CROWDPERF_DATA", "var")))
    app = create_app(build_web_config(config.Deployment(config.load(path), paths, read_environment(os.environ))))
    app.on_startup.append(_end_streams_on_signal)
    return app


def _end_streams_on_signal(app: Litestar) -> None:
    """End live streams on Ctrl-C: uvicorn waits for its clients before it notifies the application."""
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
    """Create `app` on first access: importing this module reads no configuration."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = app = _create_standalone_app()
    return app


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}

AUDITED_STATUSES = (403, 429)
KIOSK_PATH = "/kiosk"


async def audit_refusal(message: Message, scope: Scope) -> None:
    """Write a request that is refused (403, 429) to the audit log, within limits."""
    if message["type"] != "http.response.start" or message["status"] not in AUDITED_STATUSES:
        return
    app: AppState = scope["litestar_app"].state.app_state
    principal: Principal = scope.get("user") or ANONYMOUS
    client = scope.get("client")
    address = client[0][:64] if client else ""
    # The template of the path: the path itself may hold the code of a badge.
    target = f"{scope.get('method', '')} {scope.get('path_template', '')}"[:200]
    entry = AuditEntry(
        ts=app.now(),
        who=principal.name,
        via=principal.kind,
        action="request.refuse",
        target=target,
        address=address,
        detail=f"status {message['status']}",
        token=principal.token,
    )
    await app.write_refusal(entry)


async def add_security_headers(message: Message, scope: Scope) -> None:
    """Add the security headers to a response; a header that the route has set stays.

    Pages load this server's own files only, and no page may frame them. Only the kiosk may use the device's camera, for
    the QR codes of badges.
    """
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    if scope["path"].removesuffix("/index.html").rstrip("/") == KIOSK_PATH:
        headers["Permissions-Policy"] = SECURITY_HEADERS["Permissions-Policy"].replace("camera=()", "camera=(self)")
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-store")
    if scope.get("scheme") == "https":
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
