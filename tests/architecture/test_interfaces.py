"""Hold what users and other programs rely on, one test a kind.

After a change on purpose: `python -m tests.support.interfaces` writes the files again.
"""

from __future__ import annotations

import pytest

from tests.support.interfaces import KINDS, collect, pinned

HINT = "on purpose? `python -m tests.support.interfaces` writes tests/architecture/interfaces/ again"


@pytest.mark.parametrize("kind", KINDS)
def test_interface_is_kept(kind: str) -> None:
    before, now = pinned(kind), collect(kind)
    vanished = [f"  vanished  {line}" for line in before if line not in now]
    appeared = [f"  appeared  {line}" for line in now if line not in before]
    if vanished or appeared:
        pytest.fail("\n".join([f"{kind} changed; {HINT}", *vanished, *appeared]), pytrace=False)
