"""From a camera's settings to a running child that gives its pictures: one connection, whatever shows the size."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from msgspec.structs import replace

from crowdperf.capture import argv, probe, source
from crowdperf.capture.argv import Options
from crowdperf.capture.ffmpeg import FfmpegChild, shown
from crowdperf.capture.guard import Guard
from crowdperf.capture.machine import Cause
from crowdperf.capture.probe import Probe
from crowdperf.capture.watch import Watch, WatchUnavailable
from crowdperf.ffmpeg import UNASKED, abilities, ffmpeg_binary
from crowdperf.frames.ring import RingSpec
from crowdperf.slices import CaptureSlice

if TYPE_CHECKING:
    from crowdperf.capture.pyav import PyavChild

POLL_S = 0.2
RESOLVE_S = 15.0
UNREPORTED_S = 2.0
"""Pictures in the pipe for this long, and no report of their size: it will not come."""
_HOPELESS = (
    *("Invalid data found", "moov atom not found", "Protocol not found", "Option not found", "Unrecognized option"),
    *("does not contain any stream", "matches no streams", "Invalid argument", "Unknown decoder", "Decoder not found"),
    *("Device creation failed", "No device available for decoder", "certificate verify failed"),
    *("401 Unauthorized", "403 Forbidden", "404 Not Found", "400 Bad Request", "454 Session", "Server returned 4"),
)
"""What FFmpeg says when waiting will not help; such a camera is `misconfigured`, and tried again all the same."""
_NO_VIDEO = "the source does not contain any stream of video"
"""What pyav says, and FFmpeg does not: asked what a source is, it is content with sound."""

_SUMMARIES = ("Error opening output", "Error opening input file", "Conversion failed", "Nothing was written")
"""What FFmpeg says after the line that tells the cause."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A running child and what is known of its pictures."""

    child: FfmpegChild | PyavChild
    spec: RingSpec
    fps: float
    """As the source states it and the flags let it through; 0.0 where nobody knows."""
    ends: bool
    """Whether it is a recording that is played once."""


class NotOpened(Exception):
    """The source gave no pictures; the message is the reason."""

    def __init__(self, cause: Cause, detail: str, lines: list[str], misconfigured: bool = False) -> None:
        super().__init__(detail)
        self.cause: Cause = cause
        self.lines = lines
        """What FFmpeg said, without secrets."""
        self.misconfigured = misconfigured


def reason(said: Iterable[str], otherwise: str, clean: Callable[[str], str]) -> tuple[str, bool]:
    """Why FFmpeg ended, in its own words without secrets, and whether waiting is of no use.

    Args:
        said: its error lines as they came: a secret may look like one of the phrases.
        otherwise: where it said nothing.
        clean: takes the secrets out.
    """
    lines = list(said)
    hopeless = [line for line in lines if any(phrase in line for phrase in _HOPELESS)]
    telling = [line for line in lines if not line.startswith(_SUMMARIES)]
    return shown((hopeless or telling or lines or [otherwise])[-1:], clean)[0], bool(hopeless)


