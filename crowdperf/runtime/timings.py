"""Where the time of a turn goes, stage by stage: always measured, at the cost of a clock reading each."""

from __future__ import annotations

from typing import Literal

Stage = Literal["collect", "copy", "preprocess", "infer", "postprocess", "publish", "ppe"]
STAGES: tuple[Stage, ...] = ("collect", "copy", "preprocess", "infer", "postprocess", "publish", "ppe")
"""collect: look which frames are new and due. copy: out of the ring (to the device, or for the PPE model). preprocess:
colour, scaling, padding. infer: wait for the network. postprocess: boxes out of its output. publish: encode and send,
by the poster's thread. ppe: the second model, all its stages."""


class StageTimings:
    """Seconds per stage since they were last taken."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(STAGES, 0.0)

    def add(self, stage: Stage, seconds: float) -> None:
        """Time was spent."""
        self._seconds[stage] += seconds

    def take(self) -> list[float]:
        """Seconds in the order of `STAGES`; counting begins anew."""
        taken = list(self._seconds.values())
        self._seconds = dict.fromkeys(STAGES, 0.0)
        return taken
