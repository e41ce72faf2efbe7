"""The detector: ring frames in, boxes of the source picture out, whichever runtime computes them.

It is synchronous and knows no process, clock or stream, so the inference process, the offline replay and the tests use
the same object.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from crowdperf.frames.ring import RingSpec
from crowdperf.inference.fetch import download_weights, is_published
from crowdperf.inference.letterbox import Letterbox, letterbox, to_source
from crowdperf.inference.nms import Detections
from crowdperf.inference.pixels import PixelFormat
from crowdperf.inference.precision import prefers_int8, read_cpuinfo
from crowdperf.inference.registry import MODELS_FOLDER, ModelError, ModelPath, Precision, Role, resolve_model
from crowdperf.inference.stages import StageTimings
from crowdperf.settings import engine

GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files of NVIDIA's driver, of WSL and of ROCm: without one, `auto` need not import torch to ask."""

log = logging.getLogger(__name__)


class InferenceBackend(Protocol):
    """What computes: OpenVINO on the processor, or torch."""

    name: str
    device: str
    max_batch: int
    """Frames that one `load` takes; more bring no speed."""
    pins: bool
    """Whether `pin` does something, which needs the ring mapped for writing."""
    overlaps: bool
    """Whether the next batch may be loaded and started before the one before is finished."""
    names: tuple[str, ...]
    """The model's own class names, in its order."""
    stages: StageTimings
    """Where its time goes: copy, preprocess, infer, postprocess."""

    def prepare(self, box: Letterbox, pix_fmt: PixelFormat) -> None:
        """Make everything that frames of this geometry need; returns when it is there."""

    def ready(self, box: Letterbox, pix_fmt: PixelFormat) -> bool:
        """Whether `load` takes this geometry without delay; else begin to `prepare` for it, beside the work."""

    def load(self, frames: Sequence[NDArray[np.uint8]], pix_fmt: PixelFormat, box: Letterbox) -> None:
        """Take ring frames of one geometry, at most `max_batch`; their memory is free again when this returns."""

    def start(self) -> None:
        """Begin to compute the loaded frames."""

    def finish(self) -> list[Detections]:
        """Detections of the frames that were started first; boxes in pixels of the model input."""

    def pin(self, buffer: NDArray[np.uint8]) -> None:
        """Page-lock a ring's mapping for the device."""

    def unpin(self, buffer: NDArray[np.uint8]) -> None:
        """Undo `pin`, before the mapping is closed."""

    def empty_cache(self) -> None:
        """Give unused device memory back (CUDA_EMPTY_EVERY)."""


class Detector:
    """One model on one runtime."""

    def __init__(self, backend: InferenceBackend, model: str, precision: str) -> None:
        self.backend = backend
        self.model = model
        self.precision = precision
        """ "full", "int8", or "own" for a user's own weights."""

    @property
    def description(self) -> str:
        """Device, runtime and precision, for people."""
        return f"{self.backend.device}, {self.backend.name}, {self.precision}"

    def detect(self, frames: Sequence[NDArray[np.uint8]], spec: RingSpec) -> list[Detections]:
        """Detections of frames of one camera.

        Args:
            frames: each uint8 (spec.frame_bytes,), as `FrameReader.read` fills it.
            spec: the ring's geometry.

        Returns:
            Per frame (boxes float32 (n, 4), scores float32 (n,), classes uint8 (n,)), best score first; boxes are
            normalised to the source picture and clipped to it.
        """
        return self.detect_batch(frames, [spec] * len(frames))

    def detect_batch(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> list[Detections]:
        """As `detect`, for frames of several cameras whose rings share width, height and pixel format."""
        found: list[Detections] = []
        for start in range(0, len(frames), self.backend.max_batch):
            part = slice(start, start + self.backend.max_batch)
            self.load(frames[part], specs[part])
            self.start()
            found += self.finish(specs[part])
        return found

    def ready(self, spec: RingSpec) -> bool:
        """Whether frames of this geometry can be computed at once; else the runtime begins to prepare for it."""
        return self.backend.ready(letterbox(spec.width, spec.height, spec.model_width), spec.pix_fmt)

    def warm(self, specs: Sequence[RingSpec]) -> None:
        """Prepare for pictures of these rings, and wait until that is done.

        A size that the model cannot run at concerns its own cameras, as long as there is another: `load` tells them.

        Raises:
            ModelError: it can run at none of them.
        """
        errors = [error for spec in specs if (error := self.try_warm(spec))]
        if errors and len(errors) == len(specs):
            raise errors[0]

    def try_warm(self, spec: RingSpec) -> ModelError | None:
        """Prepare for pictures of this ring; why the model cannot run at its size, or None where it now does."""
        try:
            self.backend.prepare(letterbox(spec.width, spec.height, spec.model_width), spec.pix_fmt)
            self.detect([np.zeros(spec.frame_bytes, np.uint8)], spec)
        except ModelError as error:
            return error
        return None

    def load(self, frames: Sequence[NDArray[np.uint8]], specs: Sequence[RingSpec]) -> None:
        """Take the frames out of the ring: whoever passes a ring's own memory asks `FrameReader.intact` after this."""
        first = specs[0]
        self.backend.load(frames, first.pix_fmt, letterbox(first.width, first.height, first.model_width))

    def start(self) -> None:
        """Begin to compute what `load` took."""
        self.backend.start()

    def finish(self, specs: Sequence[RingSpec]) -> list[Detections]:
        """Detections of the batch that was started first, as `detect` returns them; `specs` are its own."""
        box = letterbox(specs[0].width, specs[0].height, specs[0].model_width)
        return [
            Detections(to_source(found.boxes, box, spec.content), found.scores, found.classes)
            for found, spec in zip(self.backend.finish(), specs)
        ]


def make_warmup_spec(width: int, height: int) -> RingSpec:
    """Some ring of that size, for `Detector.warm`."""
    return RingSpec(width, height, "yuv420p", width, height, 4, 1.0, 0)


def load_detector(
    settings: engine.Inference,
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
    from crowdperf.inference.proof import verify_device

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
    model: ModelPath, settings: engine.Inference, cache: Path, cuda: bool, confidence: float
) -> InferenceBackend:
    if model.runtime == "openvino":
        from crowdperf.inference.openvino_runtime import OpenvinoBackend

        return OpenvinoBackend(model, confidence, settings.iou, settings.threads, cache)
    _require_torch(model.path, cache)
    from crowdperf.inference.torch_runtime import TorchBackend

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
