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
        self._holder_bytes = holder.encode()
        self._lease_s = lease_s
        self._prefix = f"{prefix}crowdperf:lease:{worker}"
        self._owned_shards: set[int] = set()
        self._free_since: dict[int, float] = {}
        self._renewed_at = float("-inf")
        self._started = False

    def start(self) -> None:
        """Say how many instances there are: members that were started for another number stop storing."""
        # After an outage only where it is gone: a process of an older configuration must not have its way again.
        self._client.set(f"{self._prefix}:instances", self.instances, nx=self._started)
        self._started = True
        self._renewed_at = float("-inf")

    def renew(self, now: float, force: bool = False) -> set[int]:
        """Renew, take over and hand back, at most once a second; the shares that are this instance's now.

        Args:
            now: monotonic seconds.
            anew: do it whether or not a second has passed.
        """
        if not force and now - self._renewed_at < RENEW_S:
            return self._owned_shards
        self._renewed_at = now
        shares = range(self.instances)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.get(f"{self._prefix}:instances")
            for share in shares:
                pipe.get(self._lease_key(share))
                pipe.get(self._request_key(share))
            told, *rows = pipe.execute()
        if told != str(self.instances).encode():
            self._owned_shards = set()
            return self._owned_shards
        self._owned_shards = {
            share for share in shares if self._renew_or_acquire(share, rows[2 * share], rows[2 * share + 1], now)
        }
        return self._owned_shards

    def _renew_or_acquire(self, shard: int, holder: bytes | None, requested_by: bytes | None, now: float) -> bool:
        """Whether the share is this instance's from now on."""
        milliseconds = int(self._lease_s * 1000)
        if holder == self._holder_bytes:
            if shard != self.instance and requested_by is not None:
                self._client.delete(self._lease_key(shard))
                return False
            self._client.pexpire(self._lease_key(shard), milliseconds)
            return True
        if holder is not None:
            self._free_since.pop(shard, None)
            if shard == self.instance:
                self._client.set(self._request_key(shard), self._holder_bytes, px=milliseconds)
            return False
        # Its own instance may be just starting: a sibling waits as long as a lease lasts.
        if shard != self.instance and now - self._free_since.setdefault(shard, now) < self._lease_s:
            return False
        self._free_since.pop(shard, None)
        return bool(self._client.set(self._lease_key(shard), self._holder_bytes, nx=True, px=milliseconds))

    def watch(self, pipe: Any, shards: set[int]) -> bool:
        """Put a transaction under the condition that these shares stay this instance's; False if they are not."""
        names = [f"{self._prefix}:instances", *(self._lease_key(share) for share in sorted(shards))]
        pipe.watch(*names)
        told, *holders = pipe.mget(names)
        return told == str(self.instances).encode() and all(holder == self._holder_bytes for holder in holders)

    def release(self) -> None:
        """Give back what is held."""
        for share in self._owned_shards:
            if self._client.get(self._lease_key(share)) == self._holder_bytes:
                self._client.delete(self._lease_key(share))
        self._owned_shards = set()

    def _lease_key(self, shard: int) -> str:
        return f"{self._prefix}:{shard}of{self.instances}"

    def _request_key(self, shard: int) -> str:
        return f"{self._prefix}:{shard}of{self.instances}:wanted"
