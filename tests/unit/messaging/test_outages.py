"""The one back-off and the one handler of outages."""

from __future__ import annotations

import pytest
import redis

from crowdperf.messaging.outages import (
    JITTER,
    LOG_AT_FAILURE,
    MAX_LOGGED,
    MAX_WAIT_S,
    MIN_WAIT_S,
    OutageHandler,
    run_until_stopped,
)
from crowdperf.messaging.redis.client import RedisPermissionError
from crowdperf.primitives.backoff import Backoff, compute_wait
from crowdperf.runtime.process_runtime import ProcessRuntime


def fail(outage: OutageHandler, error: Exception) -> None:
    with outage:
        raise error


def test_waits_double_and_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageHandler("work waits")
    logged, waits = [], []
    for _ in range(12):
        fail(outage, redis.ConnectionError("refused"))
        logged.append(len(caplog.records))
        waits.append(outage.wait_s)
    assert logged == [0] * (LOG_AT_FAILURE - 1) + [1] * (13 - LOG_AT_FAILURE)
    assert caplog.messages == ["Redis unavailable (refused): work waits"]
    nominal = [min(MAX_WAIT_S, MIN_WAIT_S * 2**number) for number in range(12)]
    assert all((1 - JITTER) * full <= wait <= full for wait, full in zip(waits, nominal))
    with outage:
        pass
    assert outage.wait_s == 0
    fail(outage, redis.ConnectionError())
    assert outage.wait_s <= MIN_WAIT_S


def test_a_missing_permission_is_logged_at_once_and_once(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageHandler("work waits", logs_outages=False)
    for text in ("SET a: no", "SET b: no", "SET a: no"):
        fail(outage, RedisPermissionError(text))
    for number in range(LOG_AT_FAILURE):
        fail(outage, redis.ConnectionError(str(number)))
    assert ["SET a" in text for text in caplog.messages] == [True, False], "another loop logs outages"
    for number in range(MAX_LOGGED):
        fail(outage, RedisPermissionError(f"GET {number}: no"))
    assert len(caplog.messages) == MAX_LOGGED + 2, "what is remembered has a bound"


def test_other_errors_pass_and_a_lost_stream_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    outage = OutageHandler("work waits")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        fail(outage, redis.ResponseError("WRONGTYPE"))
    assert outage.must_start, "nothing has succeeded yet"
    fail(outage, redis.ResponseError("NOGROUP No such key"))
    assert caplog.messages == ["Redis lost a stream (NOGROUP No such key): work waits"]
    assert isinstance(outage.error, redis.ResponseError)


def test_another_service_does_not_absorb_a_lost_stream() -> None:
    outage = OutageHandler("events wait", (LookupError,), "PostgreSQL")
    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        fail(outage, redis.ResponseError("NOGROUP No such key"))


def test_work_starts_again_after_each_outage() -> None:
    runtime, calls = ProcessRuntime("worker-test-0", 0.0), ""
    outcomes = iter([None, redis.ConnectionError(), None, redis.ResponseError("no such key"), None, None])

    def start() -> None:
        nonlocal calls
        calls += "s"

    def step() -> None:
        nonlocal calls
        calls += "."
        if len(calls) > 8:
            runtime.stop()
        if (error := next(outcomes)) is not None:
            raise error

    assert run_until_stopped(runtime, start, step, "work waits")
    assert calls == "s..s..s.."


def test_an_outage_of_any_length_has_a_wait() -> None:
    assert [compute_wait(failures, 1.0, 300.0) for failures in (0, 1, 2, 9, 10**6)] == [1, 2, 4, 300, 300]
    backoff = Backoff(0.5, 10.0, jitter=0.5, random=lambda: 0.0)
    assert [backoff.next(), backoff.next()] == [0.25, 0.5]
    assert backoff.failures == 2
