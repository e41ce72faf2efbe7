"""The configuration: what is refused, and with which words; precedence; the configuration of a process."""

from __future__ import annotations

import json
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdperf.primitives.redaction import redact_url
from crowdperf.settings import process_config
from crowdperf.settings.base import MAIL_ADDRESS, ConfigError
from crowdperf.settings.config import Config, Deployment, build_json_schema, load, parse
from crowdperf.settings.environment import Environment, Paths, read_environment
from crowdperf.supervision.programs import build_programs
from tests.conftest import ROOT

PATHS = Paths(Path("/tmp/crowdperf-test/var"))


def camera(**more: Any) -> dict[str, Any]:
    return {"id": "lobby", "url": "rtsp://user:secret@10.0.0.1/stream", **more}


def config(**more: Any) -> Config:
    return parse(json.dumps({"cameras": [camera()], **more}).encode())


def test_the_shipped_file_is_valid() -> None:
    load(ROOT / "config.json")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ('{"sight": {}}', ["unknown field `sight`", "Remedy"]),
        ('{"cameras": [{"id": "a", "url": "x", "lines": [{"colour": 1}]}]}', ["colour", "$.cameras[0].lines[0]"]),
        ('{"target_fps": 0}', ["> 0", "$.target_fps"]),
        ('{"target_fps": "NaN"}', ["$.target_fps"]),
        ('{"storage_backend": "mongo"}', ["'mongo'", "redis"]),
        ('{"site": {"timezone": "Mars/Olympus"}}', ["Mars/Olympus", "Europe/Berlin"]),
        ('{"cameras": [{"id": "A b", "url": "rtsp://x"}]}', ["$.cameras[0].id"]),
        ('{"cameras": [{"id": "a", "url": "rtsp://x"}, {"id": "a", "url": "rtsp://y"}]}', ["'a' is used twice"]),
        ('{"cameras": [{"id": "a", "url": "-i /etc/passwd"}]}', ["begins with '-'"]),
        ('{"cameras": [{"id": "a", "url": "concat:/etc/passwd"}]}', ["scheme 'concat'"]),
        ('{"cameras": [{"id": "a", "url": "x", "lines": [{"id": "l", "p1": [0,1], "p2": [0,1]}]}]}', ["no length"]),
        ('{"cameras": [{"id": "a", "url": "rtsp://u:top/secret@h/x"}]}', ["$.cameras[0].url", "%2F"]),
        ('{"cameras": [{"id": "a", "url": "rtsp://u:1/topsecret@h/x"}]}', ["$.cameras[0].url", "%2F"]),
        ('{"redis": {"url": "http://db"}}', ["redis.url", "redis://"]),
        ('{"web": {"ssl_certfile": "a.pem"}}', ["go together"]),
        ("{", ["not valid JSON"]),
    ],
)  # fmt: skip
def test_bad_configuration_is_one_clear_error(document: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(document.encode())
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    for word in words:
        assert word in message


MAIL = {"type": "email", "id": "m", "host": "mail.example", "sender": "a@b.example", "to": ["c@d.example"]}
MQTT = {"type": "mqtt", "id": "q", "host": "broker.example"}
HOOK = {"type": "webhook", "id": "w", "url": "https://hooks.example/a"}
LONG = "x" * 70


@pytest.mark.parametrize(
    ("channel", "key", "value"),
    [
        *((MAIL, "sender", address) for address in (".a@b.example", "a..b@c.example", "jürgen@b.example", "a@.b")),
        *((MAIL, "sender", address) for address in ("a@b..c", "a@dömäin.example", "a,b@c.example", f"a@{LONG}.de")),
        *((MAIL, "to", [address]) for address in ("a@[192.0.2.1]", "a@[x", "ä@b.example", "a.@b.example", "a\x7f@b")),
        *(
            (one, "host", host)
            for one in (MAIL, MQTT)
            for host in ("a..b.example", ".b.example", LONG, "a\x00b", "a b")
        ),
        *((HOOK, "url", url) for url in ("http://a..b.example/", f"http://{LONG}.example/", "http://.b.example/")),
        (HOOK, "url", "http://b.example/a\x7f"),
    ],
)
def test_an_address_that_no_library_accepts_is_refused(channel: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"\$\.alerts\.channels\[0\].* Remedy: "):
        config(alerts={"channels": [{**channel, key: value}]})


@pytest.mark.parametrize(
    ("channel", "key", "value"),
    [
        (MAIL, "sender", "first.last+tag@mail-1.b_c.example"),
        (MAIL, "host", "münchen.example"),
        *((one, "host", host) for one in (MAIL, MQTT) for host in ("localhost", "::1", "192.0.2.1", "b.example.")),
        *((HOOK, "url", url) for url in ("http://[::1]:8123/", "https://münchen.example/Tür?t=ü", "http://ha_1/")),
    ],
)
def test_addresses_that_libraries_accept_stay(channel: dict[str, Any], key: str, value: str) -> None:
    config(alerts={"channels": [{**channel, key: value}]})


@given(st.from_regex(MAIL_ADDRESS, fullmatch=True))
@settings(max_examples=30)
def test_an_accepted_mail_address_makes_a_message(address: str) -> None:
    message = EmailMessage()
    message["From"] = Address("Riverside", addr_spec=address)
    message["To"] = address
    assert [str(one.addr_spec) for one in message["To"].addresses] == [address]
    message.as_bytes()


@pytest.mark.parametrize(
    "variables", [{"TARGET_FPS": "fast"}, {"QUEUE_MAX": "0"}, {"RTSP_STIMEOUT_USEC": "-1"}, {"TARGET_FPS": "nan"}]
)
def test_a_bad_environment_variable_is_named(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(variables))):
        read_environment(variables)


