"""Processor time of one 1080p picture from the clip to a reader of the ring, beside bare decoding and beside peers.

The limit is `ffmpeg -threads 1 -f null`: the same FFmpeg decodes the same clip and throws the pictures away. Everything
is processor time of this process and its children, system time included. Ours is a camera's whole loop, with metrics,
clocks and the doorbell, and reading the ring; handing the picture over is part of each peer. What a scaler costs stands
beside what it does to detection (`bench.scaling`), and what a camera needs of memory in a process of its own beside
what it needs in a group. The clip is 1080p, from CROWDPERF_CLIPS (default ../shared/clips).
"""

from __future__ import annotations

import functools
import importlib
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from bench import scaling
from bench.harness import Row, compared
from crowdperf.capture import ffmpeg_args, probe
from crowdperf.capture.camera_capture import CameraCapture
from crowdperf.capture.connector import OpenSource, SourceConnector
from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.network.url_policy import CheckedSource
from crowdperf.capture.probe import SourceInfo
from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.ring import FrameReader, RingSpec, unlink_instance
from crowdperf.messaging.schema import CameraChanged
from crowdperf.runtime.ffmpeg_binary import DEFAULT_FEATURES, detect_features, find_ffmpeg
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.process_config import CaptureConfig, RingSettings

CLIP = Path(os.environ.get("CROWDPERF_CLIPS", "../shared/clips")) / "towncentre_a.mp4"
SOURCE = SourceInfo(1920, 1080, 30.0, True)
WAIT_S = 10.0
MEMORY_AT = 200
GROUP = 8
SCALERS = ("fast_bilinear", "bilinear", "bicubic", "area", "neighbor")


def spent_s() -> float:
    """Processor time of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def per_frame_ms(run: Callable[[], int]) -> float:
    """Processor milliseconds by picture; `run` returns how many there were."""
    before = spent_s()
    count = run()
    assert count > 0
    return (spent_s() - before) / count * 1000


def options(pyav: bool) -> SourceOptions:
    """Return the options of a camera, but not paced."""
    binary = find_ffmpeg()
    known = DEFAULT_FEATURES if pyav else detect_features(binary)
    return SourceOptions(binary=binary, features=known, source=CheckedSource("file", str(CLIP)))


def geometry(width: int, pix_fmt: Literal["yuv420p", "bgr24"]) -> RingSpec:
    """Return the ring of the clip."""
    settings = RingSettings(pix_fmt=pix_fmt, analysis_width=width, queue_max=2, target_fps=10.0, frame_skip=0)
    return probe.build_ring_spec(settings, SOURCE)


def bare() -> int:
    """Decode and throw away."""
    command = [find_ffmpeg(), "-nostdin", "-loglevel", "info", "-nostats", "-threads", "1", "-i", str(CLIP), "-an"]
    log = subprocess.run([*command, "-f", "null", "-"], check=True, capture_output=True).stderr.decode()
    return int(log.rpartition("frame=")[2].split()[0])


class _Unpaced(SourceConnector):
    """Opens the clip as a camera does, but has it read as fast as it can be decoded."""

    def __init__(self, config: CaptureConfig, spec: RingSpec, start: Callable[[], Any]) -> None:
        super().__init__(config, str, lambda: True, lambda _: None, Metrics())
        self._spec, self._start = spec, start

    def open(self) -> OpenSource:
        """Return the child that `start` makes."""
        return OpenSource(self._start(), self._spec, SOURCE.fps, True)


class _ShardCamera(CameraCapture):
    """A camera of the product, with every step of its loop; nothing but the clip's end may end it."""

    def __init__(self, spec: RingSpec, start: Callable[[], Any], ring: Path, doorbell: Path) -> None:
        config = CaptureConfig(
            camera_id="bench",
            url=str(CLIP),
            loop=False,
            backend="ffmpeg",
            rtsp_transport="tcp",
            ffmpeg_flags="",
            ffmpeg_extra_flags="",
            rtsp_stimeout_usec=5_000_000,
            pix_fmt=spec.pix_fmt,
            analysis_width=spec.width,
            target_fps=spec.target_fps,
            frame_skip=0,
            queue_max=2,
            stall_s=WAIT_S,
            media_roots=(),
            allowed_hosts=(),
            ring=str(ring),
            doorbell=str(doorbell),
        )
        self.ended = False
        # A `wait` that returns at once: more than 240 pictures a second are to be taken.
        super().__init__(config, Metrics(), self._ignore_change, lambda: True, lambda _: None)
        self._connector = _Unpaced(config, spec, start)

    def _ignore_change(self, change: CameraChanged, _: bool) -> None:
        assert change.state in ("connecting", "live", "stopped"), change.detail
        self.ended = change.state == "stopped"


