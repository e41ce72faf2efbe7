"""Register a model of the operator, so that its hash is checked at every start."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import structs

from crowdperf.models import registry
from crowdperf.models.loader import build_settings, get_warmup_specs, load_detector
from crowdperf.models.registry import MODEL_SUFFIXES, MODELS_FOLDER, Manifest, ModelEntry, ModelError, Role, Variant
from crowdperf.settings.config import Config
from crowdperf.settings.process_config import get_ring_sizes

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED_SUFFIXES = (*MODEL_SUFFIXES, "-int8")
"""Names must not end with these: file suffixes, and the suffix that `models export --int8` appends."""


def add_model(
    path: Path,
    name: str,
    role: Role,
    labels: dict[str, str],
    licence: str,
    source: str,
    cache: Path,
    folder: Path = MODELS_FOLDER,
) -> ModelEntry:
    """Load the model once, copy its files into the registry and write its entry.

    Files that are already in place are registered there. No other file is ever replaced.

    Args:
        path: weights (.pt), ONNX, or an OpenVINO model (.xml or its folder).
        name: the registered name; files are called after it.
        role: person (with vehicles), or ppe.
        labels: class name of the model -> class of crowdperf; the entry stores the mapped names.
        licence: text for the manifest.
        source: text for the manifest; empty takes `path`.
        cache: a folder for files that may be deleted at any time.
        folder: the registry.

    Returns:
        The new entry.

    Raises:
        ModelError: the name is invalid or taken, the model does not fit the role or runs at one size only, or the
            folder is not writable.
    """
    manifest = registry.read_manifest(folder)
    if not MODEL_NAME.fullmatch(name) or name.endswith(RESERVED_SUFFIXES):
        raise ModelError(
            f"{name!r} is not a valid model name. Remedy: use letters, digits, '.', '_' and '-', and none of the "
            f"endings {', '.join(RESERVED_SUFFIXES)}."
        )
    if any(entry.name == name for entry in manifest.models):
        raise ModelError(f"the name {name!r} is registered already. Remedy: choose another one.")
    # A name without a slash would be looked up in the registry.
    address = str(path) if path.is_absolute() else f"./{path}"
    model = registry.resolve_model(address, role, "auto", folder, labels=labels)
    if model.path.suffix == ".engine":
        raise ModelError(
            f"the engine {str(path)!r} fits one machine only and is not registered. Remedy: name its path in "
            "inference.models, or register the weights that it was built from."
        )
    settings = structs.replace(build_settings(str(model.path), role, labels=labels), device="cpu")
    detector = load_detector(settings, cache, folder, role)
    # Try every camera shape: a model that was exported for one size cannot serve cameras of another.
    for spec in get_warmup_specs(role, get_ring_sizes(Config().analysis_width)):
        if error := detector.try_warm(spec):
            raise error
    sources = [model.path, model.path.with_suffix(".bin")] if model.path.suffix == ".xml" else [model.path]
    targets = [folder / f"{name}{source_file.suffix}" for source_file in sources]
    new_targets = [target for source, target in zip(sources, targets) if not registry.is_same_file(source, target)]
    for target in new_targets:
        if target.exists():
            raise ModelError(
                f"{str(target)!r} exists already and is not replaced. Remedy: choose another --name than {name!r}, or "
                "move that file away."
            )
    names = registry.map_class_names(detector.backend.names, model)
    assert set(names) & set(registry.CLASSES_BY_ROLE[role]), "the detector has checked it"
    try:
        files = registry.install_files(sources, targets)
        entry = ModelEntry(
            name=name,
            file=files[0].file,
            sha256=files[0].sha256,
            task="detect",
            role=role,
            classes=names,
            input_size=(640, 640),
            licence=licence,
            source=source or str(path),
            variants=(Variant(runtime=model.runtime, files=files),),
        )
        registry.write_manifest(Manifest((*manifest.models, entry)), folder)
    except ModelError:
        for target in new_targets:
            target.unlink(missing_ok=True)
        raise
    return entry
