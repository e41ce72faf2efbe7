"""Rings of tests in shared memory: where each lies, and which of them a run of the tests has left behind."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from crowdperf.settings.environment import Paths

SHARED = Path("/dev/shm")
RUN_VARIABLE = "CROWDPERF_TEST_RUN"
"""Environment variable of one run of the tests, the same in all its processes."""
_made: list[Path] = []


def get_run() -> str:
    """Return the name of this run; the first call makes it, and processes that are started later inherit it."""
    return os.environ.setdefault(RUN_VARIABLE, uuid.uuid4().hex[:8])


def make_ring_path(name: str) -> Path:
    """Return a path for a ring, in a folder that goes with the test that asked for it."""
    folder = SHARED / f"crowdperf.test{get_run()}-{uuid.uuid4().hex[:8]}"
    _made.append(folder)
    return folder / f"ring.{name}"


def remove_made() -> None:
    """Remove the folders of all paths so far."""
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def list_folders() -> set[Path]:
    """Return what lies in shared memory for any site or test."""
    return set(SHARED.glob("crowdperf.*"))


def find_leftovers(base: Path) -> set[Path]:
    """Return what this run has left: folders of its tests' rings, and of sites with a data folder below `base`."""
    present = list_folders()
    # A machine may run other tests and sites meanwhile.
    sites = {Paths(Path(folder)).instance for folder, _, _ in os.walk(base)} if present else set()
    own = f"test{get_run()}-"
    return {path for path in present if (name := path.name.split(".")[1]) in sites or name.startswith(own)}
