"""On which processors int8 is taken without being asked for. Pure but for reading /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

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
