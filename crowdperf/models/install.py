"""Install files into the registry's folder, and download the weights that Ultralytics publishes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from crowdperf.models.registry import ModelError, ModelFile, hash_file


def install_files(sources: Sequence[Path], targets: Sequence[Path]) -> tuple[ModelFile, ...]:
    """Copy each source over its target, and return the targets with their hashes.

    All files are copied before the first one is renamed. A source that is its own target is left alone.

    Raises:
        ModelError: a file cannot be read or written. If copying failed, no target has changed.
    """
    partial = [target.with_name(f".{target.name}.partial") for target in targets]
    copied = [files for files in zip(sources, partial, targets) if not is_same_file(files[0], files[2])]
    try:
        for source, part, _ in copied:
            shutil.copyfile(source, part)
        for _, part, target in copied:
            part.replace(target)
        return tuple(ModelFile(target.name, hash_file(target)) for target in targets)
    except OSError as error:
        raise make_unwritable_error(targets[0].parent, error) from None
    finally:
        for _, part, _ in copied:
            if part.is_file():
                part.unlink()


def is_same_file(source: Path, target: Path) -> bool:
    """Check whether both paths are the same file."""
    return target.exists() and source.samefile(target)


def make_unwritable_error(folder: Path, error: OSError) -> ModelError:
    """Build the error for a registry folder that is not writable."""
    return ModelError(
        f"cannot write to the model registry {str(folder)!r}: {error.strerror}. "
        "Remedy: free space there, or run the command as the user who owns the folder."
    )


PUBLISHED_WEIGHTS = re.compile(r"yolo(v[3-9]|v10|1[12]|26)[a-z]\w*\.pt")


def is_published(name: str) -> bool:
    """Check for a bare name of published weights; a local file of that name takes precedence."""
    return PUBLISHED_WEIGHTS.fullmatch(name) is not None and not Path(name).exists()


def download_weights(name: str, cache: Path, allowed: bool) -> Path:
    """Return the file of published weights, downloading it if necessary.

    Args:
        name: such as `yolo11n.pt`.
        cache: the folder of earlier downloads.
        allowed: whether the operator permits downloads.

    Returns:
        Path of the weights below `cache`.

    Raises:
        ModelError: the file is absent, and downloads are off or fail.
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
        raise ModelError(
            f"downloading {name!r} needs {error.name}. Remedy: `pip install -r requirements.txt`."
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        attempt_download_asset(str(target))
    except (OSError, RuntimeError, ValueError, ConnectionError) as error:
        target.unlink(missing_ok=True)
        raise ModelError(
            f"the weights {name!r} cannot be downloaded: {error}. "
            f"Remedy: check the network, or put the file at {str(target)!r}."
        ) from None
    if not target.is_file():
        raise ModelError(f"Ultralytics has no weights {name!r}. Remedy: correct inference.models.")
    return target
