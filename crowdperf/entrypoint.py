"""Start a supervised process: `python -m crowdperf.entrypoint <command> …`, loaded at low priority.

A start takes 0.3 s of processor time and nearly all of it is spent on imports. Half a dozen at once, as an update of
the configuration starts them, took two cores from the model for so long that frames were lost. On Linux every thread
has a priority of its own, so a thread of low priority imports the modules and the work then begins in the main thread,
whose priority was never touched: to raise it again would need privileges.

What supervisord runs also ends with it, however it ends: nothing goes on unsupervised.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading

from crowdperf.supervision import process_tree

LOW_PRIORITY_COMMANDS = ("capture", "tracking", "worker", "web")
"""Commands whose start can wait a moment. Inference cannot: no frame is analysed before it is up."""
IMPORT_NICE = 10
"""Leaves a start a tenth of a core that the model would fill alone: late, never starved."""


def import_command_modules(words: list[str]) -> None:
    """Import what the command needs."""
    with contextlib.suppress(ImportError):  # the command itself says what is missing
        importlib.import_module("crowdperf.__main__")
        importlib.import_module("crowdperf.cli.supervised")
        from crowdperf.supervision.processes import PROCESSES

        for row in PROCESSES:
            if row.kind in (words[0], "-".join(words[:2])):
                importlib.import_module(row.entry.partition(":")[0])


def import_at_low_priority(words: list[str]) -> None:
    """`load` at low priority, in a thread that then ends."""
    # Threads that numpy starts would inherit the low priority; the matrices of these processes have no use for them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    def loading() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), IMPORT_NICE)
        import_command_modules(words)

    thread = threading.Thread(target=loading, name="loading")
    thread.start()
    thread.join()


def main() -> int:
    """Load, then run the command."""
    words = sys.argv[1:]
    if "SUPERVISOR_ENABLED" in os.environ:
        process_tree.end_with_parent()
        if not process_tree.has_reader(sys.stdout.fileno()):
            return 1  # supervisord was gone before the kernel was told
    if words and words[0] in LOW_PRIORITY_COMMANDS:
        import_at_low_priority(words)
    command: int = importlib.import_module("crowdperf.__main__").main(words)
    return command


if __name__ == "__main__":
    sys.exit(main())
