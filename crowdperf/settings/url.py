"""Camera URLs: which are allowed, and how they are shown."""

from __future__ import annotations

from urllib.parse import urlsplit

from crowdperf.settings.base import ConfigError

CAMERA_URL_SCHEMES = ("rtsp", "rtsps", "http", "https", "file", "")


def validate_camera_url(where: str, url: str) -> None:
    """Only allowed schemes, and nothing that FFmpeg could take for an option."""
    if url.startswith("-"):
        raise ConfigError(f"{where}.url begins with '-'. Remedy: give an rtsp://, http(s):// URL or a file.")
    try:
        parts = urlsplit(url)
        # A bare '/' in a password ends the host early: what follows has an '@', or what precedes is no port.
        odd = "://" in url and ("@" in parts.path + parts.fragment or parts.port == 0)
    except ValueError:
        odd = True
    if odd:
        raise ConfigError(
            f"{where}.url is no URL. Remedy: correct it; in a password write '/' as %2F, '@' %40, '#' %23, '?' %3F."
        )
    if parts.scheme not in CAMERA_URL_SCHEMES:
        raise ConfigError(
            f"{where}.url has the scheme {parts.scheme!r}. Remedy: use rtsp(s)://, http(s):// or a local file."
        )


def redact_url(url: str) -> str:
    """`url` with user and password replaced by `***`, and without a query, which often carries a token."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    return parts._replace(netloc=netloc, query="***" if parts.query else "", fragment="").geturl()
