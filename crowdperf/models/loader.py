"""Choose model file, runtime, device and precision, and load the detector for a role."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import structs

from crowdperf.frames.ring import RingSpec
from crowdperf.models.detector import PPE_CROP_SPEC, Detector, InferenceBackend, make_warmup_spec
from crowdperf.models.install import download_weights, is_published
from crowdperf.models.registry import (
    MODELS_FOLDER,
    ModelError,
    ModelPath,
    Precision,
    Role,
    prefers_int8,
    read_cpuinfo,
    resolve_model,
)
from crowdperf.models.self_test import verify_device
from crowdperf.settings.engine import Inference, Labels, Models

GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of NVIDIA's driver, WSL and ROCm. If none exists, `auto` does not import torch to look for a device."""

log = logging.getLogger(__name__)


def load_detector(
    settings: Inference,
    cache: Path,
    folder: Path = MODELS_FOLDER,
    role: Role = "person",
    confidence: float = 0.0,
    specs: Sequence[RingSpec] = (),
) -> Detector:
    """Load the detector that the configuration selects for one role.

    Args:
        settings: the `inference` block.
        cache: a folder for files that may be deleted at any time.
        folder: the model registry.
        role: person (with vehicles), or ppe.
        confidence: detections at or below it are dropped; 0 uses the value in `settings`.
        specs: rings to prepare for; the model must run at one of them at least.

    Returns:
        A detector that is ready for `specs`.

    Raises:
        ModelError: model, runtime or device is not available; the message names the remedy.
    """
    if settings.device == "cuda" and settings.runtime == "openvino":
        raise ModelError(
            "inference.device 'cuda' does not fit inference.runtime 'openvino', which runs on the processor. "
            "Remedy: set one of them to 'auto'."
        )
    if settings.precision == "int8" and (settings.device == "cuda" or settings.runtime == "torch"):
        raise ModelError(
            "inference.precision 'int8' runs on OpenVINO and the processor, but inference.device is "
            f"{settings.device!r} and inference.runtime {settings.runtime!r}. Remedy: set precision to 'auto'."
        )
    cuda = settings.runtime != "openvino" and settings.precision != "int8" and _should_use_cuda(settings.device, cache)
    runtime = settings.runtime
    name, labels = getattr(settings.models, role), getattr(settings.labels, role)
    if is_published(name):
        prepare_ultralytics(cache, online=settings.downloads)
        name = str(download_weights(name, cache, settings.downloads))
    if runtime == "auto" and cuda and not _is_openvino_file(name):
        runtime = "torch"
    model = resolve_model(name, role, runtime, folder, _list_precisions(settings.precision, runtime, role), labels)
    if model.precision == "int8" and settings.precision == "auto":
        log.info(
            "inference.precision 'auto' selects int8: this processor has neither bf16 nor AVX-512, and int8 was "
            "measured 1.6 times as fast there. Its effect on counts: docs/models.md, INT8. 'full' turns it off."
        )

    def open_detector(on_device: bool) -> Detector:
        backend = _open_backend(model, settings, cache, on_device, confidence or settings.confidence)
        return Detector(backend, model.name, model.precision)

    if not cuda or model.runtime != "torch":
        detector = open_detector(False)
        detector.warm(specs)
        return detector
    try:
        detector = open_detector(True)
        verify_device(detector, lambda: open_detector(False))
        detector.warm(specs)
        return detector
    except (RuntimeError, AssertionError) as error:
        _report_cuda_failure(model, settings.device, error)
    return load_detector(structs.replace(settings, device="cpu"), cache, folder, role, confidence, specs)


def _report_cuda_failure(model: ModelPath, device: str, error: Exception) -> None:
    """Report a CUDA device that does not work: driver or device too old for torch, or out of memory.

    Raises:
        ModelError: inference.device is `cuda`. With `auto` the caller uses the processor instead.
    """
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    failure = f"the CUDA device cannot run the model {model.name!r}: {reason}."
    remedy = "Remedy: check `nvidia-smi` and that this torch knows the device (`python -m torch.utils.collect_env`)"
    if device == "cuda":
        raise ModelError(f"{failure} {remedy}, or set inference.device to 'auto'.") from error
    fallback = "The processor is used instead."
    log.error("%s %s %s and restart inference, or set inference.device to 'cpu'.", failure, fallback, remedy)


