"""Basics of the configuration: the base Struct, the named types, fingerprints, camera URLs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from crowdperf.primitives.digest import compute_digest

CAMERA_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
ClassName = Literal["person", "bicycle", "car", "motorcycle", "bus", "truck"]
CLASSES: tuple[ClassName, ...] = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
"""Detection classes, in the order of their packed index (`FrameDetections.classes`)."""
VEHICLES = CLASSES[1:]
DENSITY_GRID = (32, 18)
"""Columns and rows of the density grid over the picture."""
CameraId = Annotated[str, Meta(pattern=f"^{CAMERA_ID.pattern}$", description="[a-z0-9][a-z0-9_-]{0,31}")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Fps = Annotated[float, Meta(gt=0, le=240)]
Unit = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Coordinates = Annotated[list[Unit], Meta(min_length=2, max_length=2)]


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place, the value and the remedy."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every block of the file: frozen, and an unknown key is an error that names its path."""


def require_unique(where: str, ids: Sequence[str]) -> None:
    """Raise ConfigError where an id occurs twice."""
    if len(ids) > len(set(ids)):
        raise ConfigError(f"{where}: an id of {list(ids)} is used twice. Remedy: rename one.")


def require_known(where: str, kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise ConfigError for a name that does not exist.

    Args:
        where: Place in the configuration, for the message.
        kind: What the names stand for.
        names: The names to check.
        known: The names that exist.
    """
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where}: there is no {kind} {name!r}. Remedy: use one of: {', '.join(sorted(known)) or 'none'}."
            )


def is_loopback(host: str) -> bool:
    """Check whether the address or name is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_network(text: str) -> bool:
    """Check whether a text is an IP address or network."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


_MAIL_WORD = r"[\w!#$%&'*+/=?^`{|}~-]+"
MAIL_ADDRESS = re.compile(rf"{_MAIL_WORD}(\.{_MAIL_WORD})*@[\w-]{{1,63}}(\.[\w-]{{1,63}})*", re.ASCII)
"""What every mail library and server accepts: ASCII letters, no quotes, no address literal, no empty part."""
MAX_ADDRESS_CHARACTERS = 254


def is_mail_address(text: str) -> bool:
    """Check whether text is an e-mail address that any library and server accepts."""
    return len(text) <= MAX_ADDRESS_CHARACTERS and MAIL_ADDRESS.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Check whether text is a host name or address that the resolver accepts; umlauts are allowed."""
    try:
        encoded = text.encode("idna")
    except UnicodeError:
        return False
    return bool(encoded) and all(32 < letter < 127 for letter in encoded)


def compute_fingerprint(block: Settings) -> str:
    """Return 16 hex digits that change with every setting of the block except `name`.

    Settings at their default are left out, so a setting that a release adds changes no fingerprint.
    """
    changed = {
        field.encode_name: getattr(block, field.name)
        for field in msgspec.structs.fields(block)
        if field.name != "name" and getattr(block, field.name) != get_default(field)
    }
    return compute_digest(msgspec.json.encode(changed, order="sorted"), 16)


def get_default(field: msgspec.structs.FieldInfo) -> object:
    """Return the default of a field."""
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default


CAMERA_URL_SCHEMES = ("rtsp", "rtsps", "http", "https", "file", "")


def validate_camera_url(where: str, url: str) -> None:
    """Raise ConfigError for an unknown scheme, a malformed URL or what FFmpeg could take for an option."""
    if url.startswith("-"):
        raise ConfigError(f"{where}.url begins with '-'. Remedy: give an rtsp://, http(s):// URL or a file.")
    try:
        parts = urlsplit(url)
        # A bare '/' in a password ends the host early: an '@' follows, or the text before it is no port.
        malformed = "://" in url and ("@" in parts.path + parts.fragment or parts.port == 0)
    except ValueError:
        malformed = True
    if malformed:
        raise ConfigError(
            f"{where}.url is not a URL. Remedy: correct it; in a password write '/' as %2F, '@' %40, '#' %23, '?' %3F."
        )
    if parts.scheme not in CAMERA_URL_SCHEMES:
        raise ConfigError(
            f"{where}.url has the scheme {parts.scheme!r}. Remedy: use rtsp(s)://, http(s):// or a local file."
        )
