"""Stored names depend on these digits: they never change."""

from __future__ import annotations

from crowdperf.primitives.digest import compute_digest


def test_digits_are_those_of_sha_256() -> None:
    assert compute_digest(b"abc", 12) == "ba7816bf8f01"
    assert len(compute_digest(b"")) == 64
    assert compute_digest(b"").startswith("e3b0c442")