def _list_precisions(requested: Literal["auto", "full", "int8"], runtime: str, role: Role) -> tuple[Precision, ...]:
    """List the acceptable precisions of a registered model, the preferred one first."""
    if role == "ppe":
        # PPE runs once a second, and the accuracy of int8 was not measured for it.
        return ("full",)
    if requested != "auto":
        return (requested,)
    if runtime == "torch":
        return ("full",)
    return ("int8", "full") if prefers_int8(read_cpuinfo()) else ("full",)


def _is_openvino_file(name: str) -> bool:
    """Check for an own OpenVINO or ONNX model, which runs on the processor even if CUDA is present."""
    return name.endswith((".xml", ".onnx")) or ("/" in name and Path(name).is_dir())


def _open_backend(
    model: ModelPath, settings: Inference, cache: Path, cuda: bool, confidence: float
) -> InferenceBackend:
    if model.runtime == "openvino":
        from crowdperf.models.openvino_backend import OpenvinoBackend

        return OpenvinoBackend(model, confidence, settings.iou, settings.threads, cache)
    _require_torch(model.path, cache)
    from crowdperf.models.torch_backend import TorchBackend

    device = "cuda" if cuda else "cpu"
    return TorchBackend(model, confidence, settings.iou, settings.threads, device)


def _should_use_cuda(device: str, cache: Path) -> bool:
    """Check whether to compute on CUDA.

    Raises:
        ModelError: CUDA is requested and absent.
    """
    if device == "cpu" or (device == "auto" and not any(Path(node).exists() for node in GPU_DEVICE_FILES)):
        return False
    prepare_ultralytics(cache)
    try:
        import torch
    except ImportError:
        present = False
    else:
        present = bool(torch.cuda.is_available())
    if device == "cuda" and not present:
        raise ModelError(
            "inference.device is 'cuda', but torch finds no CUDA device. Remedy: check `nvidia-smi` and that torch is "
            "installed (`pip install -r requirements.txt`), or set inference.device to 'auto'."
        )
    return present


def _require_torch(path: Path, cache: Path) -> None:
    prepare_ultralytics(cache)
    try:
        import torch
        import torchvision
        import ultralytics
    except ImportError as error:
        raise ModelError(
            f"the model {str(path)!r} needs {error.name}, which is not installed. Remedy: `pip install -r "
            "requirements.txt`, or use the OpenVINO form of the model (`yolo export format=openvino dynamic=True`)."
        ) from None
    del torch, torchvision, ultralytics


def prepare_ultralytics(cache: Path, online: bool = False) -> None:
    """Keep Ultralytics from installing, writing outside `cache` and, unless `online`, downloading.

    Call this before Ultralytics is imported.
    """
    folder = cache / "ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_OFFLINE"] = "false" if online else "true"


def get_warmup_specs(role: Role, sizes: Sequence[tuple[int, int]] = ()) -> list[RingSpec]:
    """List the geometries that a role's model must be ready for; `sizes` are those of the site's rings."""
    return [PPE_CROP_SPEC] if role == "ppe" else [make_warmup_spec(width, height) for width, height in sizes]


def build_settings(name: str, role: Role, precision: str = "auto", labels: dict[str, str] | None = None) -> Inference:
    """Build the `inference` block that selects a model.

    Args:
        name: registered name, or path of own weights.
        role: person (with vehicles), or ppe.
        precision: "auto", "full" or "int8".
        labels: class name of the model -> class of crowdperf.

    Returns:
        Settings with this model in this role; everything else is default.
    """
    models = Models(person=name) if role == "person" else Models(ppe=name)
    mapped = Labels(person=labels or {}) if role == "person" else Labels(ppe=labels or {})
    return Inference(models=models, labels=mapped, precision=precision)  # type: ignore[arg-type]
