"""Survive outages: the one place that catches them, logs them and says how long to wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType

import redis

from crowdperf.messaging.consumer import is_stream_lost
from crowdperf.messaging.redis.client import OUTAGE, RedisPermissionError
from crowdperf.primitives.backoff import Backoff
from crowdperf.runtime.process_runtime import ProcessRuntime

MIN_WAIT_S, MAX_WAIT_S = 0.05, 2.0
"""First and longest wait between two attempts."""
JITTER = 0.2
"""Largest share that a wait is shortened by."""
LOG_AT_FAILURE = 5
"""The failure at which an outage is logged: it has lasted for about 0.7 s by then."""
MAX_LOGGED = 100
"""Permission errors that are remembered as logged."""

log = logging.getLogger(__name__)


class OutageHandler:
    """Absorb the outages of one loop: `with outage:` is an attempt, `wait_s` the pause after it.

    A lost stream or consumer group counts as an outage of Redis too, since a restart of the work creates it again.

    Args:
        consequence: what an outage means, for the log.
        errors: the errors that are outages; any other error is raised.
        service: what is unavailable, for the log.
        logs_outages: False where another loop of the process logs them. A missing permission is logged in any case,
            since this loop alone may lack it.
    """

    def __init__(
        self,
        consequence: str,
        errors: tuple[type[BaseException], ...] = OUTAGE,
        service: str = "Redis",
        logs_outages: bool = True,
    ) -> None:
        self._consequence, self._errors, self._service = consequence, errors, service
        self._logs_outages = logs_outages
        self._backoff = Backoff(MIN_WAIT_S, MAX_WAIT_S, JITTER)
        self._logged: set[str] = set()
        self.error: BaseException | None = None
        """The outage of the newest attempt; None after a success."""
        self.wait_s = 0.0
        """Seconds to wait before the next attempt; 0 after a success."""
        self.must_start = True
        """True before the first success and after an outage: begin at what is stored."""

    def __enter__(self) -> None:
        """Begin an attempt."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        """End an attempt; True for an outage, which is not raised."""
        if error is None:
            self.reset()
            return False
        # Only a handler of Redis restarts the reader: to absorb it elsewhere would leave the group away for ever.
        lost = redis.ConnectionError in self._errors and is_stream_lost(error)
        if not lost and not isinstance(error, self._errors):
            return False
        if lost or self.should_log(error):
            trouble = "lost a stream" if lost else "unavailable"
            log.warning("%s %s (%s): %s", self._service, trouble, error, self._consequence)
        self.error, self.must_start, self.wait_s = error, True, self._backoff.next()
        return True

    def reset(self) -> None:
        """Record a success; a `with` block that ends without an error does it."""
        self._backoff.reset()
        self.error, self.must_start, self.wait_s = None, False, 0.0

    def should_log(self, error: BaseException) -> bool:
        """Check whether to log this failure: once per outage, about a second after it began.

        Shorter outages happen whenever all processes start together. A missing permission is logged at its first
        failure and never again, since it depends on the command and can return at any time.
        """
        if not isinstance(error, RedisPermissionError):
            return self._logs_outages and self._backoff.failures == LOG_AT_FAILURE - 1
        new = str(error) not in self._logged
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged.add(str(error))
        return new


def run_until_stopped(
    runtime: ProcessRuntime, start: Callable[[], None], step: Callable[[], None], consequence: str
) -> bool:
    """Call `step` until the process is to stop; wait out every outage of Redis.

    An outage leaves open whether the last command was stored. So `start` runs again after it, to begin at what is
    stored.

    Args:
        runtime: the process, whose watchdog is fed.
        start: called before the first step and after every outage.
        step: one turn, at most a second or so.
        consequence: what an outage means, for the log.

    Returns:
        Whether Redis was available at the end.
    """
    outage = OutageHandler(consequence)
    while not runtime.stopping:
        runtime.tick()
        with outage:
            if outage.must_start:
                start()
            step()
        if outage.wait_s:
            runtime.wait_for_stop(outage.wait_s)
    return not outage.must_start
