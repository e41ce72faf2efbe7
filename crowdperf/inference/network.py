"""What Ultralytics builds and fuses for the torch runtime: weights of any YOLO family, or a TensorRT engine."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import ultralytics

from crowdperf.inference.registry import ModelError, ModelPath


class Network(NamedTuple):
    """A network that is ready to be called with (b, 3, height, width), RGB, 0..1."""

    call: Any
    """Returns the head's output, or a tuple that begins with it: (b, 4 + classes, anchors), boxes as centre and size,
    or from an end-to-end head (b, k, 6): x1 y1 x2 y2 score class; both in pixels of the input."""
    names: tuple[str, ...]
    dtype: Any
    supports_graphs: bool
    """Whether CUDA graphs may record it."""
    head: Any
    """The module that keeps anchors between calls, or None."""


def load_network(model: ModelPath, device: str) -> Network:
    """Load, fuse and move a model to `device` ("cuda" or "cpu"): fp16 on CUDA, float32 on the processor.

    Raises:
        ModelError: the file is no detection model of Ultralytics, or does not fit the device.
    """
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
    shown = tuple(str(names[index]) for index in sorted(names))
    return Network(network, shown, dtype, device == "cuda", network.model[-1])


def _load_engine(model: ModelPath, device: str) -> Network:
    """A TensorRT engine through Ultralytics' own loader, which knows the versions of TensorRT."""
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
            f"the TensorRT engine {str(model.path)!r} cannot be loaded: {_get_first_line(error)}. Remedy: "
            "build it on this "
            "machine (`yolo export format=engine dynamic=True half=True`) with the TensorRT that is installed here."
        ) from None
    names = dict(backend.names)
    shown = tuple(str(names[index]) for index in sorted(names))

    def call(pictures: Any) -> Any:
        # It reads rows of planes, waits for none of our streams, and writes its next answer over this one.
        planes = pictures.contiguous()
        torch.cuda.current_stream().synchronize()
        found = backend(planes)
        return (found[0] if isinstance(found, (list, tuple)) else found).clone()

    return Network(call, shown, torch.float16 if backend.fp16 else torch.float32, False, None)


def _get_first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
