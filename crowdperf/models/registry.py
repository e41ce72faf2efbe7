"""Model registry: models/manifest.json with its hashes, and the operator's own weights.

A registered file is loaded only if its sha256 matches. Otherwise counts could not be reproduced, and a `.pt` file is a
pickle.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from crowdperf.primitives.atomic_file import replace_file, write_file
from crowdperf.primitives.digest import compute_file_digest
from crowdperf.settings.base import CLASSES
from crowdperf.settings.ppe import PPE_CLASSES

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"
RuntimeName = Literal["torch", "openvino"]
Precision = Literal["full", "int8"]
Role = Literal["person", "ppe"]
MODEL_SUFFIXES = (".pt", ".xml", ".onnx", ".engine")
"""A name with one of these suffixes, or with a slash, is a path."""
CLASSES_BY_ROLE: dict[Role, tuple[str, ...]] = {"person": CLASSES, "ppe": PPE_CLASSES}
CPUINFO_PATH = Path("/proc/cpuinfo")
WIDE_CPU_FLAGS = frozenset({"avx512f", "avx_ne_convert"})
"""Processors with these flags run OpenVINO with AVX-512, bf16 or fp16; int8 was not measured there."""


class ModelError(Exception):
    """Report a model that cannot be used; the message names the file and the remedy."""


class ModelFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a variant."""

    file: str
    """Relative to the manifest's folder."""
    sha256: str


class Variant(Struct, frozen=True, forbid_unknown_fields=True):
    """The model in the form of one runtime; the first file is opened, the others belong to it."""

    runtime: RuntimeName
    files: Annotated[tuple[ModelFile, ...], Meta(min_length=1)]
    exported_by: str = ""
    precision: Precision = "full"
    """`full` is floating point, in the width that the processor prefers."""


class ModelEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the manifest."""

    name: str
    file: str
    """The weights from which every other variant is exported."""
    sha256: str
    task: str
    role: Role
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    """Width and height it was trained at, pixels; any multiples of 32 work."""
    licence: str
    source: str
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]

    @property
    def all_files(self) -> tuple[ModelFile, ...]:
        """Weights and files of all variants, each once, sorted by name."""
        files = {ModelFile(self.file, self.sha256), *(file for variant in self.variants for file in variant.files)}
        return tuple(sorted(files, key=lambda file: file.file))


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """Content of models/manifest.json."""

    models: tuple[ModelEntry, ...]


class ModelPath(Struct, frozen=True):
    """A checked model file for one runtime."""

    name: str
    runtime: RuntimeName
    path: Path
    classes: tuple[str, ...] | None
    """None for own weights: the runtime reads the names from the model."""
    precision: Precision | Literal["own"]
    """`own` stands for own weights, in the precision in which they were written."""
    role: Role = "person"
    labels: dict[str, str] = {}
    """Class name of the model -> class of crowdperf, where they differ."""


def read_manifest(folder: Path = MODELS_FOLDER) -> Manifest:
    """Read models/manifest.json; raise ModelError if it is invalid or has two models of one name."""
    path = folder / "manifest.json"
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelError(
            f"cannot read the model registry {str(path)!r}: {error.strerror}. "
            "Remedy: restore it (`git checkout -- models`), or start crowdperf from a complete clone."
        ) from None
    except msgspec.DecodeError as error:
        raise ModelError(
            f"{str(path)!r} is not a valid registry: {error}. Remedy: correct it, or restore it."
        ) from None
    names = [entry.name for entry in manifest.models]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ModelError(
            f"{str(path)!r} has more than one model called {duplicates[0]!r}. Remedy: rename or remove all but one."
        )
    return manifest


def write_manifest(manifest: Manifest, folder: Path = MODELS_FOLDER) -> None:
    """Write models/manifest.json, indented, by atomic rename; raise ModelError if that fails."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    with _report_unwritable(folder):
        write_file(folder / "manifest.json", text)


def install_files(sources: Sequence[Path], targets: Sequence[Path]) -> tuple[ModelFile, ...]:
    """Copy each source over its target, and return the targets with their hashes.

    All files are copied before the first one is renamed. A source that is its own target is left alone.

    Raises:
        ModelError: a file cannot be read or written. If copying failed, no target has changed.
    """
    with _report_unwritable(targets[0].parent):
        with contextlib.ExitStack() as renamed_together:
            for source, target in zip(sources, targets):
                if not is_same_file(source, target):
                    shutil.copyfile(source, renamed_together.enter_context(replace_file(target)))
        return tuple(describe_file(target) for target in targets)


