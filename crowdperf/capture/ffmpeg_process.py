"""Run FFmpeg as a child: read its pictures into the caller's memory, keep its log, end it with this process."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable

from crowdperf.frames.layout import NO_PTS
from crowdperf.runtime.ffmpeg_binary import build_ffmpeg_environment
from crowdperf.supervision import process_tree

PIPE_BYTES = 1 << 20
"""Measured: a 1080p picture costs 8.7 ms through a pipe of this size and 10 ms through one of 64 KiB."""
TERMINATE_TIMEOUT_S = 1.0
MAX_LOG_LINES = 100
_READ_BYTES = 16_384
_MAX_LINE_BYTES = 4_096
_MAX_LINE_CHARACTERS = 500
MAX_ERROR_BYTES_PER_S = 1 << 20
"""Limit on error output read per second. An FFmpeg that writes more has to wait, so that it costs others no CPU
time."""
_MAX_DRAIN_READS = 256
_POLL_INTERVAL_S = 0.02
_SIZE = re.compile(r"\[graph \S+ input from stream .*\[verbose\] w:(\d+) h:(\d+) pixfmt:")
_LEVEL = re.compile(r"\[(?:warning|error|fatal|panic)\] ")


class FfmpegProcess:
    """A running FFmpeg. Start it from a thread that outlives it: the kernel kills it with that thread.

    `argv` is not seen by a shell. `redact` removes secrets from error lines before display.

    Raises:
        OSError: It cannot be started.
    """

    arrival_ns: tuple[int, int] | None = None
    """None here, as for `pts` and `camera_clock_ns`: a pipe carries no times. `PyavDecoder` sets them."""
    pts = NO_PTS
    camera_clock_ns: int | None = None
    resized_to: tuple[int, int] | None = None
    """New size (width, height) of the source's pictures after a change, known at log level `level+verbose`."""

    def __init__(self, argv: list[str], redact: Callable[[str], str]) -> None:
        setpriv = process_tree.find_setpriv()
        self._process = subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=build_ffmpeg_environment(),
            preexec_fn=None if setpriv else functools.partial(process_tree.end_with_parent, signal.SIGKILL),
            # A process group of its own, so that terminating it ends its children too (a wrapper script's FFmpeg).
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.pid = self._process.pid
        self._out, self._err = self._process.stdout.fileno(), self._process.stderr.fileno()
        self.pipe_bytes = _enlarge_pipe(self._out)
        self._redact = redact
        self._poll = select.poll()
        for fd in (self._out, self._err):
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
        self._open_fds = {self._out, self._err}
        self._partial = b""
        self._bytes_this_second = 0
        self._second_start = time.monotonic()
        self._is_muted = False
        self._size: tuple[int, int] | None = None
        self.error_lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        """Last error lines, unredacted so that they can be matched."""
        self.info_lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        """Reports of input and output, where the log level marks each line; unredacted too."""

    @property
    def tail(self) -> list[str]:
        """Last error lines without secrets, for display."""
        return redact_lines(self.error_lines, self._redact)

    def read_into(self, view: memoryview, timeout_s: float) -> int | None:
        """Read bytes into `view`; return how many, 0 after `timeout_s` without any, None at the end."""
        if self._is_muted:
            self._unmute_when_due()
        for fd, _ in self._poll.poll(timeout_s * 1000):
            if fd == self._err:
                self._read_error_lines()
                continue
            with contextlib.suppress(BlockingIOError):
                count = os.readv(fd, [view])
                if count:
                    return count
                self._unregister_fd(fd)
        return 0 if self._out in self._open_fds else None

    def has_output(self) -> bool:
        """Check whether the pipe holds picture bytes."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        return self._out in self._open_fds and any(event & select.POLLIN for _, event in poll.poll(0))

    def read_log(self, timeout_s: float) -> bool:
        """Read error lines for up to `timeout_s` and leave the pictures in the pipe; False at their end."""
        if self._is_muted:
            self._unmute_when_due()
        poll = select.poll()
        if self._err in self._open_fds and not self._is_muted:
            poll.register(self._err, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            self._read_error_lines()
        return self._err in self._open_fds

    def drain(self, timeout_s: float) -> bool:
        """Read error lines for up to `timeout_s` and discard pictures; False at the end of the error lines."""
        if self._is_muted:
            self._unmute_when_due()
        for fd, _ in self._poll.poll(timeout_s * 1000):
            if fd == self._err:
                self._read_error_lines()
            elif not os.read(fd, _READ_BYTES):
                self._unregister_fd(fd)
        return self._err in self._open_fds

    def _read_error_lines(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._err, _READ_BYTES)
            if not data:
                self._unregister_fd(self._err)
            *lines, self._partial = (self._partial + data).replace(b"\r", b"\n").split(b"\n")
            self._store_lines(lines)
            if not data:
                self._store_lines([self._partial])
            elif len(self._partial) > _MAX_LINE_BYTES:
                # Dropped, not cut: redaction would miss a secret that was cut in two.
                self._partial = b"(an endless line was dropped)"
            self._mute_if_flooded(len(data))

    def _mute_if_flooded(self, byte_count: int) -> None:
        """Stop reading error lines for the rest of this second after too many bytes."""
        now = time.monotonic()
        if now - self._second_start >= 1.0:
            self._second_start, self._bytes_this_second = now, 0
        self._bytes_this_second += byte_count
        if self._bytes_this_second > MAX_ERROR_BYTES_PER_S and self._err in self._open_fds and not self._is_muted:
            self._is_muted = True
            self._poll.unregister(self._err)
            self.error_lines.append("(error output paused: too many lines per second)")

    def _unmute_when_due(self) -> None:
        if time.monotonic() - self._second_start >= 1.0:
            self._is_muted = False
            self._poll.register(self._err, select.POLLIN)

    def _store_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace")
            if len(text) > _MAX_LINE_BYTES:
                (text,) = redact_lines([text], self._redact)
            if "[info]" in text:
                self.info_lines.append(text)
            elif "[verbose]" in text:
                self._detect_resize(text)
            elif text.strip():
                self.error_lines.append(_LEVEL.sub("", text))

    def _detect_resize(self, text: str) -> None:
        """Detect a new picture size. The filters log their input size at the start and on each change."""
        match = _SIZE.search(text)
        if match:
            size = (int(match[1]), int(match[2]))
            if self._size not in (None, size):
                self.resized_to = size
            self._size = size

    def _unregister_fd(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._open_fds.discard(fd)

    def terminate(self) -> int:
        """Send SIGTERM, then SIGKILL after a second (a stalled FFmpeg ignores SIGTERM); return the exit code."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGTERM)
            self._ends_within(TERMINATE_TIMEOUT_S)
            # Also when the first process is gone: no process of the group may survive.
            self._signal_group(signal.SIGKILL)
        code = self._process.wait()
        for _ in range(_MAX_DRAIN_READS):
            if self._err not in self._open_fds or not self._poll.poll(0):
                break
            self.drain(0)
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()
        return code

    def wait_exit_code(self, timeout_s: float = TERMINATE_TIMEOUT_S) -> int:
        """Return the exit code after the end of the output; terminate the process if it lingers."""
        self._ends_within(timeout_s)
        return self.terminate()

    def _signal_group(self, number: int) -> None:
        """Signal the process group. Its id stays valid until the process is waited for."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _ends_within(self, timeout_s: float) -> bool:
        """Check whether the process ends within the time, without waiting for (reaping) it."""
        deadline = time.monotonic() + timeout_s
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_INTERVAL_S)
        return True


def redact_lines(lines: Iterable[str], redact: Callable[[str], str]) -> list[str]:
    """Redact the lines, then cut each to 500 characters; a cut before could split a secret."""
    return [redact(line)[:_MAX_LINE_CHARACTERS] for line in lines]


def _enlarge_pipe(fd: int) -> int:
    """Enlarge the pipe as far as this user may; return its real size in bytes."""
    for size in (PIPE_BYTES, PIPE_BYTES // 4):
        with contextlib.suppress(OSError):
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