def into_ring(
    spec: RingSpec, start: Callable[[], Any], at_frame: int = 0, callback: Callable[[], object] = bool
) -> int:
    """Through the ring: a camera's loop, a reader that hears the bell and copies every picture; `look()` at one."""
    path = Path(f"/dev/shm/crowdperf.bench{os.getpid()}/ring.decode{threading.get_ident():x}")
    with tempfile.TemporaryDirectory() as folder:
        bell, count = Doorbell(Path(folder) / "bell"), 0
        camera = _ShardCamera(spec, start, path, bell.path)
        try:
            camera.step()
            reader = FrameReader(path)
            out = reader.room()
            while not camera.ended:
                camera.step()
                if reader.head() > count:
                    count += 1
                    assert bell.wait(0)
                    assert reader.read(count, out)
                    if count == at_frame:
                        callback()
            reader.close()
            return count
        finally:
            camera.close()
            bell.close()
            unlink_instance(str(path))


def _fill(child: Any, view: memoryview) -> bool:
    """Read one whole picture; return False at the end."""
    filled = 0
    while filled < len(view):
        got = child.read_into(view[filled:], WAIT_S)
        if got is None:
            return False
        filled += got
    return True


def ffmpeg(width: int, pix_fmt: Literal["yuv420p", "bgr24"], scaler: str = "fast_bilinear") -> int:
    """Return the backend `ffmpeg`."""
    spec = geometry(width, pix_fmt)
    command = [
        part.replace("flags=fast_bilinear", f"flags={scaler}")
        for part in ffmpeg_args.build_capture_args(options(False), spec)
    ]
    return into_ring(spec, lambda: FfmpegProcess(command, str))


def pyav(width: int, at_frame: int = 0, callback: Callable[[], object] = bool) -> int:
    """Return the backend `pyav`."""
    from crowdperf.capture.pyav_decoder import PyavDecoder

    spec = geometry(width, "yuv420p")

    def start() -> PyavDecoder:
        child = PyavDecoder(options(True), False, WAIT_S, str, paced=False)
        child.set_ring_spec(spec)
        return child

    return into_ring(spec, start, at_frame, callback)


Variant = Callable[[], int]
BACKENDS: tuple[tuple[str, Variant], ...] = (
    ("ffmpeg_640", lambda: ffmpeg(640, "yuv420p")),
    ("pyav_640", lambda: pyav(640)),
)


def print_memory() -> None:
    """MiB of this process and its children, shared pages divided among those that share them; the ring is in it."""
    me = psutil.Process()
    print(sum(each.memory_full_info().pss for each in (me, *me.children(recursive=True))) / 2**20)


def measure_memory(backend: str, cameras: int) -> None:
    """Measure in a process of its own, with all that a capture process imports: `cameras` at once, a thread each."""
    importlib.import_module("crowdperf.capture.process")
    everybody, printed = threading.Barrier(cameras + 1), threading.Event()

    def look() -> None:
        everybody.wait()
        printed.wait()

    def one() -> None:
        if backend == "pyav_640":
            pyav(640, MEMORY_AT, look)
        else:
            spec = geometry(640, "yuv420p")
            into_ring(
                spec, lambda: FfmpegProcess(ffmpeg_args.build_capture_args(options(False), spec), str), MEMORY_AT, look
            )

    threads = [threading.Thread(target=one) for _ in range(cameras)]
    for thread in threads:
        thread.start()
    everybody.wait()
    print_memory()
    printed.set()
    for thread in threads:
        thread.join()


def _memory(backend: str) -> list[Row]:
    """camera_memory/<backend>, and per camera of a group beside it."""
    alone, group = (_measured(backend, cameras) / cameras for cameras in (1, GROUP))
    return [
        Row(name=f"camera_memory/{backend}", value=alone, unit="MiB"),
        Row(
            name=f"camera_memory/{backend}_group_of_{GROUP}",
            value=group,
            unit="MiB",
            limit_or_peer="a process for each camera",
            ratio=group / alone,
        ),
    ]


def _measured(backend: str, cameras: int) -> float:
    command = [sys.executable, "-m", "bench.micro.decode_to_ring", backend, str(cameras)]
    return float(subprocess.run(command, check=True, capture_output=True).stdout)


def _pictures(scaler: str = "fast_bilinear", width: int = 640) -> Iterator[bytearray]:
    """Yield the pictures of the FFmpeg child, each in the same memory, for the peers that pass them on."""
    spec = geometry(width, "yuv420p")
    command = ffmpeg_args.build_capture_args(options(False), spec)
    child = FfmpegProcess([part.replace("flags=fast_bilinear", f"flags={scaler}") for part in command], str)
    picture = bytearray(spec.frame_bytes)
    while _fill(child, memoryview(picture)):
        yield picture
    child.wait_exit_code()


