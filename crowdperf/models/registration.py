"""Register models: the operator's own, their export to OpenVINO, and that form in int8, quantised with NNCF.

Exports are repeatable: equal versions of the libraries, and equal calibration pictures, write the same bytes. The
manifest records the versions. Quantisation leaves the end of the head (box decoding, class scores) in floating point.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.models import registry
from crowdperf.models.loader import build_settings, get_warmup_specs, load_detector, prepare_ultralytics
from crowdperf.models.preprocess import letterbox, place_in_ring
from crowdperf.models.registry import MODELS_FOLDER, Manifest, ModelEntry, ModelError, ModelFile, Role, Variant
from crowdperf.settings.config import Config
from crowdperf.settings.process_config import get_ring_sizes

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED_SUFFIXES = (*registry.MODEL_SUFFIXES, "-int8")
"""Names must not end with these: file suffixes, and the suffix that `models export --int8` appends."""
RING_SIZES = ((640, 360), (640, 640), (640, 480))
"""Calibration uses these ring sizes in turn, so that the ranges hold for several input shapes."""
HOLDOUT_INTERVAL = 3
"""Every third picture is held out, so that accuracy can be measured on unseen pictures."""
MIN_PICTURES = 32
NNCF_REMEDY = (
    ", which crowdperf does not install. Remedy: `pip install 'nncf>=3,<4'` in the environment that runs "
    "`models export`; running an int8 model does not need it."
)


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


def export_openvino(name: str, cache: Path, folder: Path = MODELS_FOLDER) -> tuple[Path, ...]:
    """Write `<name>.xml` and `.bin` next to the weights, and their hashes into the manifest.

    The input is dynamic in batch, height and width. Weights are stored in fp16. The output is the raw head, without
    suppression.

    Args:
        name: a registered model that has weights.
        cache: a folder for files that may be deleted at any time.
        folder: the registry.

    Returns:
        Paths of the written files.
    """
    manifest = registry.read_manifest(folder)
    entry = find_entry(manifest, name)
    if not has_weights(entry):
        raise ModelError(
            f"the model {name!r} is registered as {entry.file!r}, which cannot be exported. "
            "Remedy: export it from its .pt file with Ultralytics, and add the result."
        )
    weights = registry.check_file(folder, ModelFile(entry.file, entry.sha256))
    prepare_ultralytics(cache)
    with registry.report_missing_package(f"exporting {entry.file!r}"):
        import openvino
        import torch
        import ultralytics
    with tempfile.TemporaryDirectory(prefix="crowdperf-export-") as scratch:
        copy = Path(scratch) / weights.name
        shutil.copyfile(weights, copy)
        width, height = entry.input_size
        written = Path(
            ultralytics.YOLO(copy).export(format="openvino", dynamic=True, quantize=16, imgsz=(height, width))
        )
        suffixes = (".xml", ".bin")
        files = registry.install_files(
            [written / f"{copy.stem}{suffix}" for suffix in suffixes],
            [folder / f"{name}{suffix}" for suffix in suffixes],
        )
    versions = f"ultralytics {ultralytics.__version__}, torch {torch.__version__}, openvino {openvino.__version__}"
    _record_variant(manifest, entry, Variant(runtime="openvino", files=files, exported_by=versions), folder)
    return tuple(folder / file.file for file in files)


def find_entry(manifest: Manifest, name: str) -> ModelEntry:
    """Find the registered model of that name, or raise ModelError."""
    for entry in manifest.models:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in manifest.models)
    raise ModelError(f"the model {name!r} is not registered (known: {known}). Remedy: name one of these.")


def has_weights(entry: ModelEntry) -> bool:
    """Check whether other forms can be exported; an own OpenVINO or ONNX model has no weights."""
    return entry.file.endswith(".pt")


def list_exportable(manifest: Manifest) -> list[str]:
    """List the models that were exported before and can be exported again."""
    return [
        entry.name
        for entry in manifest.models
        if has_weights(entry) and any(variant.runtime == "openvino" for variant in entry.variants)
    ]


def _record_variant(manifest: Manifest, entry: ModelEntry, variant: Variant, folder: Path) -> None:
    """Replace the entry's variant of the same runtime and precision, and write the manifest."""
    kind = (variant.runtime, variant.precision)
    others = tuple(old for old in entry.variants if (old.runtime, old.precision) != kind)
    variants = tuple(sorted((*others, variant), key=lambda item: (item.runtime, item.precision)))
    updated = structs.replace(entry, variants=variants)
    models = tuple(updated if old.name == entry.name else old for old in manifest.models)
    registry.write_manifest(Manifest(models), folder)


