"""The documented environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from crowdperf.settings.base import ConfigError

POSTGRES_DSN = "CROWDPERF_POSTGRES_DSN"


class Environment(Struct, frozen=True, kw_only=True):
    """The documented environment variables; None where unset."""

    target_fps: float | None = None
    queue_max: int | None = None
    rtsp_stimeout_usec: int = 5_000_000
    ffmpeg_extra_flags: str = "-loglevel error"
    cuda_empty_every: int = 0
    postgres_dsn: str = ""
    """A reference to the variable, never its value: this goes into slices, and from there into files."""


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Read the documented environment variables.

    Raises:
        ConfigError: one of them has no usable value.
    """
    return Environment(
        target_fps=_read_number(variables, "TARGET_FPS", float, 0.1, 240),
        queue_max=_read_number(variables, "QUEUE_MAX", int, 1, 64),
        rtsp_stimeout_usec=_read_number(variables, "RTSP_STIMEOUT_USEC", int, 1, 10**12) or 5_000_000,
        ffmpeg_extra_flags=variables.get("FFMPEG_EXTRA_FLAGS", "").strip(),
        cuda_empty_every=_read_number(variables, "CUDA_EMPTY_EVERY", int, 0, 10**6) or 0,
        postgres_dsn=f"env:{POSTGRES_DSN}" if variables.get(POSTGRES_DSN, "").strip() else "",
    )


def _read_number(variables: Mapping[str, str], name: str, kind: type[Any], low: float, high: float) -> Any:
    """The variable as `kind`, None where unset or empty."""
    text = variables.get(name, "").strip()
    if not text:
        return None
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise ConfigError(
            f"environment variable {name}={text!r} is no number from {low:g} to {high:g}. Remedy: correct or unset it."
        )
    return value
