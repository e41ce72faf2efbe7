"""A small RTSP server: H.264 by stream copy, in real time, over interleaved TCP or UDP, with faults on request.

    with RtspServer({"lobby": Mount(path, fps=10)}) as server:
        server.url("lobby")

It runs in a thread of its own. A clip that is not H.264 is encoded once into a temporary file (baseline, no B frames).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import socket
import struct
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg
from tests.support import rtp

MTU = 1400
CLOCK = 90_000
PROBE_S = 3.0
NTP_OFFSET_S = 2_208_988_800
"""From 1900, where NTP begins, to 1970."""


NONCE = "a5c17d90b2"


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@dataclass
class Mount:
    """One stream of the server. The faults may be switched while it plays."""

    path: Path
    fps: float
    loop: bool = False
    shared_clock: bool = False
    """The stream's time begins with the first PLAY and goes on without clients; who comes later joins where it is."""
    user: str = ""
    password: str = ""
    digest: bool = False
    """Ask for the password by Digest (RFC 2617, MD5) instead of Basic."""
    slow_start_s: float = 0.0
    """Wait before DESCRIBE is answered."""
    stalled: bool = False
    """Send nothing, keep the connection."""
    sprop: bool = True
    """Announce the parameter sets in the SDP, as most cameras do."""
    replay: bool = True
    """False: once a client has got the clip to its end, every later PLAY ends at once."""
    clock_offset_s: float | None = None
    """Begin with an RTCP sender report that says that the first picture was taken this long before now."""
    codec: str = "h264"
    """Or `hevc`, or `mjpeg`: then the clip is encoded again."""
    truncated: bool = False
    """Cut each packet in half."""
    garbage: bool = False
    """Replace the content of every slice by noise."""
    moved_to: str = ""
    """Answer `moved_on` with a redirection to this URL."""
    moved_on: str = "DESCRIBE"
    plays: int = field(default=0, init=False)
    frames: list[list[bytes]] = field(default_factory=list, init=False)
    """Access units, in decoding order, each a list of NAL units without start codes."""
    times: list[int] = field(default_factory=list, init=False)
    """Presentation time of each access unit in frames; differs from its index where there are B frames."""
    parameters: tuple[bytes, bytes] = field(default=(b"", b""), init=False)
    started_at: float | None = field(default=None, init=False)
    clients: int = field(default=0, init=False)
    finished: bool = field(default=False, init=False)