class Opener:
    """Opens one camera again and again.

    Args:
        slice_: the camera.
        clean: takes its secrets out of a text.
        turn: called at least every `POLL_S`; False asks to leave.
        decoding: told by the thread that is about to decode in this process.
    """

    def __init__(
        self,
        slice_: CaptureSlice,
        clean: Callable[[str], str],
        turn: Callable[[], bool],
        decoding: Callable[[CaptureSlice], None],
    ) -> None:
        self._slice = slice_
        self._clean = clean
        self._turn = turn
        self._decoding = decoding
        self._guard: Guard | None = None
        self._watch: Watch | None = None
        self._unwatched = False
        """This system lets no connection be watched."""
        self._silent = False
        """This FFmpeg has written pictures without the report of their size."""

    def open(self) -> Opened:
        """Connect.

        Raises:
            NotOpened: no pictures come.
            SourceError, FfmpegMissing: it cannot be tried.
            OSError: FFmpeg cannot be started.
        """
        options = self._options()
        if self._slice.backend == "pyav":
            return self._pyav(options)
        if argv.tells_itself(options, self._slice.pix_fmt) and not self._silent:
            return self._stream(options)
        return self._probed(options)

    def close(self) -> None:
        """Let go of what is shared by all connections."""
        if self._guard:
            self._guard.close()
            self._guard = None
        if self._watch:
            self._watch.close()
            self._watch = None

    def _options(self) -> Options:
        camera = self._slice
        binary = "" if camera.backend == "pyav" else ffmpeg_binary()
        checked = source.check(camera.url, camera.media_roots, camera.allowed_hosts)
        if checked.kind == "http" and self._guard is None:
            self._guard = Guard(camera.allowed_hosts)
        if checked.kind == "rtsp":
            self._resolve()
            self._look_out()
        return Options(
            binary=binary,
            abilities=abilities(binary) if binary else UNASKED,
            source=checked,
            rtsp_transport=camera.rtsp_transport,
            timeout_usec=camera.rtsp_stimeout_usec,
            http_proxy=self._guard.url if self._guard else "",
            extra_flags=tuple(source.flags(camera.ffmpeg_extra_flags, "FFMPEG_EXTRA_FLAGS")),
            output_flags=tuple(source.flags(camera.ffmpeg_flags, "ffmpeg_flags")),
        )

    def _look_out(self) -> None:
        """Watch where an rtsp server leads, as far as this system lets us."""
        if self._watch is None and not self._unwatched:
            try:
                self._watch = Watch(self._slice.allowed_hosts)
            except WatchUnavailable as error:
                self._unwatched = True
                log.warning(
                    "camera %s: where its rtsp server redirects to cannot be watched (%s)", self._slice.camera_id, error
                )
        if self._watch:
            self._watch.refusal = None

    def _start(self, make: Callable[[], T]) -> T:
        """Make a child whose connections are watched, where they are."""
        return self._watch.run(make) if self._watch else make()

    def _resolve(self) -> None:
        """Ask for the addresses of an rtsp host's name, in a thread: a resolver may take half a minute.

        Raises:
            SourceError: one of them is refused.
            NotOpened: there is no answer.
        """
        answer: queue.SimpleQueue[source.SourceError | None] = queue.SimpleQueue()
        host, allowed = urlsplit(self._slice.url).hostname or "", self._slice.allowed_hosts

        def ask() -> None:
            try:
                source.addresses(host, 554, allowed)
            except source.SourceError as error:
                answer.put(error)
            except OSError:
                # FFmpeg will say so, in its own words.
                answer.put(None)
            else:
                answer.put(None)

        threading.Thread(target=ask, name="resolver", daemon=True).start()
        deadline = time.monotonic() + RESOLVE_S
        while self._turn() and time.monotonic() < deadline:
            try:
                refused = answer.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if refused:
                raise refused
            return
        raise NotOpened("source", f"the name {host!r} is not resolved within {RESOLVE_S:g} s", [])

    def _stream(self, options: Options) -> Opened:
        """One connection: FFmpeg says what the source is and goes on to its pictures."""
        for patient in (False, True):
            command = argv.stream(replace(options, patient=patient), self._slice.analysis_width)
            child = self._start(partial(FfmpegChild, command, self._clean))
            deadline, found, unreported = self._deadline(), None, 0.0
            while found is None and time.monotonic() < deadline and self._turn():
                listening = child.attend(POLL_S)
                found = probe.parse_stream("\n".join(child.facts))
                if found is None and child.has_output():
                    unreported = unreported or time.monotonic() + (UNREPORTED_S if listening else 0.0)
                    if time.monotonic() >= unreported:
                        child.end()
                        log.warning(
                            "camera %s: FFmpeg does not say what it writes: it is asked first from now on",
                            self._slice.camera_id,
                        )
                        self._silent = True
                        return self._probed(options)
                elif not listening:
                    break
            if found:
                source_, written = argv.delivered(options, found[0]), found[1:]
                return Opened(child, self._spec(source_, written), source_.fps, False)
            child.end()
            self._refuse_or_try_patience(patient, time.monotonic() >= deadline, child.facts, child.said)
        raise AssertionError("unreachable")

    def _probed(self, options: Options) -> Opened:
        """Look first, then open again with what is known by then."""
        found, options = self._probe(options)
        found = argv.delivered(options, found)
        spec = self._spec(found)
        # A recording, here or on a web server: it can be read faster than it was filmed, and it has an end.
        paced = options.source.kind == "file" or (options.source.kind == "http" and found.finite)
        options = replace(options, paced=paced, loop=self._slice.loop and paced)
        child = self._start(partial(FfmpegChild, argv.capture(options, spec), self._clean))
        return Opened(child, spec, found.fps, paced and not self._slice.loop)

    def _probe(self, options: Options) -> tuple[Probe, Options]:
        """Look at the source, a second time with patience where it does not show its size at once."""
        for patient in (False, True):
            options = replace(options, patient=patient)
            child = self._start(partial(FfmpegChild, argv.probe(options), self._clean))
            deadline = self._deadline()
            while child.listen(POLL_S) and time.monotonic() < deadline and self._turn():
                pass
            child.end()
            found = probe.parse("\n".join(child.facts))
            if found:
                return found, options
            errors = [line for line in child.said if "At least one output file" not in line]
            if any("Stream #" in line for line in child.facts) and not any("Video:" in line for line in child.facts):
                errors.append(_NO_VIDEO)
            self._refuse_or_try_patience(patient, time.monotonic() >= deadline, child.facts, errors)
        raise AssertionError("unreachable")

    def _pyav(self, options: Options) -> Opened:
        """One connection, decoded in this process; its first picture says what the source is."""
        try:
            # Here, because it costs every process 40 MB, and it may be missing.
            from crowdperf.capture.pyav import PyavChild
        except ImportError as error:
            raise source.SourceError(
                f"the backend pyav needs the Python package av ({error}). Remedy: install it, or set backend: ffmpeg."
            ) from None
        for patient in (False, True):
            # A read's own limit comes after ours: a stall is to be called one.
            silence_s = max(self._slice.stall_s, 1.0) + 1.0
            make = partial(PyavChild, replace(options, patient=patient), self._slice.loop, silence_s, self._clean)
            child = self._start(partial(make, begin=lambda: self._decoding(self._slice)))
            deadline = self._deadline()
            while child.found is None and child.attend(POLL_S) and time.monotonic() < deadline and self._turn():
                pass
            if child.found:
                found = argv.delivered(options, child.found)
                spec = self._spec(found)
                child.shape(spec)
                return Opened(child, spec, found.fps, found.finite and not self._slice.loop)
            child.end()
            facts = [] if child.said else ["Video:"]
            self._refuse_or_try_patience(patient, time.monotonic() >= deadline, facts, child.said)
        raise AssertionError("unreachable")

    def _deadline(self) -> float:
        return time.monotonic() + max(self._slice.stall_s, 1.0)

    def _refuse_or_try_patience(self, patient: bool, late: bool, facts: Iterable[str], errors: Iterable[str]) -> None:
        """Return where a source that showed no picture size may show one to an FFmpeg that waits.

        Raises:
            NotOpened: it may not, or it has been tried.
            SourceError: the source has led to an address that is refused.
        """
        if self._watch and self._watch.refusal:
            raise self._watch.refusal
        if late:
            lines = shown(errors, self._clean)
            raise NotOpened("stall", "the source was opened but gave no picture in time", lines)
        unclear = ("unspecified size", "Video:", _NO_VIDEO)
        if patient or not any(phrase in line for phrase in unclear for line in (*facts, *errors)):
            detail, hopeless = reason(errors, "the source holds no video", self._clean)
            raise NotOpened("source", detail, shown(errors, self._clean), hopeless)

    def _spec(self, found: Probe, written: tuple[int, int] | None = None) -> RingSpec:
        return probe.ring_of(self._slice, found, written)
