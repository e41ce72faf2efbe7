"""Which models work: the one part of the configuration that a running process takes over without a restart.

A restart of inference is a gap of seconds on every camera, and another model needs none: it is loaded beside the old
one and takes over between two batches. So these settings are no part of the digest that has supervisord restart the
process; `supervisorctl update` writes them into a file, and inference looks at that file between two batches.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from crowdperf.settings.base import Settings
from crowdperf.settings.engine import Inference, Labels, Models

REST = Inference()


class Choice(Settings, frozen=True, kw_only=True):
    """The settings of `inference` that are taken over at run time."""

    models: Models
    labels: Labels
    precision: Literal["auto", "full", "int8"]


def choice_of(settings: Inference) -> Choice:
    """What the configuration chooses."""
    return Choice(models=settings.models, labels=settings.labels, precision=settings.precision)


def chosen(settings: Inference, choice: Choice) -> Inference:
    """`settings` with another choice."""
    return msgspec.structs.replace(settings, models=choice.models, labels=choice.labels, precision=choice.precision)


def without_choice(settings: Inference) -> Inference:
    """`settings` with the default choice: what is left is what a process has to restart for."""
    return chosen(settings, choice_of(REST))


def write_choice(path: Path, choice: Choice) -> None:
    """Write the file by atomic rename, where it does not say the same already."""
    text = msgspec.json.format(msgspec.json.encode(choice), indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == text:
            return
    fresh = path.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_bytes(text)
    fresh.replace(path)


class ChoiceFile:
    """The reader's side: what was there at the start is in the configuration already; only a change is news."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()

    def changed(self) -> Choice | None:
        """The new choice, once; None where nothing has changed, or the file cannot be read."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Choice)
        except (OSError, msgspec.DecodeError):
            return None

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
