"""The plug-in of supervisorctl that renders the programs of the present config.json before any command runs.

supervisord knows programs only from files, so an edit of config.json has to be rendered before `update` can act on it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from supervisor.supervisorctl import ControllerPluginBase

from crowdperf.settings.base import ConfigError
from crowdperf.supervision.render import refresh


class RenderPlugin(ControllerPluginBase):  # type: ignore[misc]
    """Adds no command: it refreshes the include file when supervisorctl starts and before each line at its prompt."""

    name = "crowdperf"

    def __init__(self, controller: Any, root: Path) -> None:
        self.ctl = controller
        self._root = root
        self._refresh()
        controller.precmd = self._before

    def _before(self, line: str) -> str:
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
