"""`crowdperf models add`: a model of the operator's own into the registry, so that its hash is checked ever after."""

from __future__ import annotations

import re
from pathlib import Path

from crowdperf.models.export import write_manifest
from crowdperf.models.install import install_files, is_same_file
from crowdperf.models.loader import get_warmup_specs, load_detector
from crowdperf.models.registry import (
    CLASSES_BY_ROLE,
    MODEL_SUFFIXES,
    MODELS_FOLDER,
    Manifest,
    ModelEntry,
    ModelError,
    Role,
    Variant,
    map_class_names,
    read_manifest,
    resolve_model,
)
from crowdperf.settings.config import Config
from crowdperf.settings.engine import Inference, Labels, Models
from crowdperf.settings.process_config import get_ring_sizes

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED_SUFFIXES = (*MODEL_SUFFIXES, "-int8")
"""What no name ends with: files' endings, and that of the int8 form which `models export` writes for another name."""


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
    """Load the model once, copy its files beside the others and write its entry; returns the entry.

    Files that lie there under that name already are registered where they lie; no other file is ever replaced.

    Its classes are registered under crowdperf's names where `labels` maps them, so the configuration needs no labels.

    Raises:
        ModelError: the name is taken or no name, the model cannot be used in that role or runs at one size only, or the
            folder takes no file.
    """
    manifest = read_manifest(folder)
    if not MODEL_NAME.fullmatch(name) or name.endswith(RESERVED_SUFFIXES):
        raise ModelError(
            f"{name!r} is no name for a model. Remedy: letters, digits, '.', '_' and '-', and none of the endings "
            f"{', '.join(RESERVED_SUFFIXES)}."
        )
    if any(entry.name == name for entry in manifest.models):
        raise ModelError(f"the name {name!r} is registered already. Remedy: choose another one.")
    own = path if "/" in str(path) else Path(".") / path
    found = resolve_model(f"./{own}" if not own.is_absolute() else str(own), role, "auto", folder, labels=labels)
    if found.path.suffix == ".engine":
        raise ModelError(
            f"the engine {str(path)!r} fits one machine only and is not registered. Remedy: name its path in "
            "inference.models, or register the weights that it was built from."
        )
    models = Models(person=str(found.path)) if role == "person" else Models(ppe=str(found.path))
    mapped = Labels(person=labels) if role == "person" else Labels(ppe=labels)
    detector = load_detector(Inference(device="cpu", models=models, labels=mapped), cache, folder, role)
    # Of every camera's shape, and not of one: a model that was exported for one size blinds the cameras of another.
    for spec in get_warmup_specs(role, get_ring_sizes(Config().analysis_width)):
        if error := detector.try_warm(spec):
            raise error
    parts = [found.path, found.path.with_suffix(".bin")] if found.path.suffix == ".xml" else [found.path]
    targets = [folder / f"{name}{part.suffix}" for part in parts]
    new = [target for part, target in zip(parts, targets) if not is_same_file(part, target)]
    for target in new:
        if target.exists():
            raise ModelError(
                f"{str(target)!r} exists already and is not replaced. Remedy: choose another --name than {name!r}, or "
                "move that file away."
            )
    names = map_class_names(detector.backend.names, found)
    assert set(names) & set(CLASSES_BY_ROLE[role]), "the detector has checked it"
    try:
        files = install_files(parts, targets)
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
            variants=(Variant(runtime=found.runtime, files=files),),
        )
        write_manifest(Manifest((*manifest.models, entry)), folder)
    except ModelError:
        for target in new:
            target.unlink(missing_ok=True)
        raise
    return entry
