"""Record which camera's decoder crashed the process, for the process that follows.

With the backend `pyav` a decoder crash (a segmentation fault) ends the whole process. Python's fault handler writes the
crashed thread into the record, next to a list of the cameras by thread. The next process decodes that camera in an
FFmpeg child, whose crash affects no other camera, until the camera's settings change.

::

    isolated <camera> <digest of its settings>       carried over from earlier crashes
    thread 0x<thread> <camera> <digest> <kernel id>  one for each connection of the backend pyav
    Fatal Python error: Segmentation fault           by the fault handler
    Current thread 0x<thread> (most recent call first): ...
"""

from __future__ import annotations

import faulthandler
import re
import threading
from pathlib import Path
from typing import NamedTuple, TextIO

import msgspec
from msgspec.structs import replace

from crowdperf.primitives.digest import compute_digest
from crowdperf.settings.process_config import CaptureConfig

MAX_RECORD_BYTES = 1 << 20
DECODER_THREAD_NAME = "pyav"
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)
_CURRENT = re.compile(r"^Current thread 0x([0-9a-f]+)", re.MULTILINE)
_THREAD = re.compile(r"^thread 0x([0-9a-f]+) (\S+) (\S+) \d+$", re.MULTILINE)
_ISOLATED = re.compile(r"^isolated (\S+) (\S+)$", re.MULTILINE)


class CrashReport(NamedTuple):
    """The record that the previous process left."""

    isolated: dict[str, str]
    """Camera -> digest of its settings at the crash."""
    crashed_camera: str
    """Camera whose decoder ended the previous process; empty if none did."""
    trace: str
    """Output of the fault handler; empty if the previous process did not crash."""


def parse_crash_record(text: str) -> CrashReport:
    """Parse a crash record."""
    isolated = {match[1]: match[2] for match in _ISOLATED.finditer(text)}
    fatal, current = _FATAL.search(text), _CURRENT.search(text)
    if not fatal or not current:
        return CrashReport(isolated, "", "")
    threads = [match for match in _THREAD.finditer(text) if int(match[1], 16) == int(current[1], 16)]
    if not threads:
        return CrashReport(isolated, "", text[fatal.start() :].strip())
    # Thread ids are reused: the last connection counts.
    _, camera, settings = threads[-1].groups()
    return CrashReport({**isolated, camera: settings}, camera, text[fatal.start() :].strip())


def compute_config_digest(config: CaptureConfig) -> str:
    """Compute a digest of a camera's settings: changed settings get a new trial of `pyav`."""
    return compute_digest(msgspec.msgpack.encode(config), 12)


def fall_back_to_ffmpeg(config: CaptureConfig, report: CrashReport) -> CaptureConfig:
    """Return the settings, with the backend `ffmpeg` for a camera whose decoder crashed with them."""
    if config.backend == "pyav" and report.isolated.get(config.camera_id) == compute_config_digest(config):
        return replace(config, backend="ffmpeg")
    return config


class CrashRecord:
    """Crash record of this process; the fault handler writes to it until the process ends.

    The record that the previous process left at `path` is read, then replaced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.previous = parse_crash_record(path.read_text(encoding="utf-8", errors="replace") if path.exists() else "")
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._write_header()
        # The handler writes thread ids only with all_threads.
        faulthandler.enable(self._file, all_threads=True)

    def _write_header(self) -> None:
        for camera, settings in self.previous.isolated.items():
            self._file.write(f"isolated {camera} {settings}\n")
        self._file.flush()

    def record_decoding(self, config: CaptureConfig) -> None:
        """Record that the calling thread decodes this camera from now on."""
        with self._lock:
            if self._file.tell() > MAX_RECORD_BYTES:
                self._file.seek(0)
                self._file.truncate()
                self._write_header()
            thread, kernel_id = threading.get_ident(), threading.get_native_id()
            self._file.write(f"thread {thread:#x} {config.camera_id} {compute_config_digest(config)} {kernel_id}\n")
            self._file.flush()

    def close(self) -> None:
        """End the record in an orderly way; only isolated cameras are carried over."""
        faulthandler.enable()
        self._file.close()
        if not self.previous.isolated:
            self._path.unlink(missing_ok=True)


def has_stuck_threads() -> bool:
    """Check whether a decoding thread of this process still hangs in libav."""
    return any(thread.name == DECODER_THREAD_NAME for thread in threading.enumerate())
