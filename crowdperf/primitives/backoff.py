"""Wait longer after each failure, with jitter, so that many processes do not return at the same moment.

The waits are those of redis-py's `redis.backoff`. Its classes fail with an OverflowError after about a thousand
failures in a row, which an outage of an hour reaches.
"""

from __future__ import annotations

import random as random_numbers
from collections.abc import Callable

MAX_DOUBLINGS = 32


def compute_wait(failures: int, first_s: float, max_s: float) -> float:
    """Compute the wait after so many earlier failures: it doubles with each one.

    Args:
        failures: number of failures before this one.
        first_s: the first wait, seconds.
        max_s: the longest wait, seconds.

    Returns:
        Seconds.
    """
    return min(max_s, first_s * 2.0 ** min(failures, MAX_DOUBLINGS))


class Backoff:
    """Doubling waits with jitter; call `reset` after a success.

    Args:
        first_s: the first wait, seconds.
        max_s: the longest wait, seconds.
        jitter: largest share that a wait is shortened by.
        random: returns 0..1.
    """

    def __init__(
        self, first_s: float, max_s: float, jitter: float, random: Callable[[], float] = random_numbers.random
    ) -> None:
        self._first_s, self._max_s = first_s, max_s
        self._jitter, self._random = jitter, random
        self.failures = 0
        """Failures in a row."""

    def next(self) -> float:
        """Count a failure and return the seconds to wait before the next attempt."""
        wait = compute_wait(self.failures, self._first_s, self._max_s)
        self.failures += 1
        return wait * (1.0 - self._jitter * (1.0 - self._random()))

    def reset(self) -> None:
        """Begin again with the first wait."""
        self.failures = 0
