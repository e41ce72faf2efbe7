"""Keep secrets out of logs, messages and the configuration as people see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")
MIN_SECRET_CHARACTERS = 4
"""A shorter secret is masked only where a URL would have it: elsewhere it would blank out parts of ordinary words."""


def redact(text: str) -> str:
    """Replace user and password of every URL in a text by `***`."""
    return CREDENTIALS.sub(f"{MASK}@", text)


def redact_url(url: str) -> str:
    """Replace user and password of a URL by `***`, and its query too, which often carries a token."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{MASK}@{host}" if "@" in parts.netloc else host
    return parts._replace(netloc=netloc, query=MASK if parts.query else "", fragment="").geturl()


def redact_config(document: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a decoded config.json with the URLs of its cameras and of Redis redacted."""
    shown: dict[str, Any] = deepcopy(dict(document))
    for holder in [*shown.get("cameras", []), shown.get("redis")]:
        if isinstance(holder, dict) and isinstance(holder.get("url"), str):
            holder["url"] = redact_url(holder["url"])
    return shown


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
        masks = {}
        for secret, before, after in (
            *((form, "", "@") for form in (login, unquote(login))),
            *((form, "?", "") for form in (parts.query, unquote(parts.query))),
            *((form, ":", "@") for form in (password, unquote(password))),
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
