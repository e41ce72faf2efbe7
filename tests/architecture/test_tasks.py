"""Nothing in the background ends without a word: who starts a thread or a task, and who sees its error."""

from __future__ import annotations

import ast

from tests.conftest import ROOT

STARTERS = ("Thread", "create_task", "ensure_future", "run_in_executor", "ThreadPoolExecutor", "TaskGroup")
OWNERS = {
    "runtime/tasks.py": "starts it again",
    "entrypoint.py": "waits for it; the command reports what could not be imported",
    "capture/connector.py": "waits for its answer, and gives up after a time",
    "capture/multi_camera.py": "sees that it has ended, counts it and starts another one",
    "capture/network/connect_filter.py": "a camera's connection ends with it; the result of a call is raised",
    "capture/network/egress_proxy.py": "a camera's connection ends with it",
    "capture/pyav_decoder.py": "its end ends the connection, which is opened again",
    "inference/evidence_cache.py": "the result is raised where the picture is asked for",
    "inference/model_slots.py": "the result is raised where the model is taken over",
    "messaging/outbox.py": "the error is raised where a flush is requested",
    "models/geometry_store.py": "the result is raised where the size is used",
    "models/torch_backend.py": "the error comes again where the size is used",
    "web/live_routes.py": "waits for them and raises what they raise",
    "web/process.py": "waits for them and raises what they raise",
    "web/serving/query_thread.py": "the error of a query is raised where it was asked",
    "web/state.py": "the error of the feed ends the process",
    "workers/notify/delivery.py": "the process ends where a thread has ended",
}
"""Module -> what becomes of an error. The thread's hook of the process logs and counts it in any case."""


def test_every_thread_and_task_has_an_owner_that_sees_its_error() -> None:
    found = set()
    for path in sorted((ROOT / "crowdperf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in STARTERS:
                    found.add(path.relative_to(ROOT / "crowdperf").as_posix())
    assert found == set(OWNERS), "use crowdperf.runtime.tasks, or name the owner here"
