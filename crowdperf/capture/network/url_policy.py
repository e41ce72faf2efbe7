"""Policy for camera sources: check URLs and flags before FFmpeg sees them."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shlex
import socket
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REMEDY = "Remedy: correct the camera's url."
_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})
_REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("169.254.0.0/16", "fe80::/10"),
        # Clouds that serve their metadata elsewhere: AWS by IPv6, Alibaba, Oracle, Azure.
        *("fd00:ec2::/32", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
    )
)
_FLAG_VALUE_COUNTS: dict[str, int] = dict.fromkeys(
    (
        *("-analyzeduration", "-buffer_size", "-c:v", "-err_detect", "-fflags", "-flags", "-fps_mode", "-hwaccel"),
        *("-hwaccel_device", "-loglevel", "-max_delay", "-probesize", "-r", "-reorder_queue_size", "-rtsp_flags"),
        *("-skip_frame", "-sws_flags", "-threads", "-tls_verify", "-use_wallclock_as_timestamps", "-user_agent", "-v"),
        *("-vsync",),
    ),
    1,
) | dict.fromkeys(("-an", "-sn", "-dn", "-hide_banner", "-nostats"), 0)


class SourceError(Exception):
    """The source is refused or missing; the message names it, without secrets, and the remedy."""


class CheckedSource(NamedTuple):
    """A source that may be opened."""

    kind: Literal["rtsp", "http", "file"]
    target: str
    """FFmpeg's input: the URL, or the file's absolute path."""


def check_url(url: str, media_roots: tuple[str, ...], allowed_hosts: tuple[str, ...] = ()) -> CheckedSource:
    """Check a camera's URL. Host names are not resolved here: `resolve_addresses` does that.

    Args:
        url: As configured.
        media_roots: Absolute folders; only files below them may be read, after following links.
        allowed_hosts: Hosts that are allowed although they would be refused.

    Returns:
        The kind of the source and FFmpeg's input.

    Raises:
        SourceError: Another scheme, a refused address, or a file that is missing or outside the roots.
    """
    if url.startswith("-") or _CONTROL.search(url):
        raise SourceError(f"the url may not begin with '-' nor hold a control character. {_REMEDY}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        # Python's message would quote the text it took for the port, often part of a password.
        raise SourceError(
            "the url is not a URL. Remedy: correct it; in a password, write / ? # @ : as %2F %3F %23 %40 %3A."
        ) from None
    if parts.scheme in ("rtsp", "rtsps", "http", "https"):
        if not host:
            raise SourceError(f"the url names no host. {_REMEDY}")
        _check_host(host, allowed_hosts)
        return CheckedSource("rtsp" if parts.scheme.startswith("rtsp") else "http", url)
    if parts.scheme == "file":
        return CheckedSource("file", _resolve_file(unquote(parts.path), media_roots))
    if not parts.scheme:
        return CheckedSource("file", _resolve_file(url, media_roots))
    raise SourceError(
        f"the url's scheme {parts.scheme!r} is not allowed. Remedy: use rtsp://, rtsps://, http://, https:// or a file."
    )


def resolve_addresses(host: str, port: int, allowed_hosts: tuple[str, ...]) -> list[tuple[int, Any]]:
    """Resolve a host and check each of its addresses.

    Args:
        host: Name or address.
        port: TCP port.
        allowed_hosts: Hosts that are allowed although they would be refused.

    Returns:
        (family, address) pairs for a socket, in the resolver's order.

    Raises:
        SourceError: One of the addresses is refused.
        OSError: The name is unknown.
    """
    _check_host(host, allowed_hosts)
    addresses: list[tuple[int, Any]] = [
        (family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]
    if not _is_allowed(host, allowed_hosts):
        for _, address in addresses:
            _check_host(str(address[0]), allowed_hosts)
    return addresses


def check_address(address: str, allowed_hosts: tuple[str, ...]) -> None:
    """Raise SourceError for a refused address of a connection that belongs to none of `allowed_hosts`."""
    try:
        _check_host(address, allowed_hosts)
    except SourceError:
        for host in allowed_hosts:
            with contextlib.suppress(OSError):
                if address in {resolved[0] for *_, resolved in socket.getaddrinfo(host, None)}:
                    return
        raise


def _is_allowed(host: str, allowed_hosts: tuple[str, ...]) -> bool:
    return host.rstrip(".").lower() in {allowed.rstrip(".").lower() for allowed in allowed_hosts}


def _check_host(host: str, allowed_hosts: tuple[str, ...]) -> None:
    """Refuse link-local addresses in every spelling: clouds serve credentials there."""
    if _is_allowed(host, allowed_hosts):
        return
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # FFmpeg's resolver also accepts 2852039166, 0xa9fea9fe and 169.16689662.
        with contextlib.suppress(OSError):
            address = ipaddress.IPv4Address(socket.inet_aton(host))
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address.sixtofour or _extract_ipv4(address) or address
    refused = address is not None and any(address in network for network in _REFUSED_NETWORKS)
    if refused or host.rstrip(".").lower() in _METADATA_HOSTS:
        raise SourceError(
            f"the host {host!r} is a link-local or metadata address. Remedy: correct the camera's url, "
            "or name the host in allowed_hosts."
        )


def _extract_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address inside a NAT64 (64:ff9b::/96) or IPv4-compatible (::/96) address."""
    if int(address) >> 32 in (0x0064FF9B << 64, 0):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _resolve_file(name: str, media_roots: tuple[str, ...]) -> str:
    """Return the real path of a file below a root; a relative name is searched below each root too."""
    roots = [Path(root).resolve() for root in media_roots]
    candidates = [Path(name).resolve(), *((root / name).resolve() for root in roots)]
    allowed = [path for path in candidates if any(path.is_relative_to(root) for root in roots)]
    if not allowed:
        folders = ", ".join(media_roots) or "none are configured"
        raise SourceError(f"the file {name!r} is outside media_roots ({folders}). Remedy: move it, or add its folder.")
    for path in allowed:
        if path.is_file():
            return str(path)
    raise SourceError(f"the file {name!r} does not exist below media_roots. {_REMEDY}")


def parse_flags(text: str, setting: str) -> list[str]:
    """Split FFmpeg flags, and raise SourceError for any that could read or write files."""
    try:
        tokens = shlex.split(text)
    except ValueError as error:
        raise SourceError(f"{setting}={text!r} cannot be split: {error}. Remedy: close the quotation.") from None
    rest = iter(tokens)
    for token in rest:
        if _CONTROL.search(token):
            raise SourceError(f"{setting}: {token!r} holds a control character. Remedy: remove it.")
        if token not in _FLAG_VALUE_COUNTS:
            raise SourceError(
                f"{setting}: the flag {token!r} is not allowed. Remedy: use one of "
                f"{', '.join(sorted(_FLAG_VALUE_COUNTS))}."
            )
        if _FLAG_VALUE_COUNTS[token]:
            value = next(rest, None)
            # A value that begins with '-' is another option, unless it is a negative number.
            if value is None or (value.startswith("-") and not value[1:].isdigit()):
                raise SourceError(f"{setting}: the flag {token!r} has no value. Remedy: give it one.")
            if _CONTROL.search(value) or (token == "-rtsp_flags" and "listen" in value):
                raise SourceError(f"{setting}: {token} {value!r} is not allowed. Remedy: remove it.")
    return tokens
