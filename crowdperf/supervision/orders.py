"""What the web process asks of `crowdperf config` and `crowdperf look`, which alone see camera passwords, as JSON."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from crowdperf.supervision.edits import Edit
from crowdperf.supervision.versions import ConfigVersion

ConfigAction = Literal["edit", "rollback", "versions", "show", "diff"]


class ConfigRequest(Struct, frozen=True, kw_only=True):
    """A request to `crowdperf config ask`."""

    do: ConfigAction
    edits: tuple[Edit, ...] = ()
    expect: dict[str, str] = {}
    """Camera -> the revision that it must still have."""
    number: int = 0
    other: int = 0
    """diff: the version to compare with; 0 is the present file."""
    who: str = ""
    comment: str = ""
    aspects: dict[str, float] = {}
    """Camera -> width by height of its picture, where it is known."""


class ConfigResponse(Struct, frozen=True, kw_only=True):
    """The answer. A status of 200 is success; else `detail` says why not, and nothing was changed."""

    status: int = 200
    detail: str = ""
    reasons: tuple[str, ...] = ()
    version: int = 0
    revisions: dict[str, str] = {}
    cameras: tuple[dict[str, Any], ...] = ()
    """The cameras of the new configuration that an edit names, URLs redacted."""
    restarts: tuple[str, ...] = ()
    """Programs that are started, stopped or restarted for it."""
    running: bool = False
    """Whether there is a supervisord to do so."""
    versions: tuple[ConfigVersion, ...] = ()
    text: str = ""
    """show, diff: without secrets."""


class ProbeRequest(Struct, frozen=True, kw_only=True):
    """A request to `crowdperf look`: open a source once and bring a picture."""

    url: str
    camera: str = ""
    """Whose stored URL is meant, where `url` is its redacted form."""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"


class ProbeResult(Struct, frozen=True, kw_only=True):
    """The answer: a picture, or the reason why there is none."""

    ok: bool
    detail: str = ""
    width: int = 0
    height: int = 0
    fps: float = 0.0
    jpeg: bytes = b""
