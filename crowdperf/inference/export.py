"""The OpenVINO form of a registered model, made from its weights so that anybody can repeat it.

The same versions of torch, ultralytics and openvino write the same bytes; the manifest records them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from crowdperf.inference.detector import prepare_ultralytics
from crowdperf.inference.install import install_files, make_unwritable_error
from crowdperf.inference.registry import (
    MODELS_FOLDER,
    Manifest,
    ModelEntry,
    ModelError,
    ModelFile,
    Variant,
    check_file,
    read_manifest,
)


def export_openvino(name: str, cache: Path, folder: Path = MODELS_FOLDER) -> tuple[Path, ...]:
    """Write `<name>.xml` and `<name>.bin` beside the weights and their hashes into the manifest.

    The input is dynamic in batch, height and width; the weights are stored in fp16 (computed in whatever the processor
    does best); the output is the raw head, since suppression is ours.

    Raises:
        ModelError: no such model, none with weights, altered ones, or the export's libraries are missing.
    """
    manifest = read_manifest(folder)
    entry = find_entry(manifest, name)
    if not has_weights(entry):
        raise ModelError(
            f"the model {name!r} is registered as {entry.file!r}, which nothing is exported from. "
            "Remedy: export it from its .pt file with Ultralytics, and add what that writes."
        )
    weights = check_file(folder, ModelFile(entry.file, entry.sha256))
    prepare_ultralytics(cache)
    try:
        import openvino
        import torch
        import ultralytics
    except ImportError as error:
        raise ModelError(
            f"exporting {entry.file!r} needs {error.name}. Remedy: `pip install -r requirements.txt`."
        ) from None
    with tempfile.TemporaryDirectory(prefix="crowdperf-export-") as scratch:
        copy = Path(scratch) / weights.name
        shutil.copyfile(weights, copy)
        width, height = entry.input_size
        written = Path(
            ultralytics.YOLO(copy).export(format="openvino", dynamic=True, quantize=16, imgsz=(height, width))
        )
        suffixes = (".xml", ".bin")
        files = install_files(
            [written / f"{copy.stem}{suffix}" for suffix in suffixes],
            [folder / f"{name}{suffix}" for suffix in suffixes],
        )
    versions = f"ultralytics {ultralytics.__version__}, torch {torch.__version__}, openvino {openvino.__version__}"
    variant = Variant(runtime="openvino", files=files, exported_by=versions)
    record_variant(manifest, entry, variant, folder)
    return tuple(folder / file.file for file in files)


def find_entry(manifest: Manifest, name: str) -> ModelEntry:
    """The registered model of that name.

    Raises:
        ModelError: there is none.
    """
    for entry in manifest.models:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in manifest.models)
    raise ModelError(f"the model {name!r} is not registered (known: {known}). Remedy: name one of these.")


def has_weights(entry: ModelEntry) -> bool:
    """Whether other forms can be exported from it: an own OpenVINO or ONNX model has no weights beside it."""
    return entry.file.endswith(".pt")


def list_exportable(manifest: Manifest) -> list[str]:
    """The models that were exported before, and can be again."""
    return [
        entry.name
        for entry in manifest.models
        if has_weights(entry) and any(variant.runtime == "openvino" for variant in entry.variants)
    ]


def record_variant(manifest: Manifest, entry: ModelEntry, variant: Variant, folder: Path) -> None:
    """Replace the entry's variant of that runtime and precision in the manifest, by atomic rename."""
    kind = (variant.runtime, variant.precision)
    others = tuple(old for old in entry.variants if (old.runtime, old.precision) != kind)
    variants = tuple(sorted((*others, variant), key=lambda one: (one.runtime, one.precision)))
    updated = msgspec.structs.replace(entry, variants=variants)
    models = tuple(updated if old.name == entry.name else old for old in manifest.models)
    write_manifest(Manifest(models), folder)


def write_manifest(manifest: Manifest, folder: Path = MODELS_FOLDER) -> None:
    """Write models/manifest.json, readable and by atomic rename.

    Raises:
        ModelError: the folder takes no file; the manifest is as it was.
    """
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    partial = folder / "manifest.json.partial"
    try:
        partial.write_bytes(text)
        partial.replace(folder / "manifest.json")
    except OSError as error:
        if partial.is_file():
            partial.unlink()
        raise make_unwritable_error(folder, error) from None
