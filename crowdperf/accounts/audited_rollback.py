"""The audit entries of a rollback on the command line: its intent and its outcome, as the web process writes them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from crowdperf.accounts.audit_log import stage_entry
from crowdperf.messaging.redis.client import OUTAGE, connect
from crowdperf.messaging.schema import AuditEntry
from crowdperf.settings.base import ConfigError
from crowdperf.settings.config import Deployment
from crowdperf.supervision.config_patch import ConfigRequest, ConfigResponse


def roll_back(
    apply: Callable[[ConfigRequest], ConfigResponse], request: ConfigRequest, deployment: Deployment
) -> ConfigResponse:
    """Roll back between the audit entries of the intent and the outcome.

    Args:
        apply: makes the change.
        request: the rollback.
        deployment: says in which Redis the audit log is.

    Returns:
        The response of `apply`.
    """
    audit = _RollbackAudit(request, deployment)
    audit.write("config.rollback.intent")
    try:
        outcome = apply(request)
    except ConfigError:
        audit.write("config.rollback.refuse", "the version is not valid")
        raise
    if outcome.status == 200:
        audit.write("config.rollback", f"version {outcome.version}")
    else:
        audit.write("config.rollback.refuse", f"status {outcome.status}")
    return outcome


class _RollbackAudit:
    """Write entries where Redis takes them; a rollback must also work where the site does not start."""

    def __init__(self, request: ConfigRequest, deployment: Deployment) -> None:
        self._request = request
        self._client = connect(deployment.redis_url)
        self._prefix = deployment.config.key_prefix
        self._is_down = False

    def write(self, action: str, detail: str = "") -> None:
        """Write one entry, unless Redis had failed before."""
        if self._is_down:
            return
        who, target = self._request.who, f"version {self._request.number}"
        entry = AuditEntry(ts=time.time(), who=who, via="cli", action=action, target=target, detail=detail)
        pipe = self._client.pipeline()
        stage_entry(pipe, entry, self._prefix)
        try:
            pipe.execute()
        except OUTAGE as error:
            self._is_down = True
            print(f"no audit entry ({error}); the rollback goes on, and the versions name it", file=sys.stderr)