def opencv() -> int:
    """OpenCV's VideoCapture, and its own resize to the same size."""
    import cv2

    cv2.setNumThreads(1)
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")
    capture, count = cv2.VideoCapture(str(CLIP), cv2.CAP_FFMPEG), 0
    while True:
        there, picture = capture.read()
        if not there:
            return count
        cv2.resize(picture, (640, 360), interpolation=cv2.INTER_LINEAR)
        count += 1


def load_streams() -> int:
    """Ultralytics' LoadStreams with a buffer, so that it skips nothing."""
    from ultralytics.data.loaders import LoadStreams

    with tempfile.NamedTemporaryFile("w", suffix=".streams") as listing:
        listing.write(str(CLIP.resolve()))
        listing.flush()
        count = 0
        for _ in LoadStreams(listing.name, buffer=True):
            count += 1
        return count


def queue() -> int:
    """Pictures through a multiprocessing.Queue: pickled, a pipe, unpickled."""
    channel: Any = multiprocessing.Queue(4)
    count = 0
    for picture in _pictures():
        channel.put(bytes(picture))
        channel.get()
        count += 1
    channel.close()
    channel.join_thread()
    return count


def segments() -> int:
    """Return one shared-memory segment for each picture, its name through a queue."""
    channel: Any = multiprocessing.SimpleQueue()
    out, count = np.empty(geometry(640, "yuv420p").frame_bytes, np.uint8), 0
    for picture in _pictures():
        written = SharedMemory(create=True, size=len(picture))
        assert written.buf is not None
        written.buf[: len(picture)] = picture
        channel.put(written.name)
        read = SharedMemory(channel.get())
        assert read.buf is not None
        np.copyto(out, np.frombuffer(read.buf, np.uint8, len(picture)))
        read.close()
        written.close()
        written.unlink()
        count += 1
    return count


def rows(short: bool) -> list[Row]:
    """decode_to_ring_cpu/<variant> beside bare decoding, decode_to_ring_vs/<peer> beside the peer, and memory."""
    # Each of its cameras would say that the clip has been played.
    logging.getLogger(CameraCapture.__module__).setLevel(logging.ERROR)
    variants: list[tuple[str, Variant]] = [*BACKENDS]
    if not short:
        variants += [
            *(
                (f"ffmpeg_640_{scaler}", functools.partial(ffmpeg, 640, "yuv420p", scaler))
                for scaler in SCALERS
                if scaler != "fast_bilinear"
            ),
            ("ffmpeg_1280", lambda: ffmpeg(1280, "yuv420p")),
            ("ffmpeg_1080_bgr24", lambda: ffmpeg(1920, "bgr24")),
        ]
    peers = (("opencv", opencv), ("load_streams", load_streams), ("queue", queue), ("segment_per_frame", segments))
    for _, warm_up in peers:
        warm_up()
    found = beside_decoding(variants, 5 if short else 7)
    for backend, run in BACKENDS:
        for name, peer in peers:
            pairs = [(per_frame_ms(run), per_frame_ms(peer)) for _ in range(3)]
            found.append(compared(f"decode_to_ring_vs/{backend}/{name}", pairs, name, unit="ms/frame"))
        found += [_camera_hour(backend, found), *_memory(backend)]
    return found if short else [*found, *_detection()]


def beside_decoding(variants: Sequence[tuple[str, Variant]], times: int) -> list[Row]:
    """decode_to_ring_cpu/<variant>, each measured in turn with bare decoding."""
    for _, warm_up in variants:
        warm_up()
    pairs = [(name, [(per_frame_ms(run), per_frame_ms(bare)) for _ in range(times)]) for name, run in variants]
    return [compared(f"decode_to_ring_cpu/{name}", each, "bare decoding", unit="ms/frame") for name, each in pairs]


def _detection() -> list[Row]:
    """Return what each scaler leaves of the people, and what a wider picture adds."""
    model = scaling.detector()
    effects = {
        f"ffmpeg_{width}_{scaler}": scaling.effect(model, _pictures(scaler, width), geometry(width, "yuv420p"))
        for width, scaler in (*((640, scaler) for scaler in SCALERS), (1280, "fast_bilinear"))
    }
    return scaling.rows(effects, "ffmpeg_640_bicubic")


def _camera_hour(backend: str, found: list[Row]) -> Row:
    """Return what an hour of a camera at 10 frames/s costs: decoding is proportional to the frames."""
    cpu = next(row.value for row in found if row.name == f"decode_to_ring_cpu/{backend}")
    return Row(name=f"camera_hour_cpu/{backend}", value=cpu / 1000 * 36_000, unit="s at 10/s", repetitions=1)


if __name__ == "__main__":
    measure_memory(sys.argv[1], int(sys.argv[2]))
