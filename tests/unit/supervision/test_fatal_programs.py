"""Which failed programs are started again, and when."""

from __future__ import annotations

from crowdperf.supervision.control import RESTART_DELAY_S, FatalPrograms


def table(**states: str) -> list[dict[str, str]]:
    return [{"name": name, "statename": state} for name, state in states.items()]


def test_every_failed_program_is_due_after_the_delay() -> None:
    fatal = FatalPrograms()
    programs = table(web="FATAL", inference="RUNNING", **{f"capture-{number}": "FATAL" for number in range(30)})
    assert fatal.update(programs, 100.0) == []
    assert fatal.update(programs, 100.0 + RESTART_DELAY_S - 0.1) == []
    assert len(fatal.update(programs, 100.0 + RESTART_DELAY_S)) == 31


def test_a_program_that_failed_again_waits_again() -> None:
    fatal = FatalPrograms()
    fatal.update(table(web="FATAL", redis="FATAL"), 0.0)
    assert fatal.update(table(web="RUNNING", redis="FATAL"), RESTART_DELAY_S) == ["redis"]
    assert fatal.update(table(web="FATAL", redis="FATAL"), RESTART_DELAY_S + 5) == []
    assert fatal.update(table(web="FATAL", redis="FATAL"), 2 * RESTART_DELAY_S + 5) == ["redis", "web"]