def is_same_file(source: Path, target: Path) -> bool:
    """Check whether both paths are the same file."""
    return target.exists() and source.samefile(target)


def describe_file(path: Path) -> ModelFile:
    """Build the manifest's entry of a file in its folder."""
    return ModelFile(path.name, compute_file_digest(path))


@contextlib.contextmanager
def _report_unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"cannot write to the model registry {str(folder)!r}: {error.strerror}. "
            "Remedy: free space there, or run the command as the user who owns the folder."
        ) from None


@contextlib.contextmanager
def report_missing_package(user: str, remedy: str = ". Remedy: `pip install -r requirements.txt`.") -> Iterator[None]:
    """Raise ModelError if an import in the block fails; `user` is what needs the package."""
    try:
        yield
    except ImportError as error:
        raise ModelError(f"{user} needs {error.name}{remedy}") from None


def check_file(folder: Path, file: ModelFile) -> Path:
    """Return the path of a registered file; raise ModelError if it is missing, unreadable or altered."""
    path = folder / file.file
    try:
        digest = compute_file_digest(path)
    except OSError as error:
        raise ModelError(
            f"the model file {str(path)!r} cannot be read: {error.strerror}. "
            "Remedy: restore it (`git checkout -- models`), or name another model in inference.models."
        ) from None
    if digest != file.sha256:
        raise ModelError(
            f"the model file {str(path)!r} has sha256 {digest}, but manifest.json says {file.sha256}. Remedy: restore "
            "the file; if you changed it on purpose, give its path in inference.models instead of the registered name."
        )
    return path


def resolve_model(
    name: str,
    role: Role,
    runtime: RuntimeName | Literal["auto"],
    folder: Path = MODELS_FOLDER,
    precisions: tuple[Precision, ...] = ("full",),
    labels: dict[str, str] | None = None,
) -> ModelPath:
    """Find a model by name or path, and check its hash if it is registered.

    Args:
        name: a registered name, or the path of own weights (with a slash or a suffix).
        role: the role to use it in.
        runtime: "auto" prefers OpenVINO for a registered model; own weights use the runtime of their format.
        folder: the registry.
        precisions: acceptable precisions of a registered model, the preferred one first.
        labels: class name of the model -> class of crowdperf.

    Returns:
        The file to open, and its runtime.

    Raises:
        ModelError: unknown, missing, altered, for another role, or not available for that runtime.
    """
    if "/" in name or name.endswith(MODEL_SUFFIXES):
        return msgspec.structs.replace(_resolve_path(Path(name), runtime, precisions), role=role, labels=labels or {})
    entries = {entry.name: entry for entry in read_manifest(folder).models}
    if name not in entries:
        known = ", ".join(entry.name for entry in entries.values() if entry.role == role)
        raise ModelError(
            f"the model {name!r} is not in {str(folder / 'manifest.json')!r} (known for {role!r}: {known}). "
            f"Remedy: set inference.models.{role} to one of these, or to the path of your weights ('./best.pt')."
        )
    entry = entries[name]
    if entry.role != role:
        raise ModelError(
            f"the model {name!r} (file {entry.file!r}) is registered for the role {entry.role!r}, not {role!r}. "
            f"Remedy: set inference.models.{role} to a model of that role."
        )
    order: tuple[RuntimeName, ...] = ("openvino", "torch") if runtime == "auto" else (runtime,)
    variants = {(variant.runtime, variant.precision): variant for variant in entry.variants}
    for key in itertools.product(order, precisions):
        if key in variants:
            paths = [check_file(folder, file) for file in variants[key].files]
            return ModelPath(name, key[0], paths[0], entry.classes, key[1], role, labels or {})
    if precisions == ("int8",):
        raise ModelError(
            f"the model {name!r} (file {entry.file!r}) has no int8 variant for {runtime!r}. Remedy: set "
            "inference.precision to 'full' or 'auto', or inference.runtime to 'openvino' if it is 'torch'."
        )
    raise ModelError(
        f"the model {name!r} (file {entry.file!r}) has no variant for {runtime!r}. "
        f"Remedy: run `python -m crowdperf models export {name}`, or set inference.runtime to 'torch'."
    )


