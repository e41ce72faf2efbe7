"""What the backend pyav tells libav, and what it refuses."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from crowdperf.capture.ffmpeg_args import SourceOptions
from crowdperf.capture.network.url_policy import CheckedSource, SourceError
from crowdperf.capture.pyav_decoder import build_container_options
from crowdperf.runtime.ffmpeg_binary import DEFAULT_FEATURES


def options(kind: Literal["rtsp", "http", "file"] = "rtsp", **changes: Any) -> SourceOptions:
    return SourceOptions(binary="", features=DEFAULT_FEATURES, source=CheckedSource(kind, "x"), **changes)


def test_rtsp() -> None:
    assert build_container_options(options(rtsp_transport="udp", timeout_usec=7)) == {
        "analyzeduration": "0",
        "probesize": "32",
        "flags": "low_delay",
        "protocol_whitelist": "rtsp,rtsps,rtp,srtp,tcp,udp,tls",
        "rtsp_transport": "udp",
        "timeout": "7",
    }


def test_each_kind_has_its_protocols_and_only_file_opens_files() -> None:
    assert build_container_options(options("file"))["protocol_whitelist"] == "file"
    http = build_container_options(options("http"))
    assert "file" not in http["protocol_whitelist"].split(",")
    assert http["rw_timeout"] == "5000000"
    assert "timeout" not in build_container_options(options("file"))


def test_operator_flags_replace_the_defaults() -> None:
    flags = ("-probesize", "500000", "-loglevel", "verbose", "-an")
    found = build_container_options(options(extra_flags=flags, output_flags=("-skip_frame", "nokey")))
    assert (found["probesize"], found["analyzeduration"], found["skip_frame"]) == ("500000", "0", "nokey")
    assert "loglevel" not in found
    assert build_container_options(options(long_probe=True))["analyzeduration"] == "10000000"


@pytest.mark.parametrize("flag", ["-hwaccel", "-r", "-vsync"])
def test_what_only_the_program_can_do_is_refused(flag: str) -> None:
    with pytest.raises(SourceError, match=rf"pyav cannot use the flag '{flag}'.*Remedy"):
        build_container_options(options(extra_flags=(flag, "1")))
