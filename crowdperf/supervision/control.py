"""supervisord by its XML-RPC interface on a Unix socket: start, stop, restart by kind or name, and update.

The plug-in of supervisorctl that renders the programs of the present config.json before any command runs.

supervisord knows programs only from files, so an edit of config.json has to be rendered before `update` can act on it.
An `update` waits for one that is under way, such as that of a change through the interface: supervisord would refuse
the second to begin a program that the first is about to begin.
"""

from __future__ import annotations

import http.client
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase
from supervisor.xmlrpc import Faults, SupervisorTransport

from crowdperf.settings.base import ConfigError
from crowdperf.settings.environment import Paths
from crowdperf.supervision.config_versions import ConfigHistory
from crowdperf.supervision.processes import PROCESSES
from crowdperf.supervision.programs import refresh

WEB_PROGRAM = "web"


class SupervisorClient:
    """One supervisord.

    Raises:
        ConfigError: from any call, when it does not run, or is shutting down.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        transport = SupervisorTransport(None, None, f"unix://{socket}")
        self._rpc: Any = xmlrpc.client.ServerProxy("http://localhost", transport=transport).supervisor

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._rpc, name)(*arguments)
        except xmlrpc.client.Fault as fault:
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
        """Every program: name, statename, pid, start, description."""
        return list(self._call("getAllProcessInfo"))

    def resolve_names(self, target: str, shared_programs: Mapping[str, str] | None = None) -> list[str]:
        """The programs that `what` means: a kind of the process table, or one program's name.

        `shared` is `groups.shared`: `capture-<camera>` is the program that the camera shares with others.

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
        """Start programs, all at once."""
        self._call_each("startProcess", names, Faults.ALREADY_STARTED)

    def stop(self, names: list[str], timeout_s: float = 30.0) -> None:
        """Stop programs, all at once, and wait until they have ended."""
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
        # supervisord's own way of shutting down takes a second for each program that still runs.
        self.stop([name for name in rows if name == "redis"])
        self._call("shutdown")

    def update(self) -> dict[str, list[str]]:
        """Do what `supervisorctl update` does: restart changed programs, start new ones, end removed ones."""
        added, changed, removed = self._call("reloadConfig")[0]
        # Two programs may exchange a camera, so all end before one begins; the web process alone goes last, and is
        # away for its own start only.
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
            self._call_ignoring_fault(method, name, ignored_fault, wait)

    def _call_ignoring_fault(self, method: str, name: str, ignored_fault: int, wait: bool) -> None:
        try:
            self._call(method, name, wait)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != ignored_fault:
                raise


class RenderPlugin(ControllerPluginBase):  # type: ignore[misc]
    """Refreshes the include file when supervisorctl starts and before each line at its prompt; `update` in its turn."""

    name = "crowdperf"

    def __init__(self, controller: Any, root: Path) -> None:
        self.ctl = controller
        self._root = root
        self._refresh()
        controller.precmd = self._refresh_before_command
        # The controller's own commands go before those of plug-ins, among which supervisorctl's `update` is one.
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
            print(f"crowdperf: the programs stay as they were: {error}", file=sys.stderr)


def make(controller: Any, **_: str) -> RenderPlugin:
    """supervisorctl's factory; the installation is the folder of the supervisord.conf that it read."""
    return RenderPlugin(controller, Path(controller.options.configfile).resolve().parent)
