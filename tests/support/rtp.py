"""H.265 (RFC 7798) and Motion JPEG (RFC 2435) for the RTSP server: a clip's pictures, their RTP payloads, their SDP."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from crowdperf.runtime.ffmpeg_binary import find_ffmpeg

MTU = 1400
HEVC = "-c:v libx265 -preset ultrafast -tune zerolatency -x265-params log-level=none:keyint=20:bframes=0 -f hevc"
MJPEG = "-c:v mjpeg -huffman default -q:v 4 -pix_fmt yuvj420p -f mjpeg"


def _encoded(path: Path, how: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stream"
        command = [find_ffmpeg(), "-loglevel", "error", "-i", str(path), "-an", *how.split(), str(out)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        return out.read_bytes()


def hevc_units(path: Path) -> list[list[bytes]]:
    """Return the clip as H.265: NAL units without start codes, by access unit."""
    units: list[list[bytes]] = [[]]
    for nal in re.split(b"\x00\x00\x00?\x01", _encoded(path, HEVC))[1:]:
        kind = nal[0] >> 1 & 63
        has_slice = any(other[0] >> 1 & 63 < 32 for other in units[-1])
        if has_slice and (kind in (32, 33, 34, 35, 39) or (kind < 32 and nal[2] & 0x80)):
            units.append([])
        units[-1].append(nal)
    return units


def jpeg_units(path: Path) -> list[list[bytes]]:
    """Return the clip as JPEG pictures."""
    stream = _encoded(path, MJPEG)
    return [[b"\xff\xd8" + part] for part in stream.split(b"\xff\xd8")[1:]]


def hevc_payloads(nal: bytes) -> list[bytes]:
    """Return the NAL unit itself, or fragments (type 49)."""
    if len(nal) <= MTU:
        return [nal]
    header, kind = bytes((nal[0] & 0x81 | 49 << 1, nal[1])), nal[0] >> 1 & 63
    parts = [nal[i : i + MTU] for i in range(2, len(nal), MTU)]
    flags = [0x80 if i == 0 else 0x40 if i == len(parts) - 1 else 0 for i in range(len(parts))]
    return [header + bytes((flag | kind,)) + part for flag, part in zip(flags, parts)]


def jpeg_payloads(picture: bytes) -> list[bytes]:
    """Return the entropy-coded data behind the header of RFC 2435, quantisation tables in the first packet."""
    tables, width, height, at = b"", 0, 0, 2
    while True:
        marker, length = picture[at + 1], int.from_bytes(picture[at + 2 : at + 4], "big")
        body = picture[at + 4 : at + 2 + length]
        if marker == 0xDB:
            tables += b"".join(body[i + 1 : i + 65] for i in range(0, len(body), 65))
        elif marker == 0xC0:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        at += 2 + length
        if marker == 0xDA:
            break
    data = picture[at : picture.rindex(b"\xff\xd9")]
    tables = (tables * 2)[:128]
    found = []
    for offset in range(0, len(data), MTU):
        head = bytes((0, *offset.to_bytes(3, "big"), 1, 255, width // 8, height // 8))
        first = bytes((0, 0, 0, len(tables))) + tables if offset == 0 else b""
        found.append(head + first + data[offset : offset + MTU])
    return found


SDP = {"hevc": "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n", "mjpeg": "m=video 0 RTP/AVP 26\r\n"}
UNITS = {"hevc": hevc_units, "mjpeg": jpeg_units}
PAYLOADS = {"hevc": hevc_payloads, "mjpeg": jpeg_payloads}
