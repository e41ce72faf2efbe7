"""Keep secrets out of logs, messages and the configuration as people see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from string import punctuation
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

MASK = "***"
URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
ASSIGNMENT = re.compile(
    r"""((?:password|passwd|pwd|secret|token|api_?key)\s*=\s*)('[^']*'|"[^"]*"|[^\s&;,'"]+)""", re.IGNORECASE
)
"""A secret with its name, as in a DSN of keywords."""
AUTHORIZATION = re.compile(r"(authorization:\s*(?:basic|bearer|digest)?\s*)[^\s'\"]+", re.IGNORECASE)
"""A header among FFmpeg's flags."""
RTMP_SCHEMES = ("rtmp", "rtmps", "rtmpt", "rtmpe", "rtmpte", "rtmpts")
MIN_SECRET_CHARACTERS = 4
"""A shorter secret is masked only where a URL would have it: elsewhere it would blank out parts of ordinary words."""


def redact(text: str) -> str:
    """Replace the secrets of every URL, DSN and header in a text by `***`."""
    text = URL.sub(lambda match: redact_url(match[0]), text)
    return AUTHORIZATION.sub(rf"\1{MASK}", ASSIGNMENT.sub(rf"\1{MASK}", text))


def redact_url(url: str) -> str:
    """Replace login, query, fragment and the segments of the path that hold a login by `***`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{scheme}://{MASK}"
    if "@" in rest and "@" not in parts.netloc:
        # A password with a bare / ? or # makes the URL invalid, but it is still a password.
        return f"{scheme}://{MASK}"
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{MASK}@{host}" if "@" in parts.netloc else host
    secret = _find_secret_segments(parts)
    path = "/".join(MASK if place in secret else segment for place, segment in enumerate(parts.path.split("/")))
    return parts._replace(netloc=netloc, path=path, query=MASK if parts.query else "", fragment="").geturl()


def _find_secret_segments(parts: SplitResult) -> dict[int, str]:
    """Find the segments of a path that hold a secret, by their places: settings, or a stream key of RTMP.

    Many recorders want `user=admin&password=…` there. An RTMP address ends in its key, after the name of the
    application.
    """
    segments = {place: segment for place, segment in enumerate(parts.path.split("/")) if segment}
    if parts.scheme in RTMP_SCHEMES:
        return dict(list(segments.items())[1:]) or segments
    return {place: segment for place, segment in segments.items() if "=" in unquote(segment)}


def redact_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a decoded config.json with the secrets in all of its texts redacted."""
    return {name: _redact_value(value) for name, value in document.items()}


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redact_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    shown = redact_config(value)
    if value.get("type") == "webhook" and isinstance(value.get("url"), str):
        # Chat services put the token into the path.
        scheme, _, rest = shown["url"].partition("://")
        shown["url"] = f"{scheme}://{rest.partition('/')[0]}/{MASK}"
    return shown


def redact_path(text: str, url: str) -> str:
    """Remove path and query of a webhook's URL from a text, in any form in which a library repeats them."""
    parts = urlsplit(url)
    forms = {parts.path, parts.query}
    forms |= {quote(form, safe=punctuation) for form in forms} | {unquote(form) for form in forms}
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= MIN_SECRET_CHARACTERS:
            text = text.replace(form, MASK)
    return text


def redact_dsn(text: str, dsn: str) -> str:
    """Remove the password of `dsn` from a text, in any form in which a driver repeats it."""
    parts = urlsplit(dsn)
    secrets = {parts.password or "", unquote(parts.password or "")}
    secrets |= {value for name, value in parse_qsl(parts.query) if "password" in name}
    text = text.replace(dsn, MASK)
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def make_redactor(url: str) -> Callable[[str], str]:
    """Return a function that removes the secrets of a camera's URL from a text. FFmpeg prints whole URLs."""
    try:
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        if not login and "@" in parts.path + parts.query + parts.fragment:
            # A password with a bare / ? or # makes the URL invalid, but it is still a password.
            login = url.partition("://")[2].rpartition("@")[0]
        password = login.partition(":")[2]
        segments = _find_secret_segments(parts).values()
        masks = {}
        for secret, before, after in (
            *((form, "", "@") for form in (login, unquote(login))),
            *((form, "?", "") for form in (parts.query, unquote(parts.query))),
            *((form, ":", "@") for form in (password, unquote(password))),
            *((form, "#", "") for form in (parts.fragment, unquote(parts.fragment))),
            *((form, "/", "") for form in (*segments, *map(unquote, segments))),
        ):
            if len(secret) >= MIN_SECRET_CHARACTERS:
                masks[secret] = MASK
            elif secret:
                masks[before + secret + after] = f"{before}{MASK}{after}"
    except ValueError:
        masks = {url: MASK}

    def redact_camera(text: str) -> str:
        for secret in sorted(masks, key=len, reverse=True):
            text = text.replace(secret, masks[secret])
        return redact(text)

    return redact_camera
