"""A decoder that brings the whole process down (a segmentation fault), and how the next process learns whose it was.

With the backend `pyav` foreign code decodes what a camera sends inside this process. The kernel ends the process, and
Python's fault handler writes into the record which thread it was; beside it stands which camera that thread decoded.
The next process has that camera decoded by an FFmpeg child, whose crash concerns nobody else, until its settings
change.

::

    isolated <camera> <digest of its settings>       carried over from earlier crashes
    thread 0x<thread> <camera> <digest> <kernel id>  one for each connection of the backend pyav
    Fatal Python error: Segmentation fault           by the fault handler
    Current thread 0x<thread> (most recent call first): ...
"""

from __future__ import annotations

import faulthandler
import hashlib
import re
import threading
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec
from msgspec.structs import replace

from crowdperf.settings.process_config import CaptureConfig

MAX_RECORD_BYTES = 1 << 20
DECODER_THREAD_NAME = "pyav"
"""Name of the threads that decode in this process."""
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_CURRENT = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)
_THREAD = re.compile(r"^thread 0x([0-9a-f]+) (\S+) (\S+) \d+$", re.MULTILINE)
_ISOLATED = re.compile(r"^isolated (\S+) (\S+)$", re.MULTILINE)


class CrashReport(NamedTuple):
    """What an earlier process has left."""

    isolated: dict[str, str]
    """Camera -> digest of the settings it had."""
    crashed_camera: str
    """The camera whose decoder ended the last process; empty where it ended otherwise."""
    trace: str
    """What the fault handler wrote, from the kind of fault on; empty where the last process did not end by one."""


def parse_crash_record(text: str) -> CrashReport:
    """Read a record; pure."""
    isolated = {match[1]: match[2] for match in _ISOLATED.finditer(text)}
    fatal, current = _FATAL.search(text), _CURRENT.search(text)
    if not fatal or not current:
        return CrashReport(isolated, "", "")
    threads = [match for match in _THREAD.finditer(text) if int(match[1], 16) == int(current[1], 16)]
    if not threads:
        return CrashReport(isolated, "", text[fatal.start() :].strip())
    # Thread numbers are used again: the last connection counts.
    _, camera, settings = threads[-1].groups()
    return CrashReport({**isolated, camera: settings}, camera, text[fatal.start() :].strip())


def compute_config_digest(config: CaptureConfig) -> str:
    """Of a camera's settings: others deserve a new trial."""
    return hashlib.sha256(msgspec.msgpack.encode(config)).hexdigest()[:12]


def fall_back_to_ffmpeg(config: CaptureConfig, report: CrashReport) -> CaptureConfig:
    """The settings to use: the same, but for a camera whose decoder has crashed with them."""
    if config.backend == "pyav" and report.isolated.get(config.camera_id) == compute_config_digest(config):
        return replace(config, backend="ffmpeg")
    return config


class CrashRecord:
    """The record of this process. The fault handler writes into it for as long as the process lives.

    Args:
        path: of the record; what an earlier process has left there is read, and replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.previous = parse_crash_record(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "")
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._write_header()
        # All threads: of one alone it would not write the number.
        faulthandler.enable(self._file, all_threads=True)

    def _write_header(self) -> None:
        for camera, settings in self.previous.isolated.items():
            self._file.write(f"isolated {camera} {settings}\n")
        self._file.flush()

    def record_decoding(self, config: CaptureConfig) -> None:
        """The calling thread decodes this camera from now on."""
        with self._lock:
            if self._file.tell() > MAX_RECORD_BYTES:
                self._file.seek(0)
                self._file.truncate()
                self._write_header()
            who = (
                f"{threading.get_ident():#x} {config.camera_id} {compute_config_digest(config)} "
                f"{threading.get_native_id()}"
            )
            self._file.write(f"thread {who}\n")
            self._file.flush()

    def close(self) -> None:
        """An orderly end: only what was isolated is carried over."""
        faulthandler.enable()
        self._file.close()
        if not self.previous.isolated:
            self._path.unlink(missing_ok=True)


def has_stuck_threads() -> bool:
    """Whether a decoding thread of this process has not come back from libav."""
    return any(thread.name == DECODER_THREAD_NAME for thread in threading.enumerate())
