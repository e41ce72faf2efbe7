"""Files into the registry's folder: whole or not at all, whatever becomes of the disk meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from crowdperf.inference.registry import ModelError, ModelFile, hash_file


def install_files(sources: Sequence[Path], targets: Sequence[Path]) -> tuple[ModelFile, ...]:
    """Copy each source to its target, which is replaced, and return the targets with their hashes.

    All are copied before the first takes its name. A source that is its target stays where it lies.

    Raises:
        ModelError: a file cannot be read or written; no target has changed where it was the copying that failed.
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
    """Whether both are one file."""
    return target.exists() and source.samefile(target)


def make_unwritable_error(folder: Path, error: OSError) -> ModelError:
    """What to say where the registry's folder takes no file."""
    return ModelError(
        f"nothing can be written to the model registry {str(folder)!r}: {error.strerror}. "
        "Remedy: free space there, or run the command as the user who owns the folder."
    )
