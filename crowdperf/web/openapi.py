"""The OpenAPI description: title, and the answers that many routes share. web/docs shows it."""

from __future__ import annotations

from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin

from crowdperf.web.problems import ProblemDetails

_PROBLEM = "application/problem+json"

BAD_REQUEST = {400: ResponseSpec(ProblemDetails, description="A parameter is not valid.", media_type=_PROBLEM)}
NOT_FOUND = {404: ResponseSpec(ProblemDetails, description="There is no such camera.", media_type=_PROBLEM)}
UNAVAILABLE = {503: ResponseSpec(ProblemDetails, description="Redis or the camera is away.", media_type=_PROBLEM)}
JpegSpec = ResponseSpec(bytes, description="JPEG", media_type="image/jpeg", generate_examples=False)


def config() -> OpenAPIConfig:
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
        path="/schema",
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
    )
