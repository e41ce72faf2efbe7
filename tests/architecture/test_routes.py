"""Every route says who may use it."""

from __future__ import annotations

from pathlib import Path

from litestar import Litestar

from crowdperf.accounts.principal import NEEDS
from crowdperf.settings.config import Deployment, parse
from crowdperf.settings.environment import Paths
from crowdperf.settings.process_config import build_web_config
from crowdperf.web.app import create_app

OPEN = {
    "/",
    "/healthz",
    "/readyz",
    "/schema",
    "/schema/openapi.json",
    "/schema/{path:str}",
    "/api/v1/session",
    "/api/v1/setup",
    "/api/v1/kiosk-session",
    # The dashboard's own files: they hold nothing of the site.
    "/{file_path:path}",
}


def app(tmp_path: Path) -> Litestar:
    return create_app(build_web_config(Deployment(parse(b"{}"), Paths(tmp_path))))


def test_every_route_declares_what_it_asks_for(tmp_path: Path) -> None:
    silent = [
        f"{route.path} {handler}"
        for route in app(tmp_path).routes
        for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)])
        if handler.opt.get("need") not in NEEDS and set(getattr(handler, "http_methods", ())) != {"OPTIONS"}
    ]
    assert silent == [], 'declare it: @get("/…", need="read")'


def test_only_these_routes_are_open_to_everybody(tmp_path: Path) -> None:
    found = {
        route.path
        for route in app(tmp_path).routes
        for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)])
        if handler.opt.get("need") == "open" and set(getattr(handler, "http_methods", ())) != {"OPTIONS"}
    }
    assert found == OPEN
