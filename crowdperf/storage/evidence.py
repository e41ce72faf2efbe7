"""Evidence on disk: `<folder>/<camera>/<day>/<hash of the id>.jpg` and `-crop.jpg`, boxes inside as metadata.

The path follows from the request, so that whoever asked finds the pictures without being told, and asking twice writes
the same files. What is known about a picture is JSON in its JPEG comment (marker COM): it stays with a file that is
copied away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

SOI, COM = b"\xff\xd8", b"\xff\xfe"
MAGIC = b"crowdperf "
MAX_COMMENT_BYTES = 65_533 - len(MAGIC)
"""Bytes that one comment holds."""


class EvidenceBox(Struct, frozen=True, kw_only=True):
    """One box in the picture that holds it, normalised to that picture."""

    class_name: str = field(name="klass")
    score: float
    box: tuple[float, float, float, float]
    """x1 y1 x2 y2."""
    subject: bool = False
    """Whom the request was about."""


class EvidenceMetadata(Struct, frozen=True, kw_only=True):
    """What a picture of evidence says of itself."""

    id: str
    camera: str
    ts: float
    """Unix seconds at which this picture was taken."""
    epoch: int
    sequence: int
    exact: bool
    """Whether this is the frame that was asked for; else the nearest later one there was."""
    boxes: list[EvidenceBox] = []
    blur: str = "none"


def get_picture_path(folder: Path, camera: str, request_id: str, ts: float, kind: Literal["full", "crop"]) -> Path:
    """Where the picture of a request is, or would be; `ts` in Unix seconds is the request's."""
    day = datetime.fromtimestamp(ts, timezone.utc).date().isoformat()
    name = hashlib.sha256(request_id.encode()).hexdigest()[:24]
    return folder / camera / day / f"{name}{'-crop' if kind == 'crop' else ''}.jpg"


def add_metadata(jpeg: bytes, metadata: EvidenceMetadata) -> bytes:
    """The JPEG with its comment; the weakest boxes are left out where there are too many for one."""
    while len(text := msgspec.json.encode(metadata)) > MAX_COMMENT_BYTES:
        metadata = msgspec.structs.replace(metadata, boxes=metadata.boxes[: len(metadata.boxes) // 2])
    body = MAGIC + text
    return SOI + COM + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def read_metadata(jpeg: bytes) -> EvidenceMetadata | None:
    """What `with_metadata` put in, or None."""
    if jpeg[:4] != SOI + COM or jpeg[6 : 6 + len(MAGIC)] != MAGIC:
        return None
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    try:
        return msgspec.json.decode(jpeg[6 + len(MAGIC) : end], type=EvidenceMetadata)
    except msgspec.DecodeError:
        return None


def save_picture(path: Path, jpeg: bytes) -> None:
    """Write a picture by atomic rename; people's pictures are for this user only.

    Raises:
        OSError: there is no room, or no permission.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_suffix(".partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(jpeg)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def expire(folder: Path, before: float, max_bytes: int) -> int:
    """Remove whole days: those before `before` (Unix seconds), then the oldest until `most_bytes` suffice.

    Returns how many files went.
    """
    limit = datetime.fromtimestamp(before, timezone.utc).date().isoformat()
    days = sorted((path for path in folder.glob("*/????-??-??") if path.is_dir()), key=lambda path: path.name)
    sizes = {day: [file.stat().st_size for file in _list_files(day)] for day in days}
    total, removed = sum(map(sum, sizes.values())), 0
    for day in days:
        if day.name >= limit and total <= max_bytes:
            break
        total -= sum(sizes[day])
        removed += len(sizes[day])
        shutil.rmtree(day, ignore_errors=True)
        with contextlib.suppress(OSError):
            day.parent.rmdir()
    return removed


def _list_files(day: Path) -> list[Path]:
    return [path for path in day.iterdir() if path.is_file()]
