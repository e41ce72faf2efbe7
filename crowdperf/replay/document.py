"""What replay found, as one JSON document: the same clip and configurations give the same bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from crowdperf.replay.detections import CLIP_START_S
from crowdperf.replay.difference import Comparison, Difference
from crowdperf.replay.run import CountedCrossing, ReplayOutcome, ReplayResult


def encode_document(replayed: ReplayResult, compared: Comparison | None) -> bytes:
    """The whole, indented. It names no path, no machine and no duration of the work."""
    clip = replayed.clip
    content: dict[str, Any] = {
        "clip": {
            "name": clip.path.name,
            "width": clip.width,
            "height": clip.height,
            "fps": clip.fps,
            "pictures": len(replayed.times),
            "seconds": round(replayed.length_s, 6),
        },
        "configurations": [_outcome_to_dict(outcome) for outcome in replayed.outcomes],
    }
    if compared is not None:
        content["same"] = compared.same_count
        content["differences"] = [_difference_to_dict(one, replayed) for one in compared.differences]
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _outcome_to_dict(outcome: ReplayOutcome) -> dict[str, Any]:
    return {
        "name": outcome.setup.name,
        "camera": outcome.setup.tracked.camera_id,
        "model": outcome.model,
        "analysed": outcome.analysed,
        "counts": [
            {"line": line, "direction": direction, "class": klass, "count": count}
            for (line, direction, klass), count in sorted(outcome.count_by_line().items())
        ],
        "zones": {name: msgspec.to_builtins(zone) for name, zone in outcome.zones.items()},
        "events": [
            # The time of day is as good as any (docs/replay.md): what counts is the second of the clip.
            {**msgspec.to_builtins(event), "at_s": round(event.ts - CLIP_START_S, 6)}
            for event in outcome.events
        ],
    }


def _difference_to_dict(difference: Difference, replayed: ReplayResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": difference.kind,
        "at_s": round(difference.crossing.at_s, 6),
        "line": difference.crossing.event.line,
    }
    names = [outcome.setup.name for outcome in replayed.outcomes]
    row["counted"] = {names[difference.outcome_index]: _crossing_to_dict(difference.crossing)}
    if difference.other is not None:
        row["counted"][names[1]] = _crossing_to_dict(difference.other)
    return row


def _crossing_to_dict(crossing: CountedCrossing) -> dict[str, Any]:
    event = crossing.event
    return {"id": event.id, "direction": event.direction, "class": event.klass, "picture": crossing.number}
