"""The ring: layout, seqlock, and the four traps of shared memory."""

from __future__ import annotations

import mmap
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.frames import layout, segment
from crowdperf.frames.doorbell import Doorbell
from crowdperf.frames.layout import Content
from crowdperf.frames.ring import (
    FrameReader,
    FrameStamp,
    FrameWriter,
    RingError,
    RingSpec,
    RingUnavailable,
    unlink_instance,
)
from crowdperf.frames.segment import open_folder
from tests.support.rings import make_ring_path

SPEC = RingSpec(64, 48, "yuv420p", 640, 480, 4, 9.97, 1)


@pytest.fixture
def path() -> Path:
    return make_ring_path("cam")


def put(writer: FrameWriter, value: int) -> int:
    """One picture of a single value."""
    writer.slot()[:] = bytes([value % 256]) * writer.spec.frame_bytes
    return writer.publish(1_000 + value, 2_000 + value)


def buffer(spec: RingSpec = SPEC) -> np.ndarray:
    return np.empty(spec.frame_bytes, np.uint8)


# Layout


def test_head_has_a_cache_line_to_itself() -> None:
    others = [value for name, value in vars(layout).items() if name.startswith("F_") and name != "F_HEAD"]
    assert layout.F_HEAD // 8 not in {word // 8 for word in others}
    assert layout.F_HEAD % 8 == 0


@given(
    st.integers(1, 2000),
    st.integers(1, 1200),
    st.sampled_from(layout.PIX_FMTS),
    st.integers(2, 9),
    st.integers(1, 10**6),
)
def test_header_comes_back_as_written(w: int, h: int, pix_fmt: str, slots: int, milli_fps: int) -> None:
    spec = RingSpec(
        2 * w, 2 * h, pix_fmt, 3 * w, 3 * h, slots, milli_fps / 1000, 3, milli_fps / 2000 // 0.001 / 1000, w
    )
    assert layout.parse_header(layout.header_words(spec, 77), spec.file_bytes) == (spec, 77)
    assert spec.stride % layout.PAGE == 0
    assert spec.stride >= layout.PICTURE_AT + spec.frame_bytes


@given(st.integers(1, 500), st.integers(1, 500), st.integers(16, 5000), st.integers(16, 5000))
def test_content_lies_inside_and_keeps_the_shape(w: int, h: int, source_w: int, source_h: int) -> None:
    spec = RingSpec(2 * w, 2 * h, "yuv420p", source_w, source_h, 2, 1.0, 0)
    x0, y0, cw, ch = spec.content
    assert x0 >= 0
    assert y0 >= 0
    assert x0 + cw <= spec.width
    assert y0 + ch <= spec.height
    assert x0 % 2 == y0 % 2 == 0
    assert cw >= spec.width - 2 or ch >= spec.height - 2


def test_content_is_centred() -> None:
    assert RingSpec(640, 640, "yuv420p", 1920, 1080, 2, 1.0, 0).content == Content(0, 140, 640, 360)
    assert RingSpec(640, 360, "yuv420p", 1366, 768, 2, 1.0, 0).content == Content(0, 0, 640, 360)


@pytest.mark.parametrize("word", [layout.F_MAGIC, layout.F_VERSION, layout.F_PIX_FMT, layout.F_STRIDE, layout.F_SLOTS])
def test_a_damaged_header_is_refused(path: Path, word: int) -> None:
    FrameWriter(path, SPEC).close(unlink=False)
    with path.open("r+b") as file:
        file.seek(word * 8)
        file.write((99).to_bytes(8, "little"))
    with pytest.raises(RingUnavailable):
        FrameReader(path)


# Frames


