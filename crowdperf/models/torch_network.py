"""Network of the torch backend: loading by Ultralytics, page-locked rings, and ring bytes to the input on the device.

Page-locking lets frames reach the device at full speed from shared memory. It belongs to the process, not to a model: a
ring stays locked while models are replaced. The conversion makes few passes over memory, since that is its whole cost.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, NamedTuple

import numpy as np
import torch
import ultralytics
from numpy.typing import NDArray

from crowdperf.models.preprocess import Letterbox
from crowdperf.models.registry import ModelError, ModelPath

LUMA, V_RED, U_GREEN, V_GREEN, U_BLUE = (share / (255 << 20) for share in (1220542, 1673527, -409993, -852492, 2116026))
"""OpenCV's coefficients 1.164, 1.596, -0.391, -0.813 and 2.018 of ITU-R BT.601, each divided by 255."""
_pinned_addresses: set[int] = set()

log = logging.getLogger(__name__)


class Network(NamedTuple):
    """A network that takes pictures (b, 3, height, width), RGB, 0..1."""

    call: Any
    """Returns the head's output, or a tuple that begins with it, in pixels of the input: (b, 4 + classes, anchors) with
    boxes as centre and size, or (b, k, 6) from an end-to-end head, x1 y1 x2 y2 score class."""
    names: tuple[str, ...]
    dtype: Any
    supports_graphs: bool
    """Whether CUDA graphs may record it."""
    head: Any
    """The module that keeps anchors between calls, or None."""


def load_network(model: ModelPath, device: str) -> Network:
    """Load, fuse and move a model to `device`: fp16 on "cuda", float32 on "cpu"; or raise ModelError."""
    return _load_engine(model, device) if model.path.suffix == ".engine" else _load_weights(model, device)


def _load_weights(model: ModelPath, device: str) -> Network:
    try:
        loaded = ultralytics.YOLO(model.path, task="detect")
        network = loaded.model
    except (RuntimeError, OSError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(
            f"the model {str(model.path)!r} cannot be loaded: {_get_first_line(error)}. "
            "Remedy: give Ultralytics detection weights."
        ) from None
    if getattr(loaded, "task", "") != "detect":
        raise ModelError(
            f"the model {str(model.path)!r} is for the task {loaded.task!r}. "
            "Remedy: use detection weights such as YOLO11n's."
        )
    names = loaded.names
    dtype = torch.float16 if device == "cuda" else torch.float32
    network = network.fuse(verbose=False).eval().to(device=device, dtype=dtype, memory_format=torch.channels_last)
    return Network(network, _sort_names(names), dtype, device == "cuda", network.model[-1])


def _load_engine(model: ModelPath, device: str) -> Network:
    """Load a TensorRT engine with Ultralytics' loader, which handles the versions of TensorRT."""
    if device != "cuda":
        raise ModelError(
            f"the TensorRT engine {str(model.path)!r} needs a CUDA device, and inference runs on {device!r}. "
            "Remedy: use the .pt or .onnx file that it was built from."
        )
    from ultralytics.nn.autobackend import AutoBackend

    try:
        backend = AutoBackend(str(model.path), device=torch.device("cuda:0"), fp16=True, verbose=False)
    except (ImportError, RuntimeError, OSError, ValueError, AttributeError, ModuleNotFoundError) as error:
        raise ModelError(
            f"the TensorRT engine {str(model.path)!r} cannot be loaded: {_get_first_line(error)}. Remedy: build it on "
            "this machine (`yolo export format=engine dynamic=True half=True`) with the TensorRT installed here."
        ) from None

    def call(pictures: Any) -> Any:
        # The engine needs contiguous planes, does not wait for our streams, and overwrites its output at every call.
        planes = pictures.contiguous()
        torch.cuda.current_stream().synchronize()
        output = backend(planes)
        return (output[0] if isinstance(output, (list, tuple)) else output).clone()

    dtype = torch.float16 if backend.fp16 else torch.float32
    return Network(call, _sort_names(dict(backend.names)), dtype, False, None)


def _sort_names(names: dict[int, Any]) -> tuple[str, ...]:
    return tuple(str(names[index]) for index in sorted(names))


def _get_first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def pin_buffer(buffer: NDArray[np.uint8]) -> None:
    """Page-lock a ring's mapping; if that fails, copies from it are slower."""
    code = int(torch.cuda.cudart().cudaHostRegister(buffer.ctypes.data, buffer.nbytes, 0))
    if code == 0:
        _pinned_addresses.add(buffer.ctypes.data)
        return
    log.warning("a ring of %d bytes cannot be page-locked (CUDA error %s): slower copies", buffer.nbytes, code)
    _clear_cuda_error()


def unpin_buffer(buffer: NDArray[np.uint8]) -> None:
    """Undo `pin_buffer`; call it before the mapping is closed."""
    if buffer.ctypes.data in _pinned_addresses:
        _pinned_addresses.remove(buffer.ctypes.data)
        if int(torch.cuda.cudart().cudaHostUnregister(buffer.ctypes.data)) != 0:
            _clear_cuda_error()


def _clear_cuda_error() -> None:
    """Clear CUDA's last error, which torch would otherwise raise after its next kernel."""
    with contextlib.suppress(RuntimeError):
        torch.full((1,), 1, device="cuda")


def paint_batch(frames: Any, box: Letterbox, canvas: Any) -> None:
    """Write the picture that `preprocess.paint` makes, within 1/255 and scaled to 0..1, into each input.

    Args:
        frames: uint8 (b, frame_bytes) on any device.
        box: geometry of ring and input.
        canvas: the b inputs, as `GeometryBuffers` makes them; the padding stays.
    """
    place = canvas[:, :, box.top : box.top + box.inner_height, box.left : box.left + box.inner_width]
    if box.scaled:
        whole = torch.empty((len(frames), 3, box.ring_height, box.ring_width), device=frames.device)
        _write_rgb(frames, whole, box)
        # Round before and after, as OpenCV does: without it the difference can exceed 1/255.
        whole.mul_(255).round_()
        size = (box.inner_height, box.inner_width)
        rgb = torch.nn.functional.interpolate(whole, size, mode="bilinear", align_corners=False)
        torch.div(rgb.round_(), 255, out=place)
    else:
        _write_rgb(frames, place, box)


def _write_rgb(frames: Any, place: Any, box: Letterbox) -> None:
    """Write RGB, 0..1, into `place`, (b, 3, height, width); luma below black counts as black."""
    height, width = box.ring_height, box.ring_width
    if box.pix_fmt == "bgr24":
        torch.div(frames.view(-1, height, width, 3).flip(3).permute(0, 3, 1, 2), 255, out=place)
        return
    pixels, rows, columns = height * width, height // 2, width // 2
    luma = frames[:, :pixels].float().sub_(16).clamp_(min=0).mul_(LUMA).view(-1, 1, height, width)
    chroma = frames[:, pixels : pixels + 2 * rows * columns].float().sub_(128).view(-1, 2, rows, columns)
    u, v = chroma[:, 0], chroma[:, 1]
    # Mix at the size of the chroma planes, and add the result to each of the four pixels that share a value.
    mixed = torch.stack([V_RED * v, U_GREEN * u + V_GREEN * v, U_BLUE * u], dim=1)
    for y in (0, 1):
        for x in (0, 1):
            torch.add(luma[:, :, y::2, x::2], mixed, out=place[:, :, y::2, x::2])
    place.clamp_(0, 1)
