"""What FFmpeg gets of the environment."""

from __future__ import annotations

import pytest

from crowdperf.runtime.ffmpeg_binary import build_ffmpeg_environment


def test_ffmpeg_gets_no_secret_of_another_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CROWDPERF_POSTGRES_DSN", "SMTP_PASSWORD", "MQTT_PASS", "SIGNING_SECRET", "CHAT_WEBHOOK", "API_KEY"):
        monkeypatch.setenv(name, "canary")
    for name in ("CUDA_VISIBLE_DEVICES", "LIBVA_DRIVER_NAME", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, "kept")
    environment = build_ffmpeg_environment()
    assert "canary" not in environment.values()
    assert list(environment.values()).count("kept") == 3
    assert "PATH" in environment
