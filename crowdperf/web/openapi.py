"""The OpenAPI description: title, and the answers that many routes share. web/docs shows it."""

from __future__ import annotations

from litestar import Router
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from crowdperf.web.access import SESSION_COOKIE
from crowdperf.web.problems import ProblemDetails

_PROBLEM = "application/problem+json"

BAD_REQUEST = {400: ResponseSpec(ProblemDetails, description="A parameter is not valid.", media_type=_PROBLEM)}
NOT_FOUND = {404: ResponseSpec(ProblemDetails, description="There is no such thing.", media_type=_PROBLEM)}
REFUSED = {
    401: ResponseSpec(ProblemDetails, description="Nobody is signed in.", media_type=_PROBLEM),
    403: ResponseSpec(
        ProblemDetails, description="The permission is missing, or the request forged.", media_type=_PROBLEM
    ),
}
PRECONDITION = {412: ResponseSpec(ProblemDetails, description="It was changed meanwhile.", media_type=_PROBLEM)}
NO_PICTURE = {422: ResponseSpec(ProblemDetails, description="There is no picture; why.", media_type=_PROBLEM)}
CONFLICT = {409: ResponseSpec(ProblemDetails, description="The rules forbid it at present.", media_type=_PROBLEM)}
TOO_MANY = {429: ResponseSpec(ProblemDetails, description="Too many attempts.", media_type=_PROBLEM)}
UNAVAILABLE = {503: ResponseSpec(ProblemDetails, description="Redis or the camera is away.", media_type=_PROBLEM)}
JpegSpec = ResponseSpec(bytes, description="JPEG", media_type="image/jpeg", generate_examples=False)


def build_openapi_config() -> OpenAPIConfig:
    """The description served at /schema/openapi.json."""
    return OpenAPIConfig(
        title="crowdperf",
        version="1",
        summary="Counts, occupancy and events of a site with many cameras.",
        description=(
            "Times are RFC 3339, ranges are half-open. Errors are problem details (RFC 9457). "
            "The live protocol of `/api/v1/live` (WebSocket) is described in docs/web-server.md."
        ),
        use_handler_docstrings=True,
        openapi_router=Router(path="/schema", route_handlers=[], include_in_schema=False, opt={"need": "open"}),
        components=Components(
            security_schemes={
                "session": SecurityScheme(type="apiKey", name=SESSION_COOKIE, security_scheme_in="cookie"),
                "token": SecurityScheme(type="http", scheme="bearer"),
            }
        ),
        security=[{}, {"session": []}, {"token": []}],
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
    )
