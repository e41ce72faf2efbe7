"""What a camera's URL cannot make either backend do: read other files, or reach the metadata address of a cloud."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crowdperf.capture.ffmpeg_process import FfmpegProcess
from crowdperf.capture.network import url_policy
from crowdperf.capture.network.egress_proxy import EgressProxy
from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from crowdperf.runtime.metrics import Metrics
from tests.conftest import wait_until
from tests.support.capturing import Camera, CaptureProcess, make_clip, make_config

META = "http://169.254.169.254/latest/meta-data/iam"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of `folder`, redirections, and playlists that name other places."""

    folder = ""
    secret = ""
    log: list[str] = []  # noqa: RUF012

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=self.folder)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.log.append(self.path)
        places = {
            "/to-clip": "/clip.mp4",
            "/to-file": f"file://{self.secret}",
            "/to-meta": META,
            "/to-hex": "http://0xa9fea9fe/x",
        }
        lists = {"/file.m3u8": f"file://{self.secret}", "/meta.m3u8": META + ".ts", "/bare.m3u8": self.secret}
        if self.path in places:
            self.send_response(302)
            self.send_header("Location", places[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in lists:
            text = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{lists[self.path]}\n#EXT-X-ENDLIST\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`media/clip.mp4` is allowed, `secret.ts` beside it is not."""
    folder = tmp_path_factory.mktemp("urls")
    (folder / "media").mkdir()
    clip = make_clip(folder / "media" / "clip.mp4", seconds=2)
    make = [find_ffmpeg(), "-loglevel", "error", "-i", str(clip), "-c", "copy", str(folder / "secret.ts")]
    subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    return folder


@pytest.fixture
def web(place: Path) -> Iterator[str]:
    Handler.folder, Handler.secret, Handler.log = str(place / "media"), str(place / "secret.ts"), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["ffmpeg", "pyav"])
def camera(request: pytest.FixtureRequest, place: Path, tmp_path: Path) -> Iterator[Callable[..., Camera]]:
    made: list[Camera] = []

    def make(url: str, **changes: Any) -> Camera:
        bell = str(tmp_path / "bell")
        made.append(Camera(url, place / "media", **{"doorbell": bell, "backend": request.param, **changes}))
        return made[-1]

    yield make
    for each in made:
        each.tail.close()
        each.capture.close()


def refused(cam: Camera) -> None:
    """It has been tried and gave nothing."""
    cam.run_until(lambda: cam.states()[-1:] in (["backing_off"], ["misconfigured"]))
    assert cam.counter("frames_captured") == 0
    assert "live" not in cam.states()
    assert cam.error()


def test_a_redirection_to_a_camera_is_followed(camera: Callable[..., Camera], web: str) -> None:
    cam = camera(web + "/to-clip")
    cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    assert "/clip.mp4" in Handler.log


@pytest.mark.parametrize("path", ["/to-file", "/to-meta", "/to-hex", "/file.m3u8", "/bare.m3u8", "/meta.m3u8"])
def test_no_redirection_and_no_playlist_leads_elsewhere(
    camera: Callable[..., Camera], web: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused(camera(web + path))
    assert path in Handler.log
    # The proxy has seen the attempt, and it is the one that refused it.
    assert ("link-local or metadata" in caplog.text) == ("meta" in path or "hex" in path)


def test_the_operator_may_allow_it(camera: Callable[..., Camera], web: str, caplog: pytest.LogCaptureFixture) -> None:
    refused(camera(web + "/to-meta", allowed_hosts=("169.254.169.254",), rtsp_stimeout_usec=1_000_000, stall_s=2.0))
    assert "link-local or metadata" not in caplog.text


@pytest.mark.parametrize("backend", ["ffmpeg", "pyav"])
def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's TLS asks it for itself, and is not allowed to speak to it: such a camera was dead."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        arrived: list[socket.socket] = []

        def called() -> bool:
            with contextlib.suppress(BlockingIOError):
                arrived.append(listener.accept()[0])
            return bool(arrived)

        url = f"rtsps://127.0.0.1:{listener.getsockname()[1]}/a"
        with CaptureProcess(make_config(url, tmp_path, backend=backend)):
            wait_until(called, what="a connection of the camera's own")
            with arrived[0] as connection:
                connection.settimeout(60)
                assert connection.recv(1) == b"\x16", "a TLS handshake, no request to a proxy"


def test_an_ffmpeg_has_everything_of_the_environment_but_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`no_proxy` would lead it past the proxy."""
    for name in ("http_proxy", "no_proxy", "LANGUAGE"):
        monkeypatch.setenv(name, "kept")
    child = FfmpegProcess(["sh", "-c", 'echo "[$http_proxy][$no_proxy][$LANGUAGE]" >&2'], str)
    wait_until(lambda: not child.drain(0.1), what="its end")
    assert child.wait_exit_code() == 0
    assert child.tail == ["[][][kept]"]


def test_files_that_name_files_are_not_read(camera: Callable[..., Camera], place: Path) -> None:
    secret = place / "secret.ts"
    lists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{secret}\n#EXT-X-ENDLIST\n",
        "list.mp4": f"ffconcat version 1.0\nfile {secret.name}\n",
        "list.sdp": "v=0\nm=video 9 RTP/AVP 96\n",
    }
    shutil.copy(secret, place / "media" / "secret.ts")
    for name, text in lists.items():
        (place / "media" / name).write_text(text)
        cam = camera(name)
        refused(cam)
        assert cam.states() == ["connecting", "misconfigured"]
    (place / "media" / "secret.ts").unlink()


def test_names_are_resolved_before_they_are_trusted() -> None:
    assert url_policy.resolve_addresses("localhost", 80, ())
    with pytest.raises(url_policy.SourceError, match="allowed_hosts"):
        url_policy.resolve_addresses("169.254.169.254", 80, ())
    assert url_policy.resolve_addresses("169.254.169.254", 80, ("169.254.169.254",))


def test_the_proxy_closes_its_connections(web: str) -> None:
    proxy = EgressProxy((), Metrics())
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as client:
        client.sendall(f"CONNECT {web.partition('//')[2]} HTTP/1.1\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        proxy.close()
        assert client.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), 2)
