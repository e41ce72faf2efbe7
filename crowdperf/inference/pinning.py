"""Page-locking rings for a CUDA device: their frames then reach it at full speed, straight from shared memory.

Functions of the process, not of a model: a ring stays locked while one model follows another, and keeps none alive.
"""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import torch
from numpy.typing import NDArray

_pinned_addresses: set[int] = set()

log = logging.getLogger(__name__)


def pin_buffer(buffer: NDArray[np.uint8]) -> None:
    """Page-lock a ring's mapping; one that cannot be is used as it is, and copied more slowly."""
    code = int(torch.cuda.cudart().cudaHostRegister(buffer.ctypes.data, buffer.nbytes, 0))
    if code == 0:
        _pinned_addresses.add(buffer.ctypes.data)
        return
    log.warning("a ring of %d bytes cannot be page-locked (CUDA error %s): slower copies", buffer.nbytes, code)
    _clear_cuda_error()


def unpin_buffer(buffer: NDArray[np.uint8]) -> None:
    """Undo `pin`, before the mapping is closed."""
    if buffer.ctypes.data in _pinned_addresses:
        _pinned_addresses.remove(buffer.ctypes.data)
        if int(torch.cuda.cudart().cudaHostUnregister(buffer.ctypes.data)) != 0:
            _clear_cuda_error()


def _clear_cuda_error() -> None:
    """CUDA keeps the last error until somebody asks, and torch asks after its next kernel: let that be this one."""
    with contextlib.suppress(RuntimeError):
        torch.full((1,), 1, device="cuda")
