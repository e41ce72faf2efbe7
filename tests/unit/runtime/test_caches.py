"""What housekeeping does every minute: registered caches are cut to their bound, the newest entries stay."""

from __future__ import annotations

from collections import OrderedDict

from crowdperf.runtime.metrics import MAX_ENTRIES, Metrics, prune_oldest
from crowdperf.runtime.process_runtime import ProcessRuntime


def test_the_newest_entries_stay() -> None:
    cache = {number: str(number) for number in range(MAX_ENTRIES + 7)}
    assert prune_oldest(cache) == 7
    assert next(iter(cache)) == 7
    assert len(cache) == MAX_ENTRIES
    assert prune_oldest(cache) == 0
    assert prune_oldest(cache, 1) == MAX_ENTRIES - 1
    assert list(cache) == [MAX_ENTRIES + 6]


def test_every_registered_cache_is_pruned_and_counted() -> None:
    runtime = ProcessRuntime("inference", 0)
    tracks: OrderedDict[int, float] = OrderedDict((number, 0.0) for number in range(MAX_ENTRIES + 5))
    small = {"a": 1}
    runtime.register_cache("tracks", lambda: prune_oldest(tracks))
    runtime.register_cache("small", lambda: prune_oldest(small))
    runtime.register_cache("own", lambda: 3)
    for number in range(MAX_ENTRIES + 2):
        runtime.metrics.set_gauge("fps_captured", 1.0, str(number))
    assert runtime.housekeep() == {"metrics": 2, "tracks": 5, "small": 0, "own": 3}
    assert len(tracks) == MAX_ENTRIES
    assert small == {"a": 1}
    assert runtime.housekeep() == {"metrics": 0, "tracks": 0, "small": 0, "own": 3}


def test_metrics_keep_the_cameras_that_came_last() -> None:
    metrics = Metrics()
    for number in range(30):
        metrics.count("frames_captured", 1, str(number))
        metrics.set_text("state", "live", str(number))
    assert metrics.prune(10) == 40
    assert metrics.get_counter("frames_captured", "29") == 1
    assert metrics.get_counter("frames_captured", "19") == 0
