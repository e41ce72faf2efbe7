"""Control supervisord over XML-RPC on its Unix socket, and extend supervisorctl by a plug-in.

supervisord knows programs only from files. So the plug-in renders config.json before each command of supervisorctl. An
`update` waits for a running one, because supervisord refuses to start a program that another update is starting.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from supervisor.supervisorctl import ControllerPluginBase
from supervisor.xmlrpc import Faults, SupervisorTransport

from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Paths
from crowdperf.supervision.config_versions import ConfigHistory
from crowdperf.supervision.processes import PROCESSES
from crowdperf.supervision.programs import refresh

WEB_PROGRAM = "web"
RESTART_DELAY_S = 15.0
"""Wait before a program that supervisord has given up is started again."""

log = logging.getLogger(__name__)


class SupervisorClient:
    """Client of one supervisord. Any call raises ConfigError when that is down or shutting down."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        transport = SupervisorTransport(None, None, f"unix://{socket}")
        self._rpc: Any = xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor

    def _call(self, name: str, *arguments: Any, ignored_fault: int | None = None) -> Any:
        try:
            return getattr(self._rpc, name)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == ignored_fault:
                return None
            if fault.faultCode != Faults.SHUTDOWN_STATE:
                raise
            raise ConfigError(
                f"supervisord at {self._socket} is shutting down. Remedy: start it again once it has ended."
            ) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ConfigError(
                f"supervisord does not answer at {self._socket} ({error}). Remedy: start it with ./crowdperf.sh run."
            ) from None

    def list_programs(self) -> list[dict[str, Any]]:
        """List every program: name, statename, pid, start, description."""
        return list(self._call("getAllProcessInfo"))

    def resolve_names(self, target: str, shared_programs: Mapping[str, str] | None = None) -> list[str]:
        """Resolve a kind of the process table, or one program's name, to the names of programs.

        `shared_programs` maps `capture-<camera>` to the program that the camera shares with others.

        Raises:
            ConfigError: there is no such kind or program.
        """
        running = [row["name"] for row in self.list_programs()]
        target = (shared_programs or {}).get(target, target)
        if target in running:
            return [target]
        kinds = {row.kind for row in PROCESSES} | {row.kind.partition("-")[0] for row in PROCESSES}
        if target in kinds:
            return [name for name in running if name.startswith(f"{target}-")]
        raise ConfigError(f"no program or kind is called {target!r}. Remedy: use one of: {', '.join(sorted(running))}.")

    def start(self, names: list[str]) -> None:
        """Start programs in parallel."""
        self._call_each("startProcess", names, Faults.ALREADY_STARTED)

    def stop(self, names: list[str], timeout_s: float = 30.0) -> None:
        """Stop programs in parallel and wait until they have ended, `timeout_s` at most."""
        self._call_each("stopProcess", names, Faults.NOT_RUNNING)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not any(row["pid"] for row in self.list_programs() if row["name"] in names):
                return
            time.sleep(0.05)

    def restart(self, names: list[str]) -> None:
        """Stop and start programs."""
        self.stop(names)
        self.start(names)

    def shutdown(self) -> None:
        """Stop everything, Redis last, then supervisord itself."""
        rows = [row["name"] for row in self.list_programs() if row["pid"]]
        self.stop([name for name in rows if name != "redis"])
        # supervisord's own shutdown takes a second for each running program.
        self.stop([name for name in rows if name == "redis"])
        self._call("shutdown")

    def update(self) -> dict[str, list[str]]:
        """Do what `supervisorctl update` does: restart changed programs, start new ones, end removed ones."""
        added, changed, removed = self._call("reloadConfig")[0]
        # Two programs may exchange a camera, so all stop before the first starts. Web goes last: it is down only for
        # its own restart.
        first = [name for name in changed if name != WEB_PROGRAM]
        last = [name for name in changed if name == WEB_PROGRAM]
        for stops, starts in (([*removed, *first], [*first, *added]), (last, last)):
            for name in stops:
                self._call_each("stopProcess", [name], Faults.NOT_RUNNING, wait=True)
                self._call("removeProcessGroup", name)
            for name in starts:
                self._call("addProcessGroup", name)
        return {"added": added, "changed": changed, "removed": removed}

    def _call_each(self, method: str, names: list[str], ignored_fault: int, wait: bool = False) -> None:
        for name in names:
            self._call(method, name, wait, ignored_fault=ignored_fault)


