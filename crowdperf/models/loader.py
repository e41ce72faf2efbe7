"""Choose model file, runtime, device and precision, and load the detector for a role.

A CUDA device must first compute what the processor computes. An old driver or card, kernels that do not fit it, or too
little memory show at the first batches only. A device that computes wrong results would silently count wrong.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from msgspec import structs

from crowdperf.frames.ring import RingSpec
from crowdperf.models import registry
from crowdperf.models.detector import PPE_CROP_SPEC, Detector, InferenceBackend, make_warmup_spec
from crowdperf.models.postprocess import Detections, compute_iou_matrix
from crowdperf.models.preprocess import load_ring_frame
from crowdperf.models.registry import MODELS_FOLDER, ModelError, ModelPath, Precision, Role
from crowdperf.settings.engine import Inference, Labels, Models

GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of NVIDIA's driver, WSL and ROCm. If none exists, `auto` does not import torch to look for a device."""
PUBLISHED_WEIGHTS = re.compile(r"yolo(v[3-9]|v10|1[12]|26)[a-z]\w*\.pt")
TEST_PICTURE_NAMES = ("bus.jpg", "zidane.jpg")
"""A street and a portrait of the ultralytics package, which the torch runtime needs anyway."""
TEST_SIZE = (640, 384)
MIN_SURE_SCORE = 0.5
"""A detection of one side with this score must exist on the other side, with any score."""
MIN_TEST_IOU = 0.5
"""Overlap of two equal detections. Half precision moves a box by a pixel or two, a broken device by far more."""

log = logging.getLogger(__name__)


def load_detector(
    settings: Inference,
    cache: Path,
    folder: Path = MODELS_FOLDER,
    role: Role = "person",
    confidence: float = 0.0,
    specs: Sequence[RingSpec] = (),
) -> Detector:
    """Load the detector that the configuration selects for one role, or raise ModelError.

    Args:
        settings: the `inference` block.
        cache: a folder for files that may be deleted at any time.
        folder: the model registry.
        role: person (with vehicles), or ppe.
        confidence: detections at or below it are dropped; 0 uses the value in `settings`.
        specs: rings to prepare for; the model must run at one of them at least.

    Returns:
        A detector that is ready for `specs`.
    """
    settings = structs.replace(settings, confidence=confidence or settings.confidence)
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
    # An own OpenVINO or ONNX model runs on the processor even if CUDA is present.
    is_openvino = name.endswith((".xml", ".onnx")) or ("/" in name and Path(name).is_dir())
    if runtime == "auto" and cuda and not is_openvino:
        runtime = "torch"
    model = registry.resolve_model(
        name, role, runtime, folder, _list_precisions(settings.precision, runtime, role), labels
    )
    if model.precision == "int8" and settings.precision == "auto":
        log.info(
            "inference.precision 'auto' selects int8: this processor has neither bf16 nor AVX-512, and int8 was "
            "measured 1.6 times as fast there. Its effect on counts: docs/models.md, INT8. 'full' turns it off."
        )

    def open_detector(on_device: bool) -> Detector:
        backend = _open_backend(model, settings, cache, on_device)
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
    """Report a CUDA device that fails: too old for torch, or out of memory. Raise if it was required."""
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
    return ("int8", "full") if registry.prefers_int8(registry.read_cpuinfo()) else ("full",)


def _open_backend(model: ModelPath, settings: Inference, cache: Path, cuda: bool) -> InferenceBackend:
    if model.runtime == "openvino":
        from crowdperf.models.openvino_backend import OpenvinoBackend

        return OpenvinoBackend(model, settings, cache)
    prepare_ultralytics(cache)
    remedy = (
        ", which is not installed. Remedy: `pip install -r requirements.txt`, or use the OpenVINO form of the model "
        "(`yolo export format=openvino dynamic=True`)."
    )
    with registry.report_missing_package(f"the model {str(model.path)!r}", remedy):
        for package in ("torch", "torchvision", "ultralytics"):
            importlib.import_module(package)
    from crowdperf.models.torch_backend import TorchBackend

    return TorchBackend(model, settings, "cuda" if cuda else "cpu")


def _should_use_cuda(device: str, cache: Path) -> bool:
    """Check whether to compute on CUDA; raise ModelError if it is requested and absent."""
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


def is_published(name: str) -> bool:
    """Check for a bare name of published weights; a local file of that name takes precedence."""
    return PUBLISHED_WEIGHTS.fullmatch(name) is not None and not Path(name).exists()


def download_weights(name: str, cache: Path, allowed: bool) -> Path:
    """Return the file of published weights, downloading it if necessary, or raise ModelError.

    Args:
        name: such as `yolo11n.pt`.
        cache: the folder of earlier downloads.
        allowed: whether the operator permits downloads.

    Returns:
        Path of the weights below `cache`.
    """
    target = cache / "weights" / name
    if target.is_file():
        return target
    if not allowed:
        raise ModelError(
            f"the weights {name!r} are published by Ultralytics but not on this machine, and downloads are off. "
            f"Remedy: set inference.downloads to true, or put the file at {str(target)!r}."
        )
    with registry.report_missing_package(f"downloading {name!r}"):
        from ultralytics.utils.downloads import attempt_download_asset
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


class DeviceMismatchError(RuntimeError):
    """Report that the device and the processor detect different things in the same picture."""


def verify_device(device: Detector, make_reference: Callable[[], Detector]) -> None:
    """Run known pictures in batches that overlap as in live operation, and compare with the processor.

    Raises:
        DeviceMismatchError: the detections differ.
        RuntimeError: the device cannot compute; the text is torch's.
    """
    module = importlib.util.find_spec("ultralytics")
    assert module is not None, "the torch runtime requires it"
    assert module.origin is not None
    pictures = [Path(module.origin).parent / "assets" / name for name in TEST_PICTURE_NAMES]
    frames, specs = zip(*(load_ring_frame(picture, TEST_SIZE) for picture in pictures))
    batches = [([frames[0]], [specs[0]]), (frames, specs), (frames[::-1], specs[::-1])]
    actual: list[Detections] = []
    for number, batch in enumerate(batches):
        device.load(*batch)
        device.start()
        if number:
            actual += device.finish(batches[number - 1][1])
    actual += device.finish(batches[-1][1])
    try:
        street, portrait = make_reference().detect_batch(frames, specs)
    except ModelError:
        # A TensorRT engine has no form for the processor.
        return
    for ours, theirs in zip(actual, (street, street, portrait, portrait, street), strict=True):
        if count_missing(ours, theirs) or count_missing(theirs, ours):
            raise DeviceMismatchError("its detections differ from those of the processor in the same pictures")


def count_missing(actual: Detections, expected: Detections) -> int:
    """Count the sure detections of `expected` that no detection in `actual` matches."""
    count = 0
    for index in np.flatnonzero(expected.scores >= MIN_SURE_SCORE).tolist():
        candidates = actual.boxes[actual.classes == expected.classes[index]]
        count += not (compute_iou_matrix(expected.boxes[index : index + 1], candidates) >= MIN_TEST_IOU).any()
    return count