@pytest.mark.parametrize(
    ("in_camera", "in_environment", "in_file", "expected"),
    [(3, "4", 5, 3), (None, "4", 5, 4), (None, None, 5, 5), (None, None, None, 10)],
)
def test_precedence_of_target_fps(
    in_camera: float | None, in_environment: str | None, in_file: float | None, expected: float
) -> None:
    document: dict[str, Any] = {"cameras": [camera(**({"target_fps": in_camera} if in_camera else {}))]}
    if in_file:
        document["target_fps"] = in_file
    env = read_environment({"TARGET_FPS": in_environment} if in_environment else {})
    made = process_config.build_capture_config(
        Deployment(parse(json.dumps(document).encode()), PATHS, env, Path("/")), "lobby"
    )
    assert made.target_fps == expected


def test_the_documented_environment_defaults() -> None:
    env = read_environment({})
    assert (env.rtsp_stimeout_usec, env.queue_max, env.cuda_empty_every) == (5_000_000, None, 0)
    assert config().queue_max == 2


@given(st.sampled_from(["rtsp", "http"]), st.text("abc123!$", min_size=1), st.text("abc123!$", min_size=1))
def test_redacted_shows_neither_user_nor_password(scheme: str, user: str, password: str) -> None:
    shown = redact_url(f"{scheme}://U{user}:P{password}@cam.example:554/live?token=T{password}")
    assert shown == f"{scheme}://***@cam.example:554/live?***"


def test_the_web_config_holds_no_password() -> None:
    assert b"secret" not in msgspec.json.encode(process_config.build_web_config(Deployment(config(), PATHS)))


def test_the_schema_is_complete_json_schema() -> None:
    assert {"storage_backend", "frame_skip", "rtsp_transport", "ffmpeg_flags"} <= set(
        build_json_schema()["$defs"]["Config"]["properties"]
    )


@given(st.integers(1, 16))
def test_every_camera_belongs_to_exactly_one_shard(shards: int) -> None:
    cameras = [{"id": f"c{n}", "url": "rtsp://x"} for n in range(50)]
    made = parse(json.dumps({"cameras": cameras, "tracking": {"shards": shards}}).encode())
    owned = [
        row.camera_id
        for shard in range(shards)
        for row in process_config.build_tracking_config(Deployment(made, PATHS, Environment()), shard).cameras
    ]
    assert sorted(owned) == sorted(row["id"] for row in cameras)


def test_a_changed_camera_changes_only_the_programs_that_use_it() -> None:
    cameras = [{"id": name, "url": f"rtsp://{name}"} for name in ("a", "b")]
    before = parse(json.dumps({"cameras": cameras}).encode())
    cameras[0]["url"] = "rtsp://elsewhere"
    after = parse(json.dumps({"cameras": cameras}).encode())
    digests = [
        {row.name: row.digest for row in build_programs(Deployment(made, PATHS, Environment(), Path("/")))}
        for made in (before, after)
    ]
    changed = {name for name in digests[0] if digests[0][name] != digests[1][name]}
    assert changed == {"capture-a"}


def test_a_data_folder_too_deep_for_sockets_is_refused() -> None:
    with pytest.raises(ConfigError, match="too deep"):
        Paths(Path("/tmp") / ("x" * 100)).check_socket_length()


def test_new_number_of_instances_restarts_only_sharers() -> None:
    """A recorder takes what comes next: how many siblings it has is nothing to it."""
    before, after = (
        parse(json.dumps({"workers": dict.fromkeys(("notify", "areas", "recorder", "housekeeping"), n)}).encode())
        for n in (1, 2)
    )
    first, second = (
        {row.name: row.digest for row in build_programs(Deployment(made, PATHS, Environment(), Path("/")))}
        for made in (before, after)
    )
    added = set(second) - set(first)
    assert added == {"worker-notify-1", "worker-areas-1", "worker-recorder-1", "worker-housekeeping-1"}
    changed = {name for name in first if first[name] != second.get(name)}
    assert changed == {"worker-notify-0", "worker-areas-0"}
