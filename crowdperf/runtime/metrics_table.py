"""The table of metrics: kind, name, unit, labels and help.

/metrics, /debug and docs/reference/metrics.md are built from it. Recording any other name raises ValueError.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from crowdperf.runtime.timings import STAGES

PERCENTILES = (50, 95, 99)
BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histograms' buckets, seconds."""

Kind = Literal["counter", "gauge", "text", "histogram"]


class MetricSpec(Struct, frozen=True):
    """One row of the table."""

    kind: Kind
    name: str
    unit: str
    labels: tuple[str, ...]
    """Labels besides `process`, which every value of a process has."""
    help: str
    optional_labels: bool = False
    """True: a value of the whole process has no labels."""
    exported: str = ""
    """Name at /metrics without the prefix `crowdperf_`, where it differs from `name`."""

    @property
    def exported_name(self) -> str:
        """Return the name at /metrics. Every counter ends in `_total`."""
        name = self.exported or self.name
        return (
            f"crowdperf_{name}_total" if self.kind == "counter" and not name.endswith("_total") else f"crowdperf_{name}"
        )

    def split_key(self, key: str) -> list[tuple[str, str]]:
        """Return (label, value) of a row's key; a label without a value is left out."""
        return [pair for pair in zip(self.labels, key.split(LABEL_SEPARATOR, len(self.labels) - 1)) if pair[1]]


LABEL_SEPARATOR = "/"
"""Stands between the values of a key. It is not ambiguous: labels are ids, and `CameraId` allows no slash."""
CAMERA, PART, AREA, CHANNEL = ("camera",), ("camera", "part"), ("area",), ("channel",)
"""The part of a camera is a line or zone."""
STREAM = ("stream", "camera")
"""The streams of the whole site have no camera."""
DROP_CAUSES = {
    "failed": "the model failed on their batch",
    "gone": "the camera was removed",
    "lapped": "the ring had overwritten them",
    "no_model": "the model is not loaded",
    "overload": "the model is too slow",
    "paced": "the camera gives more than target_fps",
    "refused": "their size does not fit",
    "skipped": "capture had skipped them",
    "stale": "they were too old",
    "warming": "the device was warming up",
}
RESTART_CAUSES = {
    "ended": "the stream ended",
    "short_reads": "too many incomplete frames",
    "source": "another source was configured",
    "stall": "no frames came",
    "stopped": "it was stopped",
}
LATENCIES = {
    "frame_age": "from a frame's first byte to its published detections",
    "tracking_lag": "from a frame's first byte to its tracks",
    "crossing_lag": "from a crossing's frame to its event",
}