def _resolve_path(path: Path, runtime: RuntimeName | Literal["auto"], precisions: tuple[Precision, ...]) -> ModelPath:
    """Resolve own weights: `.pt` or `.engine` for torch; a folder, `.xml` or `.onnx` for OpenVINO."""
    if precisions == ("int8",):
        raise ModelError(
            f"inference.precision 'int8' does not fit the model {str(path)!r}: own weights run in the precision they "
            "were exported with. Remedy: set inference.precision to 'auto'."
        )
    if not path.exists():
        raise ModelError(
            f"the model {str(path)!r} does not exist. Remedy: correct the path in inference.models "
            "(relative paths start at the folder crowdperf was started in)."
        )
    required: RuntimeName = "torch" if path.suffix in (".pt", ".engine") else "openvino"
    if path.is_dir():
        xml_files = sorted(path.glob("*.xml"))
        if len(xml_files) != 1:
            raise ModelError(
                f"the model folder {str(path)!r} holds {len(xml_files)} .xml files instead of one. "
                "Remedy: name an OpenVINO export of one model, or its .xml file."
            )
        path = xml_files[0]
    elif path.suffix not in MODEL_SUFFIXES:
        raise ModelError(
            f"the model {str(path)!r} is none of: Ultralytics weights (.pt), ONNX (.onnx), an OpenVINO model (.xml "
            "or its folder), a TensorRT engine (.engine). Remedy: `yolo export model=... format=openvino dynamic=True`."
        )
    if runtime not in ("auto", required):
        raise ModelError(
            f"the model {str(path)!r} belongs to the runtime {required!r}, but inference.runtime is {runtime!r}. "
            "Remedy: set inference.runtime to 'auto'."
        )
    return ModelPath(name=path.stem, runtime=required, path=path, classes=None, precision="own")


def map_class_names(names: tuple[str, ...], model: ModelPath) -> tuple[str, ...]:
    """Replace the model's class names by the labels that the configuration gives.

    Ultralytics writes underscores for spaces into an OpenVINO export. There a label matches both spellings, so that the
    same labels fit the weights and their export.

    Raises:
        ModelError: a label does not name a class of the model.
    """
    labels = {}
    for theirs, ours in model.labels.items():
        exported = theirs.replace(" ", "_") if model.runtime == "openvino" else theirs
        name = theirs if theirs in names else exported
        if name not in names:
            raise ModelError(
                f"inference.labels.{model.role} maps {theirs!r}, which the model {str(model.path)!r} does not know; "
                f"its classes: {', '.join(names[:20])}. Remedy: correct the name."
            )
        labels[name] = ours
    return tuple(labels.get(name, name) for name in names)


def build_class_map(names: tuple[str, ...], model: ModelPath) -> NDArray[np.int16]:
    """Map each class of the model to an index into `CLASSES_BY_ROLE`, or to -1 if it is ignored.

    Raises:
        ModelError: a label names no class of the model or of crowdperf, or no class is left.
    """
    system = CLASSES_BY_ROLE[model.role]
    for name, label in model.labels.items():
        if label not in system:
            raise ModelError(
                f"inference.labels.{model.role} maps {name!r} to {label!r}, which is not a class of crowdperf "
                f"({', '.join(system)}). Remedy: map it to one of these."
            )
    class_map = np.array(
        [system.index(name) if name in system else -1 for name in map_class_names(names, model)], dtype=np.int16
    )
    if not (class_map >= 0).any():
        own_names = ", ".join(names[:10]) or "none"
        raise ModelError(
            f"the model {str(model.path)!r} knows none of crowdperf's classes ({', '.join(system)}); its own: "
            f"{own_names}. Remedy: use a detection model with at least one of them, or name them in "
            f"inference.labels.{model.role}."
        )
    return class_map


def prefers_int8(cpuinfo: str) -> bool:
    """Check the content of /proc/cpuinfo for AVX2 and nothing wider, where int8 was measured faster."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    flags = line.partition(":")[2].split()
    return "avx2" in flags and WIDE_CPU_FLAGS.isdisjoint(flags)


def read_cpuinfo() -> str:
    """Read /proc/cpuinfo; "" if there is none."""
    try:
        return CPUINFO_PATH.read_text(encoding="utf-8")
    except OSError:
        return ""