def access_units(path: Path, encode: bool) -> list[list[bytes]]:
    """Return the NAL units of the clip's H.264 stream, by access unit."""
    codec = "-c:v libx264 -profile:v baseline -preset veryfast -tune zerolatency -g 20 -crf 18 -pix_fmt yuv420p"
    how = codec.split() if encode else ["-c:v", "copy", "-bsf:v", "h264_mp4toannexb"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "clip.h264"
        command = [
            find_ffmpeg(),
            "-loglevel",
            "error",
            "-i",
            str(path),
            "-map",
            "0:v:0",
            *how,
            "-f",
            "h264",
            str(out),
        ]
        if subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            assert not encode, f"{path} cannot be encoded"
            return access_units(path, encode=True)
        stream = out.read_bytes()
    units: list[list[bytes]] = [[]]
    for nal in re.split(b"\x00\x00\x00?\x01", stream)[1:]:
        kind = nal[0] & 31
        # A new access unit begins with a parameter set, SEI or delimiter after a slice, or a picture's first slice.
        first_slice = kind in (1, 5) and nal[1] & 0x80
        has_slice = any(n[0] & 31 in (1, 5) for n in units[-1])
        if has_slice and (first_slice or kind in (6, 7, 8, 9)):
            units.append([])
        units[-1].append(nal)
    return units


def presentation(path: Path, count: int) -> list[int]:
    """Presentation time of each of the clip's `count` packets, in frames; decoding order where the clip has none."""
    command = [
        find_ffmpeg(),
        "-loglevel",
        "error",
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-c",
        "copy",
        "-f",
        "framecrc",
        "-",
    ]
    listing = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout.decode()
    pts = [int(line.split(",")[2]) for line in listing.splitlines() if not line.startswith("#")]
    if len(pts) != count or len(set(pts)) != count:
        return list(range(count))
    rank = {value: index for index, value in enumerate(sorted(pts))}
    return [rank[value] for value in pts]


def rtp_payloads(nal: bytes) -> list[bytes]:
    """RFC 6184: the NAL unit itself, or fragments (FU-A)."""
    if len(nal) <= MTU:
        return [nal]
    indicator, kind = (nal[0] & 0xE0) | 28, nal[0] & 31
    parts = [nal[i : i + MTU] for i in range(1, len(nal), MTU)]
    flags = [0x80 if i == 0 else 0x40 if i == len(parts) - 1 else 0 for i in range(len(parts))]
    return [bytes((indicator, flag | kind)) + part for flag, part in zip(flags, parts)]


class _Client:
    """One connection."""

    def __init__(self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.udp: tuple[socket.socket, str, int] | None = None
        self.control: socket.socket | None = None
        self.playing: asyncio.Task[None] | None = None
        self.mount: Mount | None = None

    async def serve(self) -> None:
        """Answer requests until the client leaves."""
        try:
            while True:
                first = await self.reader.readexactly(1)
                if first == b"$":
                    _, length = struct.unpack(">BH", await self.reader.readexactly(3))
                    await self.reader.readexactly(length)
                    continue
                head = (first + await self.reader.readuntil(b"\r\n\r\n")).decode()
                if await self.answer(head):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if self.playing:
                self.playing.cancel()
            for sock in (self.udp[0] if self.udp else None, self.control):
                if sock:
                    sock.close()
            self.writer.close()

    async def answer(self, head: str) -> bool:
        """Answer one request; True when it ends the session."""
        method, url, _ = head.split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in head.splitlines()[1:]) if v}
        name = re.sub(r"^rtsp://[^/]*/|/track1$|/$", "", url)
        mount = self.server.mounts.get(name)
        extra, body, status = "", "", "200 OK"
        if mount and mount.moved_to and method == mount.moved_on:
            status, extra = "302 Moved Temporarily", f"Location: {mount.moved_to}\r\n"
        elif method == "OPTIONS":
            extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n"
        elif mount is None:
            status = "404 Not Found"
        elif mount.user and not self._may(mount, method, headers.get("authorization", "")):
            asked = f'Digest realm="camera", nonce="{NONCE}"' if mount.digest else 'Basic realm="camera"'
            status, extra = "401 Unauthorized", f"WWW-Authenticate: {asked}\r\n"
        elif method == "DESCRIBE":
            await asyncio.sleep(mount.slow_start_s)
            body = self._sdp(mount)
            extra = f"Content-Base: {url.rstrip('/')}/\r\nContent-Type: application/sdp\r\n"
        elif method == "SETUP":
            extra = f"Session: 7;timeout=60\r\nTransport: {self._transport(headers['transport'])}\r\n"
        elif method == "PLAY":
            extra = "Session: 7\r\nRange: npt=0.000-\r\n"
        reply = (
            f"RTSP/1.0 {status}\r\nCSeq: {headers.get('cseq', '0')}\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}"
        )
        self.writer.write(reply.encode())
        await self.writer.drain()
        if method == "PLAY" and mount is not None and self.playing is None:
            self.mount = mount
            self.playing = asyncio.ensure_future(self.play(mount))
        return method == "TEARDOWN"

    @staticmethod
    def _may(mount: Mount, method: str, shown: str) -> bool:
        """Check whether the client has shown that it knows the password."""
        if not mount.digest:
            return shown == "Basic " + base64.b64encode(f"{mount.user}:{mount.password}".encode()).decode()
        fields = dict(re.findall(r'(\w+)="([^"]*)"', shown.removeprefix("Digest ")))
        who, what = _md5(f"{mount.user}:camera:{mount.password}"), _md5(f"{method}:{fields.get('uri')}")
        return fields.get("response") == _md5(f"{who}:{NONCE}:{what}")

    @staticmethod
    def _sdp(mount: Mount) -> str:
        if mount.codec != "h264":
            return (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
                f"{rtp.SDP[mount.codec]}a=framerate:{mount.fps:g}\r\na=control:track1\r\n"
            )
        sps, pps = mount.parameters
        sprop = ",".join(base64.b64encode(nal).decode() for nal in (sps, pps))
        return (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n"
            "m=video 0 RTP/AVP 96\r\n"
            f"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;profile-level-id={sps[1:4].hex()};"
            f"{f'sprop-parameter-sets={sprop}' if mount.sprop else ''}\r\n"
            f"a=framerate:{mount.fps:g}\r\na=control:track1\r\n"
        )

    def _transport(self, wanted: str) -> str:
        ports = re.search(r"client_port=(\d+)-(\d+)", wanted)
        if ports is None:
            return "RTP/AVP/TCP;unicast;interleaved=0-1"
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        rtp, self.control = sockets
        rtp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.udp = (rtp, self.writer.get_extra_info("peername")[0], int(ports[1]))
        mine = "-".join(str(sock.getsockname()[1]) for sock in sockets)
        return f"RTP/AVP/UDP;unicast;client_port={ports[1]}-{ports[2]};server_port={mine}"

    async def play(self, mount: Mount) -> None:
        """Send the access units at their times, until the clip ends (no loop) or the client leaves."""
        mount.plays += 1
        mount.clients += 1
        now = time.monotonic()
        if mount.started_at is None:
            mount.started_at = now
        try:
            await self._stream(mount, now)
        except (ConnectionError, OSError):
            pass
        finally:
            mount.clients -= 1
            # Who looked at the stream for a moment only has not begun it.
            if mount.clients == 0 and mount.started_at == now and time.monotonic() - now < PROBE_S:
                mount.started_at = None

    async def _stream(self, mount: Mount, now: float) -> None:
        assert mount.started_at is not None
        began = mount.started_at if mount.shared_clock else now
        index = int((now - began) * mount.fps)
        sequence, noise = 0, random.Random(7)
        if mount.clock_offset_s is not None:
            ntp = int((time.time() - mount.clock_offset_s + NTP_OFFSET_S) * 2**32)
            first = int(mount.times[index % len(mount.frames)] * CLOCK / mount.fps) & 0xFFFFFFFF
            self.send(struct.pack(">BBHIQIII", 0x80, 200, 6, 0xC0FFEE, ntp, first, 0, 0), 1)
        while mount.loop or (index < len(mount.frames) and not (mount.finished and not mount.replay)):
            await asyncio.sleep(began + index / mount.fps - time.monotonic())
            unit = mount.frames[index % len(mount.frames)]
            turn = index // len(mount.frames) * len(mount.frames)
            stamp = int((turn + mount.times[index % len(mount.frames)]) * CLOCK / mount.fps) & 0xFFFFFFFF
            index += 1
            if mount.stalled:
                continue
            if mount.garbage:
                unit = [nal[:1] + noise.randbytes(len(nal) - 1) if nal[0] & 31 in (1, 5) else nal for nal in unit]
            packets = rtp.PAYLOADS.get(mount.codec, rtp_payloads)
            payloads = [payload for nal in unit for payload in packets(nal)]
            kind = 26 if mount.codec == "mjpeg" else 96
            for i, payload in enumerate(payloads):
                marker = 0x80 if i == len(payloads) - 1 else 0
                header = struct.pack(">BBHII", 0x80, marker | kind, sequence, stamp, 0xC0FFEE)
                self.send(header + (payload[: len(payload) // 2] if mount.truncated else payload), 0)
                sequence = (sequence + 1) & 0xFFFF
            await self.writer.drain()
        mount.finished = True
        self.send(struct.pack(">BBHI", 0x81, 203, 1, 0xC0FFEE), 1)
        await self.writer.drain()
        if self.udp is None:
            self.writer.close()

    def send(self, packet: bytes, channel: int) -> None:
        """Send one RTP (channel 0) or RTCP (1) packet."""
        if self.udp is None:
            self.writer.write(struct.pack(">BBH", 0x24, channel, len(packet)) + packet)
        elif channel == 0:
            self.udp[0].sendto(packet, (self.udp[1], self.udp[2]))
        elif self.control is not None:
            self.control.sendto(packet, (self.udp[1], self.udp[2] + 1))


class RtspServer:
    """The server and its thread; a context manager."""

    def __init__(self, mounts: dict[str, Mount], port: int = 0) -> None:
        self.mounts = mounts
        self.port = port
        self._clients: set[_Client] = set()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="rtsp-server", daemon=True)
        for mount in mounts.values():
            if mount.codec != "h264":
                mount.frames = rtp.UNITS[mount.codec](mount.path)
                mount.times = list(range(len(mount.frames)))
                continue
            mount.frames = access_units(mount.path, encode=False)
            mount.times = presentation(mount.path, len(mount.frames))
            nals = [nal for unit in mount.frames for nal in unit]
            mount.parameters = (
                next(nal for nal in nals if nal[0] & 31 == 7),
                next(nal for nal in nals if nal[0] & 31 == 8),
            )

    def url(self, name: str, credentials: bool = True) -> str:
        """Return where a client finds the mount."""
        mount = self.mounts[name]
        login = f"{quote(mount.user)}:{quote(mount.password, safe='')}@" if mount.user and credentials else ""
        return f"rtsp://{login}127.0.0.1:{self.port}/{name}"

    def reset_connections(self) -> None:
        """Cut every connection by RST."""
        self._loop.call_soon_threadsafe(self._reset)

    def _reset(self) -> None:
        for client in list(self._clients):
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(self, reader, writer)
        self._clients.add(client)
        try:
            await client.serve()
        except asyncio.CancelledError:
            # asyncio would log the end of the server as an error of this connection.
            pass
        finally:
            self._clients.discard(client)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def __enter__(self) -> RtspServer:
        self._thread.start()
        assert self._ready.wait(60), "the RTSP server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
