"""Choose model file, runtime, device and precision, and load the detector of a role."""

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
from crowdperf.settings.engine import Inference, Labels, Models

GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of NVIDIA's driver, of WSL and of ROCm: without one, `auto` need not import torch to ask."""

log = logging.getLogger(__name__)


def load_detector(
    settings: Inference,
    cache: Path,
    folder: Path = MODELS_FOLDER,
    role: Role = "person",
    confidence: float = 0.0,
    specs: Sequence[RingSpec] = (),
) -> Detector:
    """The detector of one role that the configuration asks for.

    Args:
        settings: the `inference` block.
        cache: a folder for files that may be deleted at any time.
        folder: of the model registry.
        role: person (with vehicles), or ppe.
        confidence: detections at or below it are dropped; 0 takes the one in `settings`.
        specs: rings that it is to be ready for; a model that can run at one of them at least will do.

    Raises:
        ModelError: the model, the runtime or the device cannot be had; the message names the remedy.
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
    least = confidence or settings.confidence
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
            "inference.precision 'auto' takes int8: this processor has neither bf16 nor AVX-512, where int8 was "
            "measured 1.6 times as fast. Its effect on counts: docs/models.md, INT8. 'full' turns it off."
        )

    def opened(on_device: bool) -> Detector:
        return Detector(_open_backend(model, settings, cache, on_device, least), model.name, model.precision)

    if not cuda or model.runtime != "torch":
        detector = opened(False)
        detector.warm(specs)
        return detector
    from crowdperf.models.self_test import verify_device

    try:
        detector = opened(True)
        verify_device(detector, lambda: opened(False))
        detector.warm(specs)
        return detector
    except (RuntimeError, AssertionError) as error:
        _report_cuda_failure(model, settings.device, error)
    return load_detector(structs.replace(settings, device="cpu"), cache, folder, role, confidence, specs)


def _report_cuda_failure(model: ModelPath, device: str, error: Exception) -> None:
    """Tell that CUDA is there and does not work: a driver or a device too old for torch, no memory left on it.

    With `auto` the processor takes over; asked for by name, it is an error, and tried again.

    Raises:
        ModelError: CUDA was asked for.
    """
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    what = f"the CUDA device cannot run the model {model.name!r}: {reason}."
    check = "Remedy: check `nvidia-smi` and that this torch knows the device (`python -m torch.utils.collect_env`)"
    if device == "cuda":
        raise ModelError(f"{what} {check}, or set inference.device to 'auto'.") from error
    instead = "The processor is used instead."
    log.error("%s %s %s and restart inference, or set inference.device to 'cpu'.", what, instead, check)


def _list_precisions(requested: Literal["auto", "full", "int8"], runtime: str, role: Role) -> tuple[Precision, ...]:
    """Which precisions of a registered model will do, the preferred one first."""
    if role == "ppe":
        # Once a second costs little, and nothing was measured.
        return ("full",)
    if requested != "auto":
        return (requested,)
    if runtime == "torch":
        return ("full",)
    return ("int8", "full") if prefers_int8(read_cpuinfo()) else ("full",)


def _is_openvino_file(name: str) -> bool:
    """A user's own OpenVINO or ONNX model runs on the processor even where CUDA is."""
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
    """Whether to compute on CUDA.

    Raises:
        ModelError: it is asked for and absent.
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
    """Keep Ultralytics from installing, writing outside our folders and, unless `online`, downloading.

    To be called before it is imported.
    """
    folder = cache / "ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["YOLO_CONFIG_DIR"] = str(folder)
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_OFFLINE"] = "false" if online else "true"


def get_warmup_specs(role: Role, sizes: Sequence[tuple[int, int]] = ()) -> list[RingSpec]:
    """The pictures that the model of a role is to be ready for at once; `sizes` are those of the site's rings."""
    return [PPE_CROP_SPEC] if role == "ppe" else [make_warmup_spec(width, height) for width, height in sizes]


def build_settings(name: str, role: Role, precision: str = "auto", labels: dict[str, str] | None = None) -> Inference:
    """The `inference` block that has this model in this role."""
    models = Models(person=name) if role == "person" else Models(ppe=name)
    mapped = Labels(person=labels or {}) if role == "person" else Labels(ppe=labels or {})
    return Inference(models=models, labels=mapped, precision=precision)  # type: ignore[arg-type]
