"""The accepted time: what removes history or decides a rule goes by it, not by the machine's clock.

The clock of a machine can be two hours ahead (its battery clock in local time) or ten years (an empty battery). What
was removed, checked out or alerted meanwhile is not undone. So a leap ahead is taken over only after a wait.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAY_S = 86_400.0
WAIT_SHARE = 24.0
"""A leap ahead is taken over after its length divided by this: two hours after five minutes."""
MAX_FREE_STEP_S = 60.0
"""The accepted clock may always advance this far between two calls."""
MAX_RULE_WAIT_S = DAY_S
"""Longest wait of a rule: the operator has a day to put a wrong clock right."""
MAX_TIME_OFF_S, OFF_WAIT_S = 4 * DAY_S, 300.0
"""A machine may have been off for so long: a leap up to this is taken over by rules after 5 minutes."""
EARLIEST_CLOCK_S = 1_735_689_600.0
"""2025 in Unix seconds. An earlier clock has not been set yet, so nothing is measured by it."""
TIME_ERROR = 5
"""Result of adjtimex(2) for a clock that no time service keeps."""
TIMEX_BYTES = 512
"""More than the size of `struct timex`; zeroed, it asks and changes nothing."""


def is_synchronised() -> bool:
    """Check whether the kernel says that a time service keeps its clock."""
    state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))
    return 0 <= state < TIME_ERROR


def compute_wait(lead_s: float) -> float:
    """Return how long a leap ahead has to last until it is taken over, seconds."""
    return lead_s / WAIT_SHARE


def compute_rule_wait(lead_s: float) -> float:
    """Return the same for rules, which have to go on soon after the machine was off."""
    return min(compute_wait(lead_s), OFF_WAIT_S if lead_s <= MAX_TIME_OFF_S else MAX_RULE_WAIT_S)


def _read_boot_id() -> str:
    """Return the id of the machine's present start; monotonic times are comparable within it only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class SteadyClock:
    """Unix time that follows the machine's clock at once, except for a leap ahead.

    During a leap it goes on from where it was, at the speed of time. It takes the leap over when it has lasted for a
    24th of its length, and three months without power after four days. A clock that is set back is followed at once.

    Args:
        accepted: the time from which it goes on, Unix seconds; None begins with the machine's clock.
        at: monotonic time of `accepted`; None where it is not known.
        waited: seconds that a leap has lasted by then.
        get_wait: returns for a leap, in seconds, how long it has to last.
        is_trusted: tells that the machine's clock is right, which ends the wait.
    """

    def __init__(
        self,
        accepted: float | None = None,
        at: float | None = None,
        waited: float = 0.0,
        get_wait: Callable[[float], float] = compute_wait,
        is_trusted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._accepted, self._at, self._waited = accepted, at, waited
        self._get_wait, self._is_trusted = get_wait, is_trusted

    def now(self, wall: float, monotonic: float) -> float:
        """Return the accepted time of a wall clock (Unix seconds) and a monotonic clock."""
        elapsed = max(0.0, monotonic - self._at) if self._at is not None else 0.0
        self._at = monotonic
        if self._accepted is None:
            self._accepted = wall
        expected = self._accepted + elapsed
        lead = wall - expected
        self._waited = self._waited + elapsed if lead > MAX_FREE_STEP_S else 0.0
        has_waited = self._waited >= self._get_wait(lead)
        is_unset = wall < EARLIEST_CLOCK_S <= expected
        if not is_unset and (lead <= MAX_FREE_STEP_S or has_waited or self._is_trusted()):
            self._accepted, self._waited = wall, 0.0
        else:
            self._accepted = expected
        return self._accepted

    def dump_state(self) -> str:
        """Return the state beside the accepted time: boot of the machine, monotonic time, seconds waited."""
        return f"{_read_boot_id() or '-'} {self._at!r} {self._waited!r}"


def clock_key(prefix: str = "") -> str:
    """Return the key of a hash; `clock` is the newest sweep's accepted time, `state` the rest."""
    return f"{prefix}crowdperf:housekeeping"


def load_clock(
    client: Any,
    prefix: str = "",
    get_wait: Callable[[float], float] = compute_wait,
    is_trusted: Callable[[], bool] = lambda: False,
) -> SteadyClock:
    """Load the clock that goes on from the newest sweep.

    Args:
        client: a blocking client.
        prefix: prefix of every key.
        get_wait: returns for a leap, in seconds, how long it has to last.
        is_trusted: tells that the machine's clock is right.

    Returns:
        The clock; without a stored time it begins with the machine's.
    """
    accepted, state = client.hmget(clock_key(prefix), "clock", "state")
    boot, at, waited = state.decode().split(" ") if state else ("", "0", "0")
    is_same_boot = bool(boot) and boot == _read_boot_id()
    return SteadyClock(
        float(accepted) if accepted else None,
        float(at) if is_same_boot else None,
        float(waited),
        get_wait,
        is_trusted,
    )


def read_clock_lead(client: Any, now: float, prefix: str = "") -> float:
    """Read how far a time is ahead of the accepted one, by which data expires.

    Args:
        client: a blocking client.
        now: the time, Unix seconds.
        prefix: prefix of every key.

    Returns:
        Seconds, and 0 where no accepted time is stored.
    """
    stored = client.hget(clock_key(prefix), "clock")
    return max(0.0, now - float(stored)) if stored else 0.0


class RuleClock:
    """The accepted time of a process that decides rules; each process keeps its own between two sweeps.

    A clock that a time service keeps is believed at once. Any other one is believed after 5 minutes if the machine may
    have been off meanwhile, and after a day at most. What expires waits longer, because it cannot be restored.

    Args:
        client: a blocking client.
        prefix: prefix of every key.
    """

    def __init__(self, client: Any, prefix: str = "") -> None:
        self._client, self._prefix = client, prefix
        self._clock: SteadyClock | None = None

    def now(self) -> float:
        """Return the accepted time, Unix seconds.

        Raises:
            redis.ConnectionError, redis.TimeoutError: at the first call, while Redis is unavailable.
        """
        if self._clock is None:
            self._clock = load_clock(self._client, self._prefix, compute_rule_wait, is_synchronised)
        return self._clock.now(time.time(), time.monotonic())