def quantize_int8(name: str, folders: list[Path], folder: Path = MODELS_FOLDER) -> tuple[Path, ...]:
    """Write `<name>-int8.xml` and `.bin` next to the full form, and their hashes into the manifest.

    Args:
        name: a registered model that has an OpenVINO form.
        folders: folders of .jpg pictures for the calibration.
        folder: the registry.

    Returns:
        Paths of the written files.
    """
    manifest = registry.read_manifest(folder)
    entry = find_entry(manifest, name)
    variants = {(variant.runtime, variant.precision): variant for variant in entry.variants}
    full = variants.get(("openvino", "full"))
    if full is None:
        raise ModelError(
            f"the model {name!r} has no OpenVINO form. Remedy: run `python -m crowdperf models export {name}` first."
        )
    sources = [registry.check_file(folder, file) for file in full.files]
    pictures = list_calibration_images(folders)
    with registry.report_missing_package("quantising to int8", NNCF_REMEDY):
        import nncf
    import openvino

    core = openvino.Core()
    model = core.read_model(sources[0])
    quantised = nncf.quantize(
        model,
        nncf.Dataset(list(iter_calibration_inputs(pictures))),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(patterns=_list_head_patterns(model), types=["Sigmoid"], validate=False),
        # AVX2 without VNNI adds pairs of int8 products in 16 bits. That overflows with 8-bit weights, not with 7 bits.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    target = folder / f"{name}-int8.xml"
    openvino.save_model(quantised, target)
    files = tuple(registry.describe_file(path) for path in (target, target.with_suffix(".bin")))
    versions = f"nncf {nncf.__version__}, openvino {openvino.__version__}, {len(pictures)} pictures"
    _record_variant(manifest, entry, Variant("openvino", files, versions, "int8"), folder)
    return tuple(folder / file.file for file in files)


def list_calibration_images(folders: list[Path]) -> list[Path]:
    """List the .jpg files in name order without the held-out ones; raise ModelError for too few."""
    images = [
        path
        for folder in folders
        for index, path in enumerate(sorted(folder.glob("*.jpg")))
        if index % HOLDOUT_INTERVAL
    ]
    if len(images) < MIN_PICTURES:
        where = ", ".join(repr(str(folder)) for folder in folders) or "no folder at all"
        raise ModelError(
            f"int8 needs at least {MIN_PICTURES} .jpg pictures to calibrate with, {len(images)} usable ones are in "
            f"{where}. Remedy: give folders of pictures like your cameras' with --calibration FOLDER."
        )
    return images


def iter_calibration_inputs(pictures: list[Path]) -> Iterator[NDArray[np.float32]]:
    """Yield each picture as the model gets it: float32 (1, 3, height, width), RGB, 0..1."""
    for index, path in enumerate(pictures):
        image = cv2.imread(str(path))
        if image is None:
            raise ModelError(f"{str(path)!r} is not a picture. Remedy: take it out of the calibration folder.")
        width, height = RING_SIZES[index % len(RING_SIZES)]
        spec = RingSpec(width, height, "bgr24", image.shape[1], image.shape[0], 1, 1.0, 0)
        box = letterbox(spec)
        (picture,) = painted = box.make_canvas(1)
        box.paint(place_in_ring(image, spec).reshape(-1), picture)
        yield painted.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def _list_head_patterns(model: Any) -> list[str]:
    """List patterns of the operations at the end of the head, which stay in floating point."""
    names = [str(operation.get_friendly_name()) for operation in model.get_ordered_ops()]
    blocks = [int(block[1]) for name in names if (block := re.match(r"__module\.model\.(\d+)(?=[./]|$)", name))]
    head = rf".*model\.{max(blocks)}"
    return [rf"{head}/.*/{kind}.*" for kind in ("Add", "Sub", "Mul", "Div")] + [rf"{head}\.dfl.*"]
