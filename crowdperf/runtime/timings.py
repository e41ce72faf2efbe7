"""Measure the time of each stage of inference. It costs one clock reading per stage."""

from __future__ import annotations

from typing import Literal

Stage = Literal["collect", "copy", "preprocess", "infer", "postprocess", "publish", "ppe"]
STAGES: tuple[Stage, ...] = ("collect", "copy", "preprocess", "infer", "postprocess", "publish", "ppe")
"""Stages in order.

collect: find new frames that are due. copy: out of the ring, to the device or for the PPE model. preprocess: colour,
scaling, padding. infer: wait for the network. postprocess: boxes from its output. publish: encode and send, in the
sender's thread. ppe: the second model, all its stages."""


class StageTimings:
    """Seconds per stage since the last `take`."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: Stage, seconds: float) -> None:
        """Add seconds to a stage."""
        self._seconds[stage] += seconds

    def take(self) -> list[float]:
        """Return the seconds in the order of `STAGES`, and start again at zero."""
        taken = list(self._seconds.values())
        self._seconds = dict.fromkeys(STAGES, 0.0)
        return taken
