"""Environment variables and the paths of an installation's run-time files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from crowdperf.primitives.digest import compute_digest
from crowdperf.settings.base import ConfigError

POSTGRES_DSN = "CROWDPERF_POSTGRES_DSN"


class Environment(Struct, frozen=True, kw_only=True):
    """The documented environment variables; None where unset."""

    target_fps: float | None = None
    queue_max: int | None = None
    rtsp_stimeout_usec: int = 5_000_000
    ffmpeg_extra_flags: str = "-loglevel error"
    cuda_empty_every: int = 0
    postgres_dsn: str = ""
    """A reference to the variable, never its value: process configurations are written to files."""


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Read the documented environment variables; raise ConfigError for an invalid value."""
    return Environment(
        target_fps=_read_number(variables, "TARGET_FPS", float, 0.1, 240),
        queue_max=_read_number(variables, "QUEUE_MAX", int, 1, 64),
        rtsp_stimeout_usec=_read_number(variables, "RTSP_STIMEOUT_USEC", int, 1, 10**12) or 5_000_000,
        ffmpeg_extra_flags=variables.get("FFMPEG_EXTRA_FLAGS", "").strip(),
        cuda_empty_every=_read_number(variables, "CUDA_EMPTY_EVERY", int, 0, 10**6) or 0,
        postgres_dsn=f"env:{POSTGRES_DSN}" if variables.get(POSTGRES_DSN, "").strip() else "",
    )


def _read_number(variables: Mapping[str, str], name: str, kind: type[Any], low: float, high: float) -> Any:
    """Return the variable as `kind`, or None where it is unset or empty."""
    text = variables.get(name, "").strip()
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise ConfigError(
            f"environment variable {name}={text!r} is not a number from {low:g} to {high:g}. Remedy: fix or unset it."
        )
    return value


class Paths(Struct, frozen=True):
    """Paths of this installation's run-time files, all below one data folder (`var/` by default)."""

    data: Path

    @property
    def instance(self) -> str:
        """Eight hex digits that separate the rings of two installations on one machine."""
        return compute_digest(str(self.data.resolve()).encode(), 8)

    @property
    def rings(self) -> Path:
        """Folder of the rings, in shared memory."""
        return Path("/dev/shm") / f"crowdperf.{self.instance}"

    @property
    def sockets(self) -> Path:
        """Folder of the Unix sockets."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """Folder of the rotated logs."""
        return self.data / "log"

    @property
    def supervisor(self) -> Path:
        """Folder of what is rendered for supervisord and its programs."""
        return self.data / "supervisor"

    @property
    def model_selection_file(self) -> Path:
        """File with the model selection that inference reloads without a restart."""
        return self.supervisor / "choice.json"

    @property
    def web_reload_file(self) -> Path:
        """File with the settings that the web process reloads without a restart (`WebReloadable`)."""
        return self.supervisor / "shown.json"

    @property
    def evidence(self) -> Path:
        """Folder of the evidence pictures."""
        return self.data / "evidence"

    @property
    def installation_file(self) -> Path:
        """File with a random id, by which installations on one Redis know each other."""
        return self.data / "installation"

    @property
    def doorbell(self) -> Path:
        """Datagram socket that wakes inference when a frame is published."""
        return self.sockets / "doorbell.sock"

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded Redis."""
        return self.sockets / "redis.sock"

    @property
    def redis_url(self) -> str:
        """Address of the embedded Redis."""
        return f"unix://{quote(os.fsencode(self.redis_socket.absolute()))}"

    @property
    def supervisor_socket(self) -> Path:
        """XML-RPC socket of supervisord; supervisord.conf names the same path."""
        return self.sockets / "supervisor.sock"

    def get_ring_path(self, camera_id: str) -> Path:
        """Return the path of the camera's shared-memory ring."""
        return self.rings / f"ring.{camera_id}"

    def check_socket_length(self) -> None:
        """Raise ConfigError unless every socket path fits into sun_path (108 bytes)."""
        length = len(os.fsencode(str(self.supervisor_socket.absolute())))
        if length > 96:
            raise ConfigError(
                f"the data folder {str(self.data.absolute())!r} is too deep: its Unix sockets need {length} bytes and "
                "the system allows 96. Remedy: move crowdperf to a shorter path."
            )
