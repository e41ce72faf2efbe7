"""Published weights by their name (`yolo11n.pt`), fetched by Ultralytics itself where the operator allows downloads."""

from __future__ import annotations

import re
from pathlib import Path

from crowdperf.inference.registry import ModelError

PUBLISHED_WEIGHTS = re.compile(r"yolo(v[3-9]|v10|1[12]|26)[a-z]\w*\.pt")


def is_published(name: str) -> bool:
    """Whether this is the bare name of weights that Ultralytics publishes, and no file of that name is here."""
    return PUBLISHED_WEIGHTS.fullmatch(name) is not None and not Path(name).exists()


def download_weights(name: str, cache: Path, allowed: bool) -> Path:
    """The file of published weights: from an earlier download, or downloaded now.

    Raises:
        ModelError: it is not here and may not, or cannot, be fetched.
    """
    target = cache / "weights" / name
    if target.is_file():
        return target
    if not allowed:
        raise ModelError(
            f"the weights {name!r} are published by Ultralytics but not on this machine, and downloads are off. "
            f"Remedy: set inference.downloads to true, or put the file at {str(target)!r}."
        )
    try:
        from ultralytics.utils.downloads import attempt_download_asset
    except ImportError as error:
        raise ModelError(f"fetching {name!r} needs {error.name}. Remedy: `pip install -r requirements.txt`.") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        attempt_download_asset(str(target))
    except (OSError, RuntimeError, ValueError, ConnectionError) as error:
        target.unlink(missing_ok=True)
        raise ModelError(
            f"the weights {name!r} cannot be fetched: {error}. "
            f"Remedy: see to the network, or put the file at {str(target)!r}."
        ) from None
    if not target.is_file():
        raise ModelError(f"Ultralytics has no weights {name!r}. Remedy: correct inference.models.")
    return target
