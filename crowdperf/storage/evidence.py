"""Evidence on disk: `<folder>/<camera>/<day>/<hash of the id>.jpg` and `-crop.jpg`, with the boxes as metadata.

The path follows from the request, so its sender knows it without an answer. A repeated request writes the same files.
The metadata is JSON in the JPEG comment (marker COM) and stays in the file when it is copied.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from crowdperf.primitives.atomic_file import write_file
from crowdperf.primitives.digest import compute_digest
from crowdperf.storage.documents import decode_or_none

SOI, COM = b"\xff\xd8", b"\xff\xfe"
MAGIC = b"crowdperf "
MAX_COMMENT_BYTES = 65_533 - len(MAGIC)
"""Maximum length of a JPEG comment."""


class EvidenceBox(Struct, frozen=True, kw_only=True):
    """One box, normalised to the picture that contains it."""

    class_name: str = field(name="klass")
    score: float
    box: tuple[float, float, float, float]
    """Corners x1, y1, x2, y2."""
    subject: bool = False
    """True for the person of the request."""


class EvidenceMetadata(Struct, frozen=True, kw_only=True):
    """The metadata of one evidence picture."""

    id: str
    camera: str
    ts: float
    """Unix seconds of this picture."""
    epoch: int
    sequence: int
    exact: bool
    """True for the requested frame, False for the nearest later one."""
    boxes: list[EvidenceBox] = []
    blur: str = "none"


def get_picture_path(folder: Path, camera: str, request_id: str, ts: float, kind: Literal["full", "crop"]) -> Path:
    """Return the path of a picture, whether it exists or not.

    Args:
        folder: evidence folder.
        camera: camera id.
        request_id: id of the request.
        ts: Unix seconds of the request.
        kind: full picture or crop.

    Returns:
        The path of the JPEG file.
    """
    day = datetime.fromtimestamp(ts, timezone.utc).date().isoformat()
    name = compute_digest(request_id.encode(), 24)
    return folder / camera / day / f"{name}{'-crop' if kind == 'crop' else ''}.jpg"


def add_metadata(jpeg: bytes, metadata: EvidenceMetadata) -> bytes:
    """Insert the metadata as a JPEG comment. Drop the weakest boxes where it would be too long."""
    while len(text := msgspec.json.encode(metadata)) > MAX_COMMENT_BYTES:
        metadata = msgspec.structs.replace(metadata, boxes=metadata.boxes[: len(metadata.boxes) // 2])
    body = MAGIC + text
    return SOI + COM + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def read_metadata(jpeg: bytes) -> EvidenceMetadata | None:
    """Return the metadata that `add_metadata` inserted, or None."""
    if jpeg[:4] != SOI + COM or jpeg[6 : 6 + len(MAGIC)] != MAGIC:
        return None
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    return decode_or_none(jpeg[6 + len(MAGIC) : end], EvidenceMetadata)


def save_picture(path: Path, jpeg: bytes) -> None:
    """Write a picture by atomic rename, readable by the present user only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file(path, jpeg, mode=0o600)


def expire(folder: Path, before: float, max_bytes: int) -> tuple[int, list[OSError]]:
    """Remove whole days of pictures: first by age, then the oldest by size.

    Args:
        folder: evidence folder.
        before: remove days before this one, Unix seconds.
        max_bytes: maximum total size of the rest.

    Returns:
        Number of removed files, and an error for each day that cannot be read or removed.
    """
    limit = datetime.fromtimestamp(before, timezone.utc).date().isoformat()
    days = sorted((path for path in folder.glob("*/????-??-??") if path.is_dir()), key=lambda path: path.name)
    sizes: dict[Path, list[int]] = {}
    errors: list[OSError] = []
    for day in days:
        with _collect_error(errors):
            sizes[day] = [path.stat().st_size for path in day.iterdir() if path.is_file()]
    total, removed = sum(map(sum, sizes.values())), 0
    for day, files in sizes.items():
        if day.name >= limit and total <= max_bytes:
            break
        with _collect_error(errors):
            shutil.rmtree(day)
            total -= sum(files)
            removed += len(files)
            with contextlib.suppress(OSError):
                day.parent.rmdir()
    return removed, errors


@contextlib.contextmanager
def _collect_error(errors: list[OSError]) -> Iterator[None]:
    """Add the error of one day to `errors`, so that the other days go on."""
    try:
        yield
    except OSError as error:
        errors.append(error)
