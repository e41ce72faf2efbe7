"""Hash content to a short name."""

from __future__ import annotations

import hashlib


def compute_digest(content: bytes, digits: int = 64) -> str:
    """Return the first hex digits of the SHA-256 of the content, by default all of them."""
    return hashlib.sha256(content).hexdigest()[:digits]
