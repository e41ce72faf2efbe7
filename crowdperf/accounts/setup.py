"""The one-time link that makes a site's first administrator: a secret in the data folder, for its owner's eyes only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from crowdperf.accounts.passwords import generate_secret, is_same_secret


class SetupSecret:
    """The file `setup.secret` of the folder of sockets. Who can read it owns the installation already."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "setup.secret"

    def read(self) -> str | None:
        """The secret; None while there is none."""
        try:
            return self._file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def create(self) -> str:
        """The secret, made by whoever comes first."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Readable for nobody else, under a name that neither a process nor a thread shares with another.
        handle, fresh = tempfile.mkstemp(".tmp", "setup.", self._file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(generate_secret())
        try:
            # A link never replaces: two processes that start together agree on one secret, and nobody reads half of it.
            os.link(fresh, self._file)
        except FileExistsError:
            pass
        finally:
            os.unlink(fresh)
        return self.read() or ""

    def matches(self, text: str) -> bool:
        """Whether `text` is the secret."""
        known = self.read()
        return known is not None and is_same_secret(known, text)

    def remove(self) -> None:
        """Used up."""
        self._file.unlink(missing_ok=True)


def build_setup_link(base_url: str, secret: str) -> str:
    """What the administrator opens. Behind the '#', so that it is in no server's log and no Referer."""
    return f"{base_url}/setup/#{secret}"
