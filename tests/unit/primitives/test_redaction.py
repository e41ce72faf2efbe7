"""Secrets leave no log, message or shown configuration."""

from __future__ import annotations

import pytest

from crowdperf.primitives.redaction import make_redactor, redact, redact_config, redact_dsn, redact_url


def test_credentials_of_every_url_in_a_text() -> None:
    assert redact("rtsp://u:p@a/1, then redis://:pw@b:6379") == "rtsp://***@a/1, then redis://***@b:6379"
    assert redact("mail to a@b.c") == "mail to a@b.c"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:pass@cam/live?token=1#x", "rtsp://***@cam/live?***"),
        ("rtsp://cam/live", "rtsp://cam/live"),
        ("rtsp://cam:554/user=admin&password=abcd&channel=1", "rtsp://cam:554/***"),
        ("rtsp://cam/a/user%3Dadmin_password%3Dabcd/ch1", "rtsp://cam/a/***/ch1"),
        ("rtsp://user:pa/ss@cam/live", "rtsp://***"),
        ("rtsp://[::1/live", "rtsp://***"),
        ("rtmp://cam/live/key1", "rtmp://cam/live/***"),
        ("RTMPS://cam:443/app/room/key1/", "rtmps://cam:443/app/***/***/"),
        ("rtmp://cam/key1", "rtmp://cam/***"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown


def test_config_is_copied_and_odd_parts_stay() -> None:
    document = {"cameras": [{"id": "a", "url": "rtsp://u:p@a"}, {"id": "b"}, 3], "redis": {"url": "redis://:p@r"}}
    shown = redact_config(document)
    assert shown["cameras"] == [{"id": "a", "url": "rtsp://***@a"}, {"id": "b"}, 3]
    assert shown["redis"] == {"url": "redis://***@r"}
    assert document["redis"] == {"url": "redis://:p@r"}
    assert redact_config({"redis": None}) == {"redis": None}


def test_dsn_in_every_form() -> None:
    dsn = "postgresql://user:p%40ss@host/db?sslpassword=key1"
    for text in (dsn, "password p%40ss", "password p@ss", "key1"):
        shown = redact_dsn(text, dsn)
        assert "***" in shown
        assert not {"p%40ss", "p@ss", "key1"} & set(shown.split())


CANARY = "Kanari77"
PLACES = {
    "login": f"rtsp://admin:{CANARY}@192.0.2.1/live",
    "user": f"rtsp://{CANARY}@192.0.2.1/live",
    "path": f"rtsp://192.0.2.1/user=admin&password={CANARY}&channel=1.sdp?real",
    "underscores": f"rtsp://192.0.2.1/user=admin_password={CANARY}_channel=1.sdp",
    "query": f"http://192.0.2.1/video?user=admin&password={CANARY}",
    "fragment": f"http://192.0.2.1/video#{CANARY}",
    "stream key": f"rtmp://192.0.2.1/live/{CANARY}",
    "bare slash": f"rtsp://admin:a/{CANARY}@192.0.2.1/live",
    "bare question mark": f"rtsp://admin:a?{CANARY}@192.0.2.1/live",
    "bare hash": f"rtsp://admin:a#{CANARY}@192.0.2.1/live",
}


@pytest.mark.parametrize("url", PLACES.values(), ids=PLACES)
def test_no_place_of_a_url_shows_its_secret(url: str) -> None:
    path = url.partition("192.0.2.1")[2]
    assert CANARY not in redact_url(url)
    assert CANARY not in redact(f"method DESCRIBE failed: 401 Unauthorized, {url}: Server returned 401")
    assert CANARY not in str(redact_config({"cameras": [{"id": "a", "url": url}], "site": {"name": f"see {url}"}}))
    assert CANARY not in make_redactor(url)(f"{url}: 401; GET {path} failed")


@pytest.mark.parametrize(
    "document",
    [
        {"postgres": {"dsn": f"postgresql://crowd:{CANARY}@db/crowd"}},
        {"postgres": {"dsn": f"host=db user=crowd password='{CANARY}' dbname=crowd"}},
        {"redis": {"url": f"redis://:{CANARY}@127.0.0.1/0"}},
        {"alerts": {"channels": [{"type": "webhook", "url": f"https://hooks.example/T0/{CANARY}"}]}},
        {"alerts": {"channels": [{"type": "mqtt", "url": f"mqtts://site:{CANARY}@broker"}]}},
        {"ffmpeg_flags": f"-headers 'Authorization: Basic {CANARY}'"},
        {"cameras": [{"id": "a", "ffmpeg_flags": f"-headers 'Authorization: Bearer {CANARY}'"}]},
    ],
)
def test_no_setting_shows_its_secret(document: dict[str, object]) -> None:
    assert CANARY not in str(redact_config(document))
    assert CANARY in str(document)


def test_ordinary_texts_stay() -> None:
    for text in ("door 2: 14 in, 3 out", "see docs/redis.md", "batch=4 queue=2", "http://127.0.0.1:8080/"):
        assert redact(text) == text
