"""Who works on which share of the cameras: one lease in Redis per instance's share, taken over when it ends."""

from __future__ import annotations

from typing import Any

import redis

LEASE_S = 5.0
RENEW_S = 1.0


class Leases:
    """The leases of one worker, as one of its instances sees them.

    Args:
        client: a redis-py client.
        worker: the worker's name, which is its consumer group.
        instance: this instance; share `instance` is its own.
        instances: how many there are, and how many shares.
        holder: the process's name, which no other living process has. A process that is started again under it has its
            leases back at once.
        lease_s: seconds after which the share of an instance that is silent is taken over.
    """

    def __init__(
        self,
        client: redis.Redis,
        worker: str,
        instance: int,
        instances: int,
        holder: str,
        prefix: str = "",
        lease_s: float = LEASE_S,
    ) -> None:
        self._client: Any = client
        self.worker = worker
        self.instance, self.instances = instance, instances
        self.holder = holder
        self._me = holder.encode()
        self._lease_s = lease_s
        self._prefix = f"{prefix}crowdperf:lease:{worker}"
        self._owned: set[int] = set()
        self._free_since: dict[int, float] = {}
        self._taken_at = float("-inf")
        self._started = False

    def start(self) -> None:
        """Say how many instances there are: members that were started for another number stop storing."""
        # After an outage only where it is gone: a process of an older configuration must not have its way again.
        self._client.set(f"{self._prefix}:instances", self.instances, nx=self._started)
        self._started = True
        self._taken_at = float("-inf")

    def take(self, now: float, anew: bool = False) -> set[int]:
        """Renew, take over and hand back, at most once a second; the shares that are this instance's now.

        Args:
            now: monotonic seconds.
            anew: do it whether or not a second has passed.
        """
        if not anew and now - self._taken_at < RENEW_S:
            return self._owned
        self._taken_at = now
        shares = range(self.instances)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.get(f"{self._prefix}:instances")
            for share in shares:
                pipe.get(self._lease(share))
                pipe.get(self._wanted(share))
            told, *rows = pipe.execute()
        if told != str(self.instances).encode():
            self._owned = set()
            return self._owned
        self._owned = {share for share in shares if self._decide(share, rows[2 * share], rows[2 * share + 1], now)}
        return self._owned

    def _decide(self, share: int, holder: bytes | None, wanted: bytes | None, now: float) -> bool:
        """Whether the share is this instance's from now on."""
        milliseconds = int(self._lease_s * 1000)
        if holder == self._me:
            if share != self.instance and wanted is not None:
                self._client.delete(self._lease(share))
                return False
            self._client.pexpire(self._lease(share), milliseconds)
            return True
        if holder is not None:
            self._free_since.pop(share, None)
            if share == self.instance:
                self._client.set(self._wanted(share), self._me, px=milliseconds)
            return False
        # Its own instance may be just starting: a sibling waits as long as a lease lasts.
        if share != self.instance and now - self._free_since.setdefault(share, now) < self._lease_s:
            return False
        self._free_since.pop(share, None)
        return bool(self._client.set(self._lease(share), self._me, nx=True, px=milliseconds))

    def watch(self, pipe: Any, shares: set[int]) -> bool:
        """Put a transaction under the condition that these shares stay this instance's; False if they are not."""
        names = [f"{self._prefix}:instances", *(self._lease(share) for share in sorted(shares))]
        pipe.watch(*names)
        told, *holders = pipe.mget(names)
        return told == str(self.instances).encode() and all(holder == self._me for holder in holders)

    def release(self) -> None:
        """Give back what is held."""
        for share in self._owned:
            if self._client.get(self._lease(share)) == self._me:
                self._client.delete(self._lease(share))
        self._owned = set()

    def _lease(self, share: int) -> str:
        return f"{self._prefix}:{share}of{self.instances}"

    def _wanted(self, share: int) -> str:
        return f"{self._prefix}:{share}of{self.instances}:wanted"
