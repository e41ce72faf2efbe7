"""Where an rtsp server leads: to another camera it may, to the metadata address of a cloud it may not.

The metadata service of these tests is a listener on 127.0.0.2, an address that is refused for as long as they run.
"""

from __future__ import annotations

import ipaddress
import platform
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crowdperf.capture.network import url_policy
from crowdperf.capture.network.connect_filter import ConnectFilter, ConnectFilterUnavailable
from crowdperf.cli.probe_source import probe_source
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.config import Config
from crowdperf.supervision.config_patch import ProbeRequest
from tests.conftest import missing
from tests.support.capturing import Camera, make_clip
from tests.support.rtsp_server import Mount, RtspServer

META = "127.0.0.2"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("moved") / "clip.mp4")


@pytest.fixture(autouse=True)
def watched() -> None:
    try:
        ConnectFilter((), Metrics()).close()
    except ConnectFilterUnavailable as reason:
        missing(f"connections cannot be filtered here: {reason}")


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    refused = (*url_policy._REFUSED_NETWORKS, ipaddress.ip_network(f"{META}/32"))
    monkeypatch.setattr(url_policy, "_REFUSED_NETWORKS", refused)
    with socket.create_server((META, 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(params=["ffmpeg", "pyav"])
def camera(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Camera]]:
    made: list[Camera] = []

    def make(url: str, **changes: Any) -> Camera:
        changes = {"doorbell": str(tmp_path / "bell"), "backend": request.param, **changes}
        made.append(Camera(url, tmp_path, **changes))
        return made[-1]

    yield make
    for each in made:
        each.tail.close()
        each.capture.close()


def place(listener: socket.socket, host: str = META) -> str:
    return f"rtsp://{host}:{listener.getsockname()[1]}/latest"


def nobody_came(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return True
    return False


def first_request(listener: socket.socket) -> bytes:
    listener.settimeout(60)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(60)
        return connection.recv(200)


@pytest.mark.parametrize("spelling", [META, "0x7f000002", "[::ffff:127.0.0.2]"])
@pytest.mark.parametrize("method", ["OPTIONS", "DESCRIBE"])
def test_no_redirection_leads_to_the_metadata_address(
    camera: Callable[..., Camera], clip: Path, metadata: socket.socket, method: str, spelling: str
) -> None:
    mount = Mount(clip, 10, moved_to=place(metadata, spelling), moved_on=method)
    with RtspServer({"x": mount}) as server:
        cam = camera(server.url("x"))
        cam.run_until(lambda: cam.states()[-1:] in (["misconfigured"], ["live"], ["backing_off"]))
    assert cam.states() == ["connecting", "misconfigured"]
    assert META in cam.error()
    assert "link-local or metadata address" in cam.error()
    assert nobody_came(metadata)


@pytest.mark.parametrize("allowed", [META, "localhost-two"])
def test_the_operator_may_allow_it(
    camera: Callable[..., Camera],
    clip: Path,
    metadata: socket.socket,
    allowed: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the proof that the listener would have been reached. A name counts for the addresses that it has."""
    known = socket.getaddrinfo

    def resolver(host: Any, *rest: Any, **more: Any) -> Any:
        return known(META if host == "localhost-two" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with RtspServer({"x": Mount(clip, 10, moved_to=place(metadata))}) as server:
        cam = camera(server.url("x"), allowed_hosts=(allowed,))
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(first_request, metadata)
            cam.run_until(request.done, what="a connection")
    assert request.result().startswith(b"OPTIONS rtsp://")


def test_a_name_server_that_changes_its_mind(
    camera: Callable[..., Camera], metadata: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        url_policy, "_REFUSED_NETWORKS", (*url_policy._REFUSED_NETWORKS, ipaddress.ip_network("127.0.0.1/32"))
    )
    # The answer to our own look-up. FFmpeg looks it up again and gets 127.0.0.1.
    monkeypatch.setattr(url_policy, "resolve_addresses", lambda *_: [])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        cam = camera(place(listener, "localhost"))
        cam.run_until(lambda: cam.states()[-1:] == ["misconfigured"])
        assert nobody_came(listener)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_redirection_to_a_camera_is_followed(camera: Callable[..., Camera], clip: Path, transport: str) -> None:
    there, here = Mount(clip, 10, loop=True), Mount(clip, 10)
    with RtspServer({"x": there}) as target, RtspServer({"x": here}) as server:
        here.moved_to = target.url("x")
        cam = camera(server.url("x"), rtsp_transport=transport)
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
    assert there.plays
    assert not here.plays


def test_a_snapshot_is_not_redirected_there_either(clip: Path, metadata: socket.socket) -> None:
    with RtspServer({"x": Mount(clip, 10, moved_to=place(metadata))}) as server:
        seen = probe_source(ProbeRequest(url=server.url("x")), Config(), ())
    assert not seen.ok
    assert "link-local or metadata address" in seen.detail
    assert nobody_came(metadata)


def test_capture_without_connect_filter_works_and_logs_it(
    camera: Callable[..., Camera], clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with RtspServer({"x": Mount(clip, 10, loop=True)}) as server:
        cam = camera(server.url("x"))
        cam.run_until(lambda: len(cam.tail.stamps) >= 3)
        server.reset_connections()
        cam.run_until(lambda: cam.states().count("live") == 2)
    assert caplog.text.count("cannot be checked (not on linux riscv64)") == 1
