"""Prometheus's text format, version 0.0.4, from the snapshots of all processes. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from crowdperf.runtime import ProcessSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATE_TEXT = "state"
LABEL_BY_PROCESS = {"worker-notify": "channel", "worker-areas": "area"}
"""Process -> what its values are of, where not of a camera."""

_PROCESS_METRICS: tuple[tuple[str, str, str, Callable[[ProcessSnapshot], float]], ...] = (
    ("process_resident_memory_bytes", "gauge", "Resident memory.", lambda snapshot: snapshot.rss_bytes),
    ("process_cpu_seconds_total", "counter", "User and system time.", lambda snapshot: snapshot.cpu_s),
    ("process_start_time_seconds", "gauge", "Start of the process, Unix time.", lambda snapshot: snapshot.started_at),
    ("snapshot_timestamp_seconds", "gauge", "When these values were published.", lambda snapshot: snapshot.at),
)


class _MetricFamilies:
    """Samples grouped by metric: the format wants all of one metric together, under one HELP and one TYPE."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str, list[str]]] = {}

    def add(self, name: str, kind: str, text: str, labels: Iterable[tuple[str, str]], value: float) -> None:
        full = "crowdperf_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)
        pairs = ",".join(f'{key}="{escape_label(label)}"' for key, label in labels if label)
        family = self._families.setdefault(full, (kind, text, []))
        # The same name as a counter here and a gauge there would be two families of one name, which no scraper takes.
        if family[0] == kind:
            family[2].append(f"{full}{{{pairs}}} {_format_number(value)}")

    def render(self) -> str:
        lines = []
        for name in sorted(self._families):
            kind, text, samples = self._families[name]
            lines += [f"# HELP {name} {_escape_help(text)}", f"# TYPE {name} {kind}", *samples]
        return "\n".join(lines) + "\n"


def render(snapshots: list[ProcessSnapshot], cameras_live: dict[str, bool]) -> str:
    """The page.

    Args:
        snapshots: of every process that published one.
        cameras_live: camera id -> whether it gives fresh frames.
    """
    families = _MetricFamilies()
    for camera, live in sorted(cameras_live.items()):
        families.add("camera_live", "gauge", "1 while the camera gives fresh frames.", [("camera", camera)], live)
    for snapshot in sorted(snapshots, key=lambda row: row.process):
        process = [("process", snapshot.process)]
        for name, kind, text, value in _PROCESS_METRICS:
            families.add(name, kind, text, process, value(snapshot))
        for name, row in snapshot.counters.items():
            full = name if name.endswith("_total") else f"{name}_total"
            for camera, number in row.items():
                families.add(
                    full,
                    "counter",
                    _describe_metric(name),
                    [*process, *_build_labels(snapshot.process, camera)],
                    number,
                )
        for name, row in snapshot.gauges.items():
            for camera, number in row.items():
                families.add(
                    name, "gauge", _describe_metric(name), [*process, *_build_labels(snapshot.process, camera)], number
                )
        for camera, state in snapshot.texts.get(STATE_TEXT, {}).items():
            labels = [*process, ("camera", camera), ("state", state)]
            families.add("camera_state", "gauge", "1 for the state that the camera is in.", labels, 1)
    return families.render()


def _build_labels(process: str, text: str) -> list[tuple[str, str]]:
    """A value may be of a camera, or of one of its lines or zones: `camera/zone`; some are of something else."""
    for kind, label in LABEL_BY_PROCESS.items():
        if process == kind or process.startswith(f"{kind}-"):
            return [(label, text)]
    name, _, part = text.partition("/")
    return [("camera", name), ("part", part)]


def escape_label(label: str) -> str:
    """A label's value with backslash, quote and line feed escaped."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _describe_metric(name: str) -> str:
    """A metric's name as a sentence; the exact meaning is in docs/web-server.md."""
    words = name.removesuffix("_total").replace("_", " ")
    return words[:1].upper() + words[1:] + "."


def _format_number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
