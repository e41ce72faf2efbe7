"""Assign shards of the cameras to a worker's instances: one lease in Redis per shard, taken over when it ends."""

from __future__ import annotations

from typing import Any

import redis

LEASE_S = 5.0
RENEW_S = 1.0


class Leases:
    """Leases of one worker, as one of its instances sees them.

    Args:
        client: a redis-py client.
        worker: name of the worker and of its consumer group.
        instance: number of this instance; its own shard has the same number.
        instances: number of instances and of shards.
        holder: name of the process, unique among living ones. A restarted process has its leases back at once.
        prefix: the configured prefix of every key.
        lease_s: seconds after which the shard of a silent instance is taken over.
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
        """Store the number of instances; members that were started for another number stop storing."""
        # After an outage only where it is missing, so that a process of an older configuration does not overwrite it.
        self._client.set(f"{self._prefix}:instances", self.instances, nx=self._started)
        self._started = True
        self._renewed_at = float("-inf")

    def renew(self, now: float, force: bool = False) -> set[int]:
        """Renew, take over and hand back leases, and return the owned shards; `now` is monotonic, in seconds.

        It acts once a second at most, unless `force` is set.
        """
        if not force and now - self._renewed_at < RENEW_S:
            return self._owned_shards
        self._renewed_at = now
        shards = range(self.instances)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.get(f"{self._prefix}:instances")
            for shard in shards:
                pipe.get(self._lease_key(shard))
                pipe.get(self._request_key(shard))
            instances, *rows = pipe.execute()
        if instances is None and self._client.set(f"{self._prefix}:instances", self.instances, nx=True):
            # Redis lost its data on a live connection, so that no outage was seen.
            instances = str(self.instances).encode()
        if instances != str(self.instances).encode():
            self._owned_shards = set()
            return self._owned_shards
        self._owned_shards = {
            shard for shard in shards if self._renew_or_acquire(shard, rows[2 * shard], rows[2 * shard + 1], now)
        }
        return self._owned_shards

    def _renew_or_acquire(self, shard: int, holder: bytes | None, requested_by: bytes | None, now: float) -> bool:
        """Check whether the shard is this instance's from now on."""
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
        # Its own instance may be starting: a sibling waits for the time of a lease.
        if shard != self.instance and now - self._free_since.setdefault(shard, now) < self._lease_s:
            return False
        self._free_since.pop(shard, None)
        return bool(self._client.set(self._lease_key(shard), self._holder_bytes, nx=True, px=milliseconds))

    def watch(self, pipe: Any, shards: set[int]) -> bool:
        """Make a transaction depend on the ownership of these shards; False where it is lost already."""
        names = [f"{self._prefix}:instances", *(self._lease_key(shard) for shard in sorted(shards))]
        pipe.watch(*names)
        instances, *holders = pipe.mget(names)
        return instances == str(self.instances).encode() and all(holder == self._holder_bytes for holder in holders)

    def release(self) -> None:
        """Give back the held leases."""
        for shard in self._owned_shards:
            if self._client.get(self._lease_key(shard)) == self._holder_bytes:
                self._client.delete(self._lease_key(shard))
        self._owned_shards = set()

    def _lease_key(self, shard: int) -> str:
        return f"{self._prefix}:{shard}of{self.instances}"

    def _request_key(self, shard: int) -> str:
        return f"{self._prefix}:{shard}of{self.instances}:wanted"
