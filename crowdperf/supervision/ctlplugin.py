"""The plug-in of supervisorctl that renders the programs of the present config.json before any command runs.

supervisord knows programs only from files, so an edit of config.json has to be rendered before `update` can act on it.
An `update` waits for one that is under way, such as that of a change through the interface: supervisord would refuse
the second to begin a program that the first is about to begin.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from crowdperf.settings.base import ConfigError
from crowdperf.settings.paths import Paths
from crowdperf.supervision.render import refresh
from crowdperf.supervision.versions import ConfigHistory


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