class FatalPrograms:
    """Programs that supervisord has given up (FATAL), and when each of them is due for a new start."""

    def __init__(self) -> None:
        self._due_at: dict[str, float] = {}

    def update(self, programs: Iterable[Mapping[str, Any]], now: float) -> list[str]:
        """Take in the whole table of programs at `now`, seconds; return the names to start now."""
        fatal = {row["name"] for row in programs if row["statename"] == "FATAL"}
        self._due_at = {name: due_at for name, due_at in self._due_at.items() if name in fatal}
        for name in sorted(fatal - self._due_at.keys()):
            log.error("%s failed repeatedly (FATAL), see its log; restarting it in %g s", name, RESTART_DELAY_S)
            self._due_at[name] = now + RESTART_DELAY_S
        due = [name for name, due_at in self._due_at.items() if due_at <= now]
        for name in due:
            # A start that fails at once counts as a new failure.
            del self._due_at[name]
        return due


def restart_failed_programs(paths: Paths) -> None:
    """Restart programs that supervisord has given up, as an event listener, until stdin ends.

    supervisord never retries a FATAL program. But the cause of ten failures in a minute may be over in an hour: a full
    disk, a model that is being copied. An event only says when to look: supervisord drops events when many programs
    fail at once, so each look reads the whole table.
    """
    control, fatal = SupervisorClient(paths.supervisor_socket.absolute()), FatalPrograms()
    while read_event(sys.stdin, sys.stdout) is not None:
        with contextlib.suppress(ConfigError):
            for name in fatal.update(control.list_programs(), time.monotonic()):
                # Another caller may have started or removed it meanwhile.
                with contextlib.suppress(xmlrpc.client.Fault):
                    control.start([name])
        acknowledge(sys.stdout)


def read_event(source: TextIO, sink: TextIO) -> dict[str, str] | None:
    """Write READY and read one event's payload; None at the end of the input."""
    sink.write("READY\n")
    sink.flush()
    header = source.readline()
    if not header:
        return None
    fields = dict(pair.split(":", 1) for pair in header.split())
    payload = source.read(int(fields["len"]))
    return dict(pair.split(":", 1) for pair in payload.split())


def acknowledge(sink: TextIO) -> None:
    """Tell supervisord that the event was handled."""
    sink.write("RESULT 2\nOK")
    sink.flush()


class RenderPlugin(ControllerPluginBase):  # type: ignore[misc]
    """Refreshes the include file when supervisorctl starts and before each command."""

    name = "crowdperf"

    def __init__(self, controller: Any, root: Path) -> None:
        self.ctl = controller
        self._root = root
        self._refresh()
        controller.precmd = self._refresh_before_command
        # The controller's own commands take precedence over those of plug-ins; supervisorctl's `update` is a plug-in's.
        controller.do_update = self._update

    def _update(self, words: str) -> None:
        with ConfigHistory(Paths(self._root / "var").data / "config").hold_lock("update"):
            self._refresh()
            original = next(plugin for plugin in self.ctl.options.plugins if hasattr(plugin, "do_update"))
            original.do_update(words)

    def _refresh_before_command(self, line: str) -> str:
        self._refresh()
        return line

    def _refresh(self) -> None:
        try:
            refresh(self._root)
        except (ConfigError, OSError) as error:
            print(f"crowdperf: the programs stay unchanged: {error}", file=sys.stderr)


def make(controller: Any, **_: str) -> RenderPlugin:
    """Build the plug-in for supervisorctl. The installation is the folder of its supervisord.conf."""
    return RenderPlugin(controller, Path(controller.options.configfile).resolve().parent)