_COUNTERS = (
    ("capture_crashes_total", "crashes", CAMERA, "Crashes of a camera's capture thread."),
    ("count_chunks_expired", "chunks", (), "Chunks of counts removed by the retention."),
    ("crossings_expired", "crossings", (), "Crossings removed by the retention."),
    ("crossings_recorded", "crossings", (), "Crossings written to the history."),
    ("crossings_too_old", "crossings", (), "Crossings that were older than the retention."),
    ("crossings_total", "crossings", CAMERA, "Crossings published by tracking."),
    ("detections_trimmed", "entries", (), "Entries trimmed from the streams of detections."),
    *((f"drops_{cause}", "frames", CAMERA, f"Frames not analysed: {why}.") for cause, why in DROP_CAUSES.items()),
    ("effects_total", "effects", (), "Effects of events committed by a worker."),
    ("events_handled", "events", (), "Entries handled by a worker."),
    ("events_trimmed", "entries", (), "Entries trimmed from the stream of events."),
    ("evidence_expired", "files", (), "Evidence pictures removed by the retention."),
    ("evidence_missed", "requests", CAMERA, "Evidence requests without a picture."),
    ("evidence_saved", "files", CAMERA, "Evidence pictures saved."),
    ("ffmpeg_restarts_total", "restarts", CAMERA, "Restarts of a camera's decoder."),
    *(
        (f"ffmpeg_restarts_{cause}", "restarts", CAMERA, f"Restarts of a camera's decoder: {why}.")
        for cause, why in RESTART_CAUSES.items()
    ),
    ("frames_analysed", "frames", CAMERA, "Frames whose detections were published."),
    ("frames_captured", "frames", CAMERA, "Frames written to the ring."),
    ("frames_tracked", "frames", CAMERA, "Frames that tracking has processed."),
    ("live_pictures_skipped", "frames", (), "Pictures that viewers' connections were too slow for."),
    ("look_disagreements", "looks", CAMERA, "Looks at the whole picture that found what was not carried."),
    ("looks_changed", "looks", CAMERA, "Looks at the whole picture because it had changed all over."),
    ("looks_whole", "looks", CAMERA, "Looks at the whole picture by the schedule, and the first ones."),
    ("notifications_failed", "notifications", CHANNEL, "Failed deliveries; most are tried again."),
    ("notifications_sent", "notifications", CHANNEL, "Delivered notifications."),
    ("observations_trimmed", "entries", (), "Entries trimmed from the stream of observations."),
    ("ppe_failures", "frames", CAMERA, "Frames on which the PPE model failed."),
    ("ppe_frames", "frames", CAMERA, "Frames analysed by the PPE model."),
    ("ppe_people", "people", CAMERA, "People examined by the PPE model."),
    ("short_reads_total", "frames", CAMERA, "Incomplete frames from a decoder."),
    ("sql_events_written", "events", (), "Events written to PostgreSQL."),
    *((f"stage_{stage}_s", "seconds", (), f"Time of inference in the stage {stage}.") for stage in STAGES),
    ("store_dropped", "sweeps", (), "Sweeps that removed data because Redis was nearly full."),
    ("task_failures", "failures", ("task",), "Failures of a task inside a process."),
)
_GAUGES = (
    ("acts", "bool", (), "1 for the housekeeping instance that does the work."),
    ("area_occupancy", "people", AREA, "People in an area."),
    ("area_uncertainty", "people", AREA, "Uncertainty of the occupancy of an area."),
    ("backoff_s", "seconds", CAMERA, "Wait before the next connection."),
    ("batch_size", "frames", (), "Frames per batch, moving average."),
    ("camera_live", "bool", CAMERA, "1 while the camera gives fresh frames."),
    ("camera_state", "bool", ("camera", "state"), "1 for the state that the camera is in."),
    ("clock_leap_s", "seconds", (), "How far the clock is ahead of the time that retention uses."),
    ("dead_letters", "entries", (), "Entries that a recorder could not handle."),
    ("fps_analysed", "frames per second", CAMERA, "Frames whose detections were published."),
    ("fps_captured", "frames per second", CAMERA, "Frames written to the ring."),
    *(
        (f"{name}_p{percentile}_ms", "milliseconds", (), f"Time {what}: percentile {percentile} of the newest 1000.")
        for name, what in LATENCIES.items()
        for percentile in PERCENTILES
    ),
    ("glass_to_capture_ms", "milliseconds", CAMERA, "Time from the camera's clock to the ring."),
    ("infer_ms", "milliseconds", (), "Time per batch, moving average."),
    ("live_cameras_watched", "cameras", (), "Cameras that somebody views."),
    ("live_pictures_sent", "frames", (), "Pictures sent to viewers since the start."),
    ("notifications_waiting", "notifications", CHANNEL, "Notifications in the queue of a channel."),
    ("look_share", "ratio", CAMERA, "Share of the pictures' area that the model looked at."),
    ("outbox_lost", "messages", (), "Messages given up because the outbox was full."),
    ("outbox_waiting", "messages", (), "Messages waiting for Redis."),
    ("pipe_bytes", "bytes", CAMERA, "Size of the pipe from FFmpeg."),
    ("ppe_ms", "milliseconds", (), "Time of the newest batch of the PPE model."),
    ("process_resident_memory_bytes", "bytes", (), "Resident memory."),
    ("process_start_time_seconds", "seconds", (), "Start of the process, Unix time."),
    ("queue_length", "people", PART, "People in a queue."),
    ("queue_longest_wait_s", "seconds", PART, "Longest wait in a queue."),
    ("redis_limit_bytes", "bytes", (), "Memory that Redis may use."),
    ("redis_up", "bool", (), "1 while the web process reaches Redis."),
    ("redis_used_bytes", "bytes", (), "Memory that Redis uses."),
    ("ring_epoch", "number", CAMERA, "Epoch of the camera's ring."),
    ("ring_head", "number", CAMERA, "Sequence number of the newest frame in the ring."),
    ("shares_owned", "shards", (), "Shards that a worker holds."),
    ("snapshot_timestamp_seconds", "seconds", (), "Time of these values, Unix time."),
    ("sql_lag_s", "seconds", (), "Age of the oldest event that is not in PostgreSQL yet."),
    ("sql_up", "bool", (), "1 while PostgreSQL answers."),
    *((f"stage_{stage}_ms", "milliseconds", (), f"Time per frame in the stage {stage}.") for stage in STAGES),
    ("stream_clients", "clients", (), "Clients of the live streams."),
    ("stream_messages_lost", "messages", (), "Live messages that slow clients have lost."),
    ("stream_rate", "messages per second", STREAM, "Messages added to a stream."),
    ("stream_rate_maximum", "messages per second", STREAM, "Maximum that the configuration lets expect."),
    ("stream_rate_minimum", "messages per second", STREAM, "Minimum that the configuration lets expect."),
    ("stream_rate_ok", "bool", STREAM, "1 while the rate of a stream is as expected."),
    ("tracking_lag_s", "seconds", CAMERA, "Time from the newest frame's first byte to its tracks."),
    ("tracks_active", "tracks", CAMERA, "Tracks that are followed."),
    ("zone_occupancy", "people", PART, "People in a zone."),
)
_TEXTS = (
    ("channel_problem", CHANNEL, "Why a channel does not deliver."),
    ("device", (), "Device of the models."),
    ("ffmpeg_stderr", CAMERA, "Last lines of FFmpeg."),
    ("line_problem", PART, "Why a line or zone is not counted."),
    ("model", (), "Person and vehicle model in use."),
    ("ppe_error", (), "Why the PPE model is not loaded, or failed on the newest frame."),
    ("ppe_model", (), "PPE model in use."),
    ("pts_source", CAMERA, "Origin of the frames' times: stream or none."),
    ("quality", CAMERA, "Quality of the connection."),
    ("state", CAMERA, "State of the connection."),
)
METRICS: dict[tuple[Kind, str], MetricSpec] = {
    (spec.kind, spec.name): spec
    for spec in (
        *(MetricSpec("counter", *row) for row in _COUNTERS),
        MetricSpec(
            "counter", "channel_dead_letters", "notifications", CHANNEL, "Dead letters.", exported="dead_letters"
        ),
        MetricSpec("counter", "dead_letters", "entries", CAMERA, "Dead letters.", optional_labels=True),
        MetricSpec("counter", "process_cpu_seconds_total", "seconds", (), "User and system time."),
        *(MetricSpec("gauge", *row) for row in _GAUGES),
        *(MetricSpec("text", name, "text", labels, text) for name, labels, text in _TEXTS),
        MetricSpec("text", "last_error", "text", CAMERA, "Last error.", optional_labels=True),
        *(
            MetricSpec("histogram", f"{name}_seconds", "seconds", (), f"Time {what}.")
            for name, what in LATENCIES.items()
        ),
    )
}
"""Kind and name -> row."""


def check_metric(kind: Kind, name: str, labels: tuple[str, ...] = ()) -> str:
    """Return the key of a value, after a look into the table.

    Args:
        kind: The kind of metric.
        name: Name in the table.
        labels: Values of its labels, in the order of the table.

    Returns:
        The values joined by `LABEL_SEPARATOR`.

    Raises:
        ValueError: The table has no such metric, or other labels.
    """
    spec = METRICS.get((kind, name))
    if spec is None:
        raise ValueError(f"no {kind} {name!r} in the table. Remedy: add it to crowdperf/runtime/metrics_table.py.")
    if len(labels) != len(spec.labels) and (labels or not spec.optional_labels):
        raise ValueError(f"{kind} {name!r} has the labels {spec.labels}, not {labels}. Remedy: correct the call.")
    return LABEL_SEPARATOR.join(labels)


def get_first_label(key: str) -> str:
    """Return the first label's value of a key from `check_metric`."""
    return key.partition(LABEL_SEPARATOR)[0]
