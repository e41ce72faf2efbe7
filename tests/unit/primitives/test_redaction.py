"""Secrets leave no log, message or shown configuration."""

from __future__ import annotations

import pytest

from crowdperf.primitives.redaction import redact, redact_config, redact_dsn, redact_url


def test_credentials_of_every_url_in_a_text() -> None:
    assert redact("rtsp://u:p@a/1, then redis://:pw@b:6379") == "rtsp://***@a/1, then redis://***@b:6379"
    assert redact("mail to a@b.c") == "mail to a@b.c"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:pass@cam/live?token=1#x", "rtsp://***@cam/live?***"),
        ("rtsp://cam/live", "rtsp://cam/live"),
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
