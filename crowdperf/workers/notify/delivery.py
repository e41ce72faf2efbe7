"""One thread per channel empties the channel's queue, so a dead endpoint delays only its own notifications."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import deque
from types import TracebackType

import msgspec

from crowdperf.messaging.delivery_queue import DeliveryItem, DeliveryQueue
from crowdperf.messaging.outages import OutageHandler
from crowdperf.messaging.redis.client import OUTAGE
from crowdperf.primitives.backoff import compute_wait
from crowdperf.primitives.redaction import redact
from crowdperf.runtime.metrics import Metrics
from crowdperf.settings.alerts import Channel
from crowdperf.workers.clock_leaps import is_ahead
from crowdperf.workers.notify.logic import Notification

IDLE_S = 0.25
FIRST_RETRY_PAUSE_S, MAX_RETRY_PAUSE_S = 1.0, 300.0
"""The pauses between the attempts are 1, 2, 4 … 300 s."""

log = logging.getLogger(__name__)


class DeliveryError(Exception):
    """The endpoint did not accept a notification. The message gives the reason without secrets.

    Args:
        reason: text of the error.
        permanent: True where no later attempt can succeed.
        retry_after_s: seconds that the endpoint asked to wait.
    """

    def __init__(self, reason: str, permanent: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.permanent = permanent
        self.retry_after_s = retry_after_s


class ChannelNotReadyError(Exception):
    """The channel is unusable, for instance without its secret. Its notifications wait and do not fail."""


EXPECTED_ERRORS = (DeliveryError, ChannelNotReadyError, *OUTAGE)
"""The errors of a sender that need no guard."""


class Sender:
    """The transport of one kind of channel. By default, no connection stays open between notifications."""

    def send(self, notification: Notification, now: float) -> None:
        """Deliver, or raise DeliveryError or ChannelNotReadyError; `now` in Unix seconds."""
        raise NotImplementedError

    def poll(self) -> None:
        """Do the transport's work between notifications."""

    def close(self) -> None:
        """Close the connection."""


def load_secret(name: str) -> str:
    """Read a secret from an environment variable; without a name it is empty.

    Raises:
        ChannelNotReadyError: the variable is not set.
    """
    secret = os.environ.get(name, "") if name else ""
    if name and not secret:
        raise ChannelNotReadyError(f"environment variable {name} is not set. Remedy: set it, then restart crowdperf.")
    return secret


class _SenderGuard:
    """Turn what a sender does not expect, such as a name that a library refuses, into a failed attempt.

    One notification must never end the delivery of all others.
    """

    def __init__(self, channel: str) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        """Begin an attempt."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise DeliveryError in place of an unexpected error. Its text is left out: it may repeat a secret."""
        if kind is None or not issubclass(kind, Exception) or issubclass(kind, EXPECTED_ERRORS):
            return
        log.error("channel %s: unexpected %s at\n%s", self._channel, kind.__name__, "".join(traceback.format_tb(trace)))
        raise DeliveryError(
            f"the settings of channel {self._channel} or this notification cannot be used ({kind.__name__}). Remedy: "
            "correct the channel's addresses, names and secrets; the log has the place."
        ) from None


class ChannelDelivery:
    """The deliveries of one channel, one step at a time.

    Args:
        channel: settings of the channel.
        queue: notifications to deliver.
        sender: transport.
        metrics: metrics of the process.
    """

    def __init__(self, channel: Channel, queue: DeliveryQueue, sender: Sender, metrics: Metrics) -> None:
        self.channel = channel
        self._queue = queue
        self._sender = sender
        self._metrics = metrics
        self._paused_until = 0.0
        """No attempt before this time, so that waiting notifications do not flood a failing endpoint."""
        self._guard = _SenderGuard(channel.id)
        self._next_poll_at = 0.0
        self._sent_at: deque[float] = deque()
        self._newest_time = 0.0

    def step(self, now: float) -> bool:
        """Try the item that is due first; return False where nothing is due. `now` in Unix seconds.

        Raises:
            redis.ConnectionError, redis.TimeoutError: Redis is unavailable.
        """
        self._metrics.set_gauge("notifications_waiting", len(self._queue), self.channel.id)
        if is_ahead(self._newest_time, now):
            # The clock was set back: nothing waits for what it showed before.
            self._paused_until = self._next_poll_at = 0.0
            self._sent_at.clear()
        self._newest_time = now
        self._poll(now)
        if now < self._paused_until or self._is_rate_limited(now):
            return False
        item = self._queue.peek(now)
        if item is None:
            return False
        try:
            with self._guard:
                self._sender.send(_decode_notification(item), now)
        except ChannelNotReadyError as error:
            self._report_problem(str(error))
            self._paused_until = now + MAX_RETRY_PAUSE_S / 10
        except DeliveryError as error:
            self._handle_failure(item, error, now)
        else:
            self._sent_at.append(now)
            self._queue.mark_delivered(item, now)
            self._metrics.count("notifications_sent", 1, self.channel.id)
            self._metrics.set_text("channel_problem", "", self.channel.id)
        return True

    def close(self) -> None:
        """Close the transport."""
        self._sender.close()

    def _poll(self, now: float) -> None:
        if now < self._next_poll_at:
            return
        try:
            with self._guard:
                self._sender.poll()
        except DeliveryError as error:
            self._report_problem(str(error))
            self._next_poll_at = now + MAX_RETRY_PAUSE_S / 10

    def _handle_failure(self, item: DeliveryItem, error: DeliveryError, now: float) -> None:
        self._metrics.count("notifications_failed", 1, self.channel.id)
        self._report_problem(str(error))
        attempts = item.attempts + 1
        if error.permanent or attempts >= self.channel.attempts:
            log.error("channel %s: notification %s failed for good: %s", self.channel.id, item.id, error)
            self._queue.dead_letter(item, f"{error} (attempt {attempts})", now)
            self._metrics.count("channel_dead_letters", 1, self.channel.id)
            return
        pause = max(
            compute_wait(item.attempts, FIRST_RETRY_PAUSE_S, MAX_RETRY_PAUSE_S), min(error.retry_after_s, 3600.0)
        )
        self._queue.schedule_retry(item, now + pause, now)
        self._paused_until = now + min(pause, MAX_RETRY_PAUSE_S / 10)

    def _is_rate_limited(self, now: float) -> bool:
        while self._sent_at and now - self._sent_at[0] >= 60:
            self._sent_at.popleft()
        return 0 < self.channel.max_per_minute <= len(self._sent_at)

    def _report_problem(self, text: str) -> None:
        self._metrics.set_text("channel_problem", redact(text), self.channel.id)


def _decode_notification(item: DeliveryItem) -> Notification:
    try:
        return msgspec.json.decode(item.body, type=Notification)
    except msgspec.MsgspecError as error:
        raise DeliveryError(f"the notification cannot be read: {error}", permanent=True) from None


class DeliveryThread:
    """A thread that delivers until it is stopped."""

    def __init__(self, delivery: ChannelDelivery) -> None:
        self._delivery = delivery
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"deliver-{delivery.channel.id}", daemon=True)
        self._thread.start()

    @property
    def has_crashed(self) -> bool:
        """Return whether the thread ended without a stop request. The process must then end too."""
        return not self._thread.is_alive() and not self._stop.is_set()

    def stop(self) -> None:
        """Request the end after the present delivery."""
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        outage = OutageHandler("notifications wait", logs_outages=False)
        try:
            busy = True
            while not self._stop.wait(outage.wait_s or (0.0 if busy else IDLE_S)):
                with outage:
                    busy = self._delivery.step(time.time())
        finally:
            self._delivery.close()
