"""Hash content and files with SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path


def compute_digest(content: bytes, digits: int = 64) -> str:
    """Return the first hex digits of the SHA-256 of the content, by default all of them."""
    return hashlib.sha256(content).hexdigest()[:digits]


def compute_file_digest(path: Path) -> str:
    """Return all hex digits of the SHA-256 of a file; its size does not matter."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