def test_a_frame_arrives_with_its_stamp(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    reader = FrameReader(path)
    assert reader.spec == SPEC
    assert reader.head() == 0
    assert put(writer, 7) == 1
    out = buffer()
    stamp = reader.read(1, out)
    assert stamp == FrameStamp(writer.epoch, 1, 1_007, 2_007)
    assert reader.stamp(1) == stamp
    assert (out == 7).all()
    assert reader.head() == 1
    assert reader.heartbeat_ns() == 2_007
    reader.close()
    writer.close(unlink=True)


@pytest.mark.parametrize("spec", [SPEC, RingSpec(638, 358, "bgr24", 638, 358, 2, 10.0, 0)])
def test_the_room_for_a_picture_holds_one_and_begins_on_a_page(path: Path, spec: RingSpec) -> None:
    writer = FrameWriter(path, spec)
    reader = FrameReader(path)
    rooms = [reader.room() for _ in range(3)]
    assert [room.shape for room in rooms] == [(spec.frame_bytes,)] * 3
    assert [room.ctypes.data % layout.PAGE for room in rooms] == [0] * 3
    writer.slot()[:] = bytes([9]) * spec.frame_bytes
    assert reader.read(writer.publish(1, 1), rooms[0])
    assert (rooms[0] == 9).all()
    reader.close()
    writer.close(unlink=True)
    assert (rooms[0] == 9).all(), "a room is the caller's own memory, not the ring's"


def test_what_was_overwritten_or_is_not_there_yet_is_not_read(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    reader = FrameReader(path)
    for value in range(1, 7):
        put(writer, value)
    out = buffer()
    readable = [sequence for sequence in range(9) if reader.read(sequence, out)]
    assert readable == [3, 4, 5, 6]
    assert reader.lapped == 5
    writer.slot()
    assert reader.stamp(3) is None, "the slot that is being written must not be read"


def test_a_picture_overwritten_during_the_copy_is_refused(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    reader = FrameReader(path)
    put(writer, 1)

    class Lapped(np.ndarray):  # type: ignore[type-arg]
        """Takes the bytes, and meanwhile the writer goes once round."""

        def __setitem__(self, where: Any, picture: Any) -> None:
            super().__setitem__(where, picture)
            for value in range(2, 7):
                put(writer, value)

    assert reader.read(1, buffer().view(Lapped)) is None
    assert reader.lapped == 1


def test_intact_after_a_transfer_that_the_caller_made(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    reader = FrameReader(path, writable=True)
    put(writer, 9)
    assert (reader.picture(1) == 9).all()
    assert reader.intact(1)
    for value in range(10, 14):
        put(writer, value)
    assert not reader.intact(1)
    assert reader.buffer.shape == (SPEC.file_bytes,)


# Trap (a): a reader's end must not remove the ring


def test_a_reader_that_exits_leaves_the_ring(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    put(writer, 1)
    code = f"from crowdperf.frames.ring import FrameReader; from pathlib import Path; FrameReader(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.exists()
    assert put(writer, 2) == 2
    assert FrameReader(path).head() == 2


# Trap (b): a restarted writer


def test_a_restarted_writer_goes_on_where_the_killed_one_was(path: Path) -> None:
    code = (
        "import os, signal, time; from pathlib import Path; from crowdperf.frames.ring import *\n"
        f"w = FrameWriter(Path({str(path)!r}), RingSpec(64, 48, 'yuv420p', 640, 480, 4, 9.97, 1))\n"
        "for v in (1, 2, 3): w.slot()[:] = bytes([v]) * w.spec.frame_bytes; w.publish(v, v)\n"
        "w.slot()[:10] = b'unfinished'; os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    reader = FrameReader(path)
    writer = FrameWriter(path, SPEC)
    assert (writer.epoch, writer.sequence) == (reader.epoch, 3)
    assert put(writer, 4) == 4
    assert not reader.stale()
    out = buffer()
    assert reader.read(4, out)
    assert (out == 4).all()


def test_frame_without_stored_head_is_published_by_successor(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    put(writer, 1)
    put(writer, 2)
    writer.close(unlink=False)
    with path.open("r+b") as file:
        file.seek(layout.F_HEAD * 8)
        file.write((1).to_bytes(8, "little"))
    assert FrameWriter(path, SPEC).sequence == 2
    assert FrameReader(path).head() == 2


@pytest.mark.parametrize(
    "change",
    [
        *({"width": 32}, {"pix_fmt": "bgr24"}, {"slots": 5}, {"target_fps": 5.0}, {"ppe_fps": 1.0}),
        {"model_width": 32},
    ],
)
def test_another_geometry_is_another_epoch_and_readers_notice(path: Path, change: dict[str, object]) -> None:
    first = FrameWriter(path, SPEC)
    put(first, 1)
    reader = FrameReader(path)
    first.close(unlink=False)
    values = {name: getattr(SPEC, name) for name in SPEC.__struct_fields__}
    second = FrameWriter(path, RingSpec(**{**values, **change}))
    assert second.epoch > reader.epoch
    assert second.sequence == 0
    assert reader.stale()
    assert FrameReader(path).epoch == second.epoch


def test_epochs_grow_even_when_the_clock_goes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FrameWriter(path, SPEC)
    first.close(unlink=False)
    monkeypatch.setattr("crowdperf.frames.ring.time.time_ns", lambda: 1)
    second = FrameWriter(path, RingSpec(32, 48, "yuv420p", 640, 480, 4, 10.0, 0))
    assert second.epoch == first.epoch + 1


def test_a_removed_ring_is_stale(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    reader = FrameReader(path)
    assert not reader.stale()
    writer.close(unlink=True)
    assert reader.stale()
    with pytest.raises(RingUnavailable):
        FrameReader(path)


def test_a_second_writer_is_refused_by_name(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    with pytest.raises(RingError, match=f"process {os.getpid()}.*Remedy"):
        FrameWriter(path, SPEC)
    writer.close(unlink=False)
    FrameWriter(path, SPEC)


def test_an_old_writer_does_not_unlink_its_successors_ring(path: Path) -> None:
    old = FrameWriter(path, SPEC)
    path.unlink()
    FrameWriter(path, SPEC)
    old.close(unlink=True)
    assert path.exists()


def test_foreign_content_is_replaced(path: Path) -> None:
    open_folder(path.parent)
    path.write_bytes(b"something else")
    path.chmod(0o600)
    with pytest.raises(RingUnavailable):
        FrameReader(path)
    FrameWriter(path, SPEC)
    assert FrameReader(path).spec == SPEC


# Trap (c): no room


def test_no_room_is_one_clear_error_and_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "_free", lambda _: SPEC.file_bytes - 1)
    with pytest.raises(RingError, match=r"needs 0\.0 MiB .*MiB free\. Remedy"):
        FrameWriter(path, SPEC)
    assert not list(path.parent.glob(f"*{path.name}*"))


def in_a_tmpfs_of_1_mb(path: Path, script: str) -> list[str]:
    """The lines that a script says whose argument is a tmpfs that is really so small."""
    begin = (
        "import sys; from pathlib import Path\n"
        "from crowdperf.frames import segment; from crowdperf.frames.ring import *\n"
        "folder = Path(sys.argv[1]); ring = folder / 'ring'\n"
    )
    mount = 'mkdir -p $0 && mount -t tmpfs -o size=1m,mode=700 none $0 && exec $1 -c "$2" $0'
    folder = f"/tmp/{path.name}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, folder, sys.executable, begin + script],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        from tests.conftest import missing

        missing(f"no private mount here: {done.stderr.strip()}")
    os.rmdir(folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_room_that_vanishes_is_noticed_before_the_first_store(path: Path) -> None:
    """The budget check sees another limit."""
    error, left = in_a_tmpfs_of_1_mb(
        path,
        "segment._free = lambda path: 1 << 40\n"
        "try: FrameWriter(ring, RingSpec(1920, 1080, 'bgr24', 1920, 1080, 4, 10.0, 0))\n"
        "except RingFull as error: print(error); print(list(folder.iterdir()))",
    )
    assert "Remedy: enlarge it" in error
    assert left == "[]"


def test_a_ring_makes_way_for_the_one_that_replaces_it(path: Path) -> None:
    """Both together would not fit; the room is there once the old one's readers have let go."""
    assert in_a_tmpfs_of_1_mb(
        path,
        "old, new = (RingSpec(640, 360, 'yuv420p', 640, 360, 2, fps, 0) for fps in (10.0, 5.0))\n"
        "first = FrameWriter(ring, old); first.close(unlink=False)\n"
        "second = FrameWriter(ring, new)\n"
        "print(second.epoch > first.epoch, FrameReader(ring).spec == new)\n"
        "second.publish(1, 1); second.close(unlink=False); reader = FrameReader(ring)\n"
        "out = reader.room()\n"
        "try: FrameWriter(ring, old)\n"
        "except RingFull as error: made_way = error.made_way\n"
        "print(made_way == second.epoch, reader.stale(), reader.read(1, out) is not None, list(folder.iterdir()))\n"
        "reader.close()\n"
        "third = FrameWriter(ring, old, above=2 * made_way)\n"
        "print(third.epoch == 2 * made_way + 1, FrameReader(ring).spec == old)\n"
        "third.close(unlink=True)\n"
        "try: FrameWriter(ring, RingSpec(640, 360, 'yuv420p', 640, 360, 4, 10.0, 0))\n"
        "except RingFull as error: print(error.made_way)",
    ) == ["True True", "True True True []", "True True", "0"]


@pytest.mark.parametrize("spoil", ["directory", "map"])
def test_ring_that_cannot_be_mapped_is_reported_and_released(
    path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    with monkeypatch.context() as patch:
        if spoil == "directory":
            open_folder(path.parent)
            path.mkdir()
        else:
            # Neither shared nor private: the kernel refuses that.
            patch.setattr(mmap, "MAP_SHARED", 0)
        with pytest.raises(RingError, match=r"cannot be opened: .*Remedy"):
            FrameWriter(path, SPEC)
    if spoil == "directory":
        path.rmdir()
    FrameWriter(path, SPEC)


def test_every_page_is_allocated_at_the_start(path: Path) -> None:
    FrameWriter(path, SPEC)
    assert path.stat().st_blocks * 512 >= SPEC.file_bytes


# Trap (d): silence is visible


def test_a_silent_camera_shows(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    put(writer, 1)
    reader = FrameReader(path)
    stamp = reader.stamp(1)
    writer.beat()
    assert reader.head() == 1
    assert stamp == reader.stamp(1)
    assert reader.heartbeat_ns() > 10**6, "the writer lives, although no frame comes"


@pytest.mark.parametrize(
    "spec",
    [
        RingSpec(63, 48, "yuv420p", 1, 1, 4, 1.0, 0),
        RingSpec(64, 48, "yuv420p", 0, 1, 4, 1.0, 0),
        RingSpec(64, 48, "yuv420p", 1, 1, 1, 1.0, 0),
        RingSpec(64, 48, "nv16", 1, 1, 4, 1.0, 0),
    ],
)
def test_impossible_rings_are_refused(path: Path, spec: RingSpec) -> None:
    with pytest.raises(RingError, match="Remedy"):
        FrameWriter(path, spec)


def test_unlink_instance_bears_files_that_others_remove(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder(path.parent)
    path.touch()
    listed = [path, path.with_name("another program's"), path.with_name(f"{path.name}.gone")]
    with monkeypatch.context() as while_listed:
        while_listed.setattr(Path, "glob", lambda *_: iter(listed))
        assert unlink_instance(str(path)[:-3]) == [path]


def test_unlink_instance_takes_only_its_own(path: Path) -> None:
    mine, unfinished = path, path.with_name(f".{path.name}.1.part")
    other = path.with_name("other.cam")
    open_folder(path.parent)
    for file in (mine, unfinished, other):
        file.touch()
    assert unlink_instance(str(path)[:-3]) == [unfinished, mine]
    assert other.exists()
    other.unlink()
    with pytest.raises(RingError):
        unlink_instance("/dev/shm/")


def test_unlink_instance_leaves_a_folder_that_others_use(tmp_path: Path) -> None:
    """Rings of old layouts lay in the folder of all shared memory itself."""
    shared, private = tmp_path / "shared", tmp_path / "private"
    shared.mkdir()
    shared.chmod(0o1777)
    open_folder(private)
    for folder in (shared, private):
        unlink_instance(f"{folder}/ring.")
    assert (shared.exists(), private.exists()) == (True, False)


# Privacy


def test_rings_lie_in_a_folder_that_others_cannot_read(path: Path) -> None:
    writer = FrameWriter(path, SPEC)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    writer.close(unlink=False)


@pytest.mark.parametrize("made", ["open to others", "of another user", "a link"])
def test_a_folder_made_beforehand_is_refused(path: Path, tmp_path: Path, monkeypatch: Any, made: str) -> None:
    if made == "a link":
        path.parent.symlink_to(tmp_path)
    else:
        path.parent.mkdir(mode=0o700)
    if made == "open to others":
        path.parent.chmod(0o755)
    if made == "of another user":
        monkeypatch.setattr(segment.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RingError, match=r"not private.*Remedy"):
        FrameWriter(path, SPEC)
    if made == "a link":
        path.parent.unlink()


@pytest.mark.parametrize("made", ["open to others", "a link"])
def test_a_ring_made_beforehand_is_not_read(path: Path, made: str) -> None:
    FrameWriter(path, SPEC).close(unlink=False)
    if made == "open to others":
        path.chmod(0o644)
    else:
        path.rename(path.with_name("target"))
        path.symlink_to("target")
    with pytest.raises(RingUnavailable):
        FrameReader(path)
    path.with_name("target").unlink(missing_ok=True)
    path.unlink()


def test_a_link_in_place_of_a_ring_is_never_written_through(path: Path, tmp_path: Path) -> None:
    open_folder(path.parent)
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    path.symlink_to(target)
    with pytest.raises(RingError, match="Remedy"):
        FrameWriter(path, SPEC)
    assert target.read_bytes() == b"kept"
    path.unlink()


# Doorbell


def test_the_doorbell_rings_once_per_wait(path: Path, tmp_path: Path) -> None:
    bell = Doorbell(tmp_path / "bell.sock")
    writer = FrameWriter(path, SPEC, tmp_path / "bell.sock")
    assert not bell.wait(0)
    put(writer, 1)
    put(writer, 2)
    assert bell.wait(5)
    assert not bell.wait(0)
    bell.close()
    assert not (tmp_path / "bell.sock").exists()


def test_the_writer_never_waits_for_a_listener(path: Path, tmp_path: Path) -> None:
    socket_path = tmp_path / "bell.sock"
    writer = FrameWriter(path, SPEC, socket_path)
    put(writer, 1)
    bell = Doorbell(socket_path)
    for value in range(2_000):
        put(writer, value)
    again = Doorbell(socket_path)
    put(writer, 1)
    assert again.wait(5), "a new listener under the old name is found"
    bell.close()
    assert socket_path.exists(), "the old listener must not remove the new one's socket"
    again.close()
    put(writer, 1)


def test_a_doorbell_that_cannot_be_bound_says_so(tmp_path: Path) -> None:
    with pytest.raises(RingError, match="Remedy"):
        Doorbell(tmp_path / ("x" * 120))


def test_publishing_is_a_handful_of_stores(path: Path) -> None:
    """No timed assertion: only that a heartbeat follows a frame without a call of its own."""
    writer = FrameWriter(path, SPEC)
    now = time.monotonic_ns()
    writer.slot()
    writer.publish(1, now)
    assert FrameReader(path).heartbeat_ns() == now
