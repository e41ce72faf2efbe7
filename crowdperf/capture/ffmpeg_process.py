"""FFmpeg as a child: pictures into the caller's memory, its last words kept, and no way to outlive us."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import select
import shutil
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
"""Error lines that are heard in a second. An FFmpeg that writes more has to wait: it may not take the site's time."""
_MAX_DRAIN_READS = 256
_POLL_INTERVAL_S = 0.02
_SIZE = re.compile(r"\[graph \S+ input from stream .*\[verbose\] w:(\d+) h:(\d+) pixfmt:")
_LEVEL = re.compile(r"\[(?:warning|error|fatal|panic)\] ")


class FfmpegProcess:
    """One running FFmpeg. Start it from a thread that outlives it: the kernel kills it when that thread ends.

    Args:
        argv: the command; no shell is involved.
        clean: takes secrets out of its error lines where they are to be shown.

    Raises:
        OSError: it cannot be started.
    """

    arrival_ns: tuple[int, int] | None = None
    """A pipe tells nothing of a picture but its bytes; `PyavChild` has more to say here, and in the next two."""
    pts = NO_PTS
    camera_clock_ns: int | None = None
    resized_to: tuple[int, int] | None = None
    """The size that the source's pictures have changed to meanwhile; told at the log level `level+verbose`."""

    def __init__(self, argv: list[str], redact: Callable[[str], str]) -> None:
        setpriv = shutil.which("setpriv")
        self._process = subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=build_ffmpeg_environment(),
            preexec_fn=None if setpriv else functools.partial(process_tree.end_with_parent, signal.SIGKILL),
            # A group of its own, so that what is ended is also whatever it has started (a wrapper script's FFmpeg).
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
        """Its last error lines as they came, for matching: they may hold secrets, which may look like anything."""
        self.info_lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        """What it reports of input and output, where its log level names each line's level; as it came, too."""

    @property
    def tail(self) -> list[str]:
        """Its last error lines, to be shown: without secrets."""
        return redact_lines(self.error_lines, self._redact)

    def read_into(self, view: memoryview, timeout_s: float) -> int | None:
        """Read pictures' bytes straight into `view`.

        Returns:
            How many bytes came, 0 after `timeout_s` without any, None at the end of the stream.
        """
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
        """Whether pictures lie in the pipe."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        return self._out in self._open_fds and any(event & select.POLLIN for _, event in poll.poll(0))

    def read_log(self, timeout_s: float) -> bool:
        """As `listen`, but leave the pictures in the pipe."""
        if self._is_muted:
            self._unmute_when_due()
        poll = select.poll()
        if self._err in self._open_fds and not self._is_muted:
            poll.register(self._err, select.POLLIN)
        if poll.poll(timeout_s * 1000):
            self._read_error_lines()
        return self._err in self._open_fds

    def drain(self, timeout_s: float) -> bool:
        """Only hear its error lines for a while; False once it has no more to say."""
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
                # Not cut but dropped: a secret that a cut went through would be recognised in neither half.
                self._partial = b"(a line without end was dropped)"
            self._mute_if_flooded(len(data))

    def _mute_if_flooded(self, byte_count: int) -> None:
        """Hear no more of this second where it was too much."""
        now = time.monotonic()
        if now - self._second_start >= 1.0:
            self._second_start, self._bytes_this_second = now, 0
        self._bytes_this_second += byte_count
        if self._bytes_this_second > MAX_ERROR_BYTES_PER_S and self._err in self._open_fds and not self._is_muted:
            self._is_muted = True
            self._poll.unregister(self._err)
            self.error_lines.append("(it writes error lines faster than they can be heard)")

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
        """Its filters are told the size of what they get: as they start, and whenever anything of that changes."""
        found = _SIZE.search(text)
        if found:
            size = (int(found[1]), int(found[2]))
            if self._size not in (None, size):
                self.resized_to = size
            self._size = size

    def _unregister_fd(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._open_fds.discard(fd)

    def terminate(self) -> int:
        """End it: a polite request, and soon a kill, since a stalled FFmpeg ignores requests. Returns its exit code."""
        if self._process.returncode is None:
            self._signal_group(signal.SIGTERM)
            self._ends_within(TERMINATE_TIMEOUT_S)
            # The group, also when its first process is gone: nothing of it may go on.
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
        """Its exit code once its output has ended; it is ended too if it lingers."""
        self._ends_within(timeout_s)
        return self.terminate()

    def _signal_group(self, number: int) -> None:
        """Its whole group, whose number is its own until somebody has waited for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _ends_within(self, timeout_s: float) -> bool:
        """Whether it ends within that time; it is not waited for."""
        deadline = time.monotonic() + timeout_s
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_INTERVAL_S)
        return True


def redact_lines(lines: Iterable[str], redact: Callable[[str], str]) -> list[str]:
    """The lines without secrets, 500 characters of each; cut only then, else a secret might be cut in two."""
    return [redact(line)[:_MAX_LINE_CHARACTERS] for line in lines]


def _enlarge_pipe(fd: int) -> int:
    """Enlarge the pipe as far as this user may; returns its real size."""
    for size in (PIPE_BYTES, PIPE_BYTES // 4):
        with contextlib.suppress(OSError):
            return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
