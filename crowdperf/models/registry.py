"""The model registry: models/manifest.json, its hashes, and weights of the user's own.

Nothing is loaded whose sha256 differs from the manifest's: counts that nobody can reproduce are worth little, and a
`.pt` file is a pickle.

On which processors int8 is taken without being asked for. Pure but for reading /proc/cpuinfo.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from crowdperf.settings.base import CLASSES
from crowdperf.settings.ppe import PPE_CLASSES

MODELS_FOLDER = Path(__file__).resolve().parents[2] / "models"
RuntimeName = Literal["torch", "openvino"]
Precision = Literal["full", "int8"]
Role = Literal["person", "ppe"]
MODEL_SUFFIXES = (".pt", ".xml", ".onnx", ".engine")
"""What names a file, where no slash does."""
CLASSES_BY_ROLE: dict[Role, tuple[str, ...]] = {"person": CLASSES, "ppe": PPE_CLASSES}
"""The classes that crowdperf knows in each role."""


class ModelError(Exception):
    """A model cannot be used; the message names the file and the remedy."""


class ModelFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a variant."""

    file: str
    """Relative to the manifest's folder."""
    sha256: str


class Variant(Struct, frozen=True, forbid_unknown_fields=True):
    """The model in the form of one runtime; the first file is the one that is opened."""

    runtime: RuntimeName
    files: Annotated[tuple[ModelFile, ...], Meta(min_length=1)]
    exported_by: str = ""
    """Versions that wrote an exported variant."""
    precision: Precision = "full"
    """full: floating point, of whichever width the processor computes in."""


class ModelEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the manifest."""

    name: str
    file: str
    """The weights that every other variant is exported from."""
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
        """The weights and the files of all variants, each once, by name."""
        files = {ModelFile(self.file, self.sha256), *(file for variant in self.variants for file in variant.files)}
        return tuple(sorted(files, key=lambda file: file.file))


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of models/manifest.json."""

    models: tuple[ModelEntry, ...]


class ModelPath(Struct, frozen=True):
    """A model that is ready to be opened by one runtime."""

    name: str
    runtime: RuntimeName
    path: Path
    classes: tuple[str, ...] | None
    """None for a user's own weights: the runtime reads them from the model."""
    precision: Precision | Literal["own"]
    """own: a user's own weights, in whatever precision they were written."""
    role: Role = "person"
    labels: dict[str, str] = {}
    """Class name of the model -> class of crowdperf, where they differ."""


def read_manifest(folder: Path = MODELS_FOLDER) -> Manifest:
    """Decode models/manifest.json.

    Raises:
        ModelError: unreadable or malformed, or two models have one name.
    """
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
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(
            f"{str(path)!r} has more than one model called {twice[0]!r}. Remedy: rename or remove all but one of them."
        )
    return manifest


def hash_file(path: Path) -> str:
    """The hash of a file, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_file(folder: Path, file: ModelFile) -> Path:
    """The path of a registered file whose content is the registered one.

    Raises:
        ModelError: missing, unreadable, or of another hash.
    """
    path = folder / file.file
    try:
        found = hash_file(path)
    except OSError as error:
        raise ModelError(
            f"the model file {str(path)!r} cannot be read: {error.strerror}. "
            "Remedy: restore it (`git checkout -- models`), or name another model in inference.models."
        ) from None
    if found != file.sha256:
        raise ModelError(
            f"the model file {str(path)!r} has sha256 {found}, but manifest.json says {file.sha256}. Remedy: restore "
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
    """The model called `name` for a runtime, hash checked. Anything that looks like a path is a user's own model.

    With "auto", a registered model prefers OpenVINO (the caller asks for torch where CUDA is), and an own one takes the
    runtime that its format belongs to. Of the `precisions` that will do, the first that a runtime has is taken.

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
    for wanted in itertools.product(order, precisions):
        if wanted in variants:
            paths = [check_file(folder, file) for file in variants[wanted].files]
            return ModelPath(name, wanted[0], paths[0], entry.classes, wanted[1], role, labels or {})
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
    """A user's own weights: `.pt` and `.engine` for torch, an OpenVINO folder, `.xml` or `.onnx` for OpenVINO."""
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
    found: RuntimeName = "torch" if path.suffix in (".pt", ".engine") else "openvino"
    if path.is_dir():
        described = sorted(path.glob("*.xml"))
        if len(described) != 1:
            raise ModelError(
                f"the model folder {str(path)!r} holds {len(described)} .xml files instead of one. "
                "Remedy: name an OpenVINO export of one model, or its .xml file."
            )
        path = described[0]
    elif path.suffix not in MODEL_SUFFIXES:
        raise ModelError(
            f"the model {str(path)!r} is none of: Ultralytics weights (.pt), ONNX (.onnx), an OpenVINO model (.xml "
            "or its folder), a TensorRT engine (.engine). Remedy: `yolo export model=... format=openvino dynamic=True`."
        )
    if runtime not in ("auto", found):
        raise ModelError(
            f"the model {str(path)!r} belongs to the runtime {found!r}, but inference.runtime is {runtime!r}. "
            "Remedy: set inference.runtime to 'auto'."
        )
    return ModelPath(name=path.stem, runtime=found, path=path, classes=None, precision="own")


def map_class_names(names: tuple[str, ...], model: ModelPath) -> tuple[str, ...]:
    """The model's class names as crowdperf calls them where a label says so.

    On OpenVINO a label with spaces also means the name with underscores, which is what Ultralytics writes there: so the
    same labels suit the weights and their export.

    Raises:
        ModelError: a label names no class of the model.
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
    """int16 (model classes,): the index in `SYSTEM` of each class, by name or label, -1 for one that is ignored.

    Raises:
        ModelError: a label names no class of the model or of crowdperf, or no class is left.
    """
    system = CLASSES_BY_ROLE[model.role]
    for name, label in model.labels.items():
        if label not in system:
            raise ModelError(
                f"inference.labels.{model.role} maps {name!r} to {label!r}, which is no class of crowdperf "
                f"({', '.join(system)}). Remedy: map it to one of these."
            )
    wanted = np.array(
        [system.index(name) if name in system else -1 for name in map_class_names(names, model)], dtype=np.int16
    )
    if not (wanted >= 0).any():
        shown = ", ".join(names[:10]) or "none"
        raise ModelError(
            f"the model {str(model.path)!r} knows none of crowdperf's classes ({', '.join(system)}); its own: {shown}. "
            f"Remedy: use a detection model with at least one of them, or name them in inference.labels.{model.role}."
        )
    return wanted


CPUINFO_PATH = Path("/proc/cpuinfo")
WIDE_CPU_FLAGS = frozenset({"avx512f", "avx_ne_convert"})
"""Flags of processors that OpenVINO serves with AVX-512, bf16 or fp16: nothing was measured there."""


def prefers_int8(cpuinfo: str) -> bool:
    """Whether a processor is of the kind on which int8 was measured to be faster: AVX2 and nothing wider.

    Args:
        cpuinfo: content of /proc/cpuinfo, "" where there is none.
    """
    flags = _parse_flags(cpuinfo)
    return "avx2" in flags and WIDE_CPU_FLAGS.isdisjoint(flags)


def _parse_flags(cpuinfo: str) -> list[str]:
    return next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])


def read_cpuinfo() -> str:
    """Its /proc/cpuinfo, "" where there is none."""
    try:
        return CPUINFO_PATH.read_text(encoding="utf-8")
    except OSError:
        return ""
