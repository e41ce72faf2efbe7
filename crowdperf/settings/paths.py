"""Where an installation keeps its run-time files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from msgspec import Struct

from crowdperf.settings.base import ConfigError


class Paths(Struct, frozen=True):
    """Where this installation keeps its run-time files: everything below one data folder, `var/` by default."""

    data: Path

    @property
    def instance(self) -> str:
        """Eight hex digits that tell this installation's rings from another's on the same machine."""
        return hashlib.sha256(str(self.data.resolve()).encode()).hexdigest()[:8]

    @property
    def sockets(self) -> Path:
        """Folder of the Unix sockets."""
        return self.data / "run"

    @property
    def logs(self) -> Path:
        """Folder of the rotated logs."""
        return self.data / "log"

    @property
    def model_selection_file(self) -> Path:
        """What inference is to take over without a restart (`settings.choice`)."""
        return self.data / "supervisor" / "choice.json"

    @property
    def web_reload_file(self) -> Path:
        """What the web process is to take over without a restart (`slices.Shown`)."""
        return self.data / "supervisor" / "shown.json"

    @property
    def evidence(self) -> Path:
        """Folder of the pictures of evidence."""
        return self.data / "evidence"

    @property
    def doorbell(self) -> Path:
        """Datagram socket on which inference hears of new frames."""
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
        """The camera's shared-memory segment."""
        return Path("/dev/shm") / f"crowdperf.{self.instance}.{camera_id}"

    def check_socket_length(self) -> None:
        """Raise ConfigError when a socket path would not fit into sun_path (108 bytes, supervisord adds its pid)."""
        length = len(os.fsencode(str(self.supervisor_socket.absolute())))
        if length > 96:
            raise ConfigError(
                f"the data folder {str(self.data.absolute())!r} is too deep: its Unix sockets need {length} bytes and "
                "the system allows 96. Remedy: move crowdperf to a shorter path."
            )
