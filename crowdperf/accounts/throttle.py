"""Limits of failed sign-ins, counted in Redis so that every web process shares them."""

from __future__ import annotations

from typing import Any

import redis.asyncio

from crowdperf.accounts.passwords import hash_secret

WINDOW_S = 900
MAX_PER_PAIR = 5
"""Attempts on one account from one address: a person who mistypes."""
MAX_PER_ADDRESS = 20
"""Attempts from one address, whatever the account: one who tries names."""
MAX_PER_ACCOUNT = 60
"""Attempts on one account from anywhere: many machines. High, since anybody could lock a person out with it."""
KEY_PREFIX = "crowdperf:login:"


class SignInLimiter:
    """Counts attempts before they are judged, so that a hundred at once cannot all slip through."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "") -> None:
        # Any: redis-py types its replies differently from release to release.
        self._client: Any = client
        self._prefix = prefix + KEY_PREFIX

    async def register_attempt(self, name: str, address: str) -> int:
        """Count one attempt. Returns 0 where it may go on, else the seconds to wait."""
        async with self._client.pipeline() as pipe:
            for key, _ in self._get_limits(name, address):
                # The window begins with the first attempt: the expiry is set with the key, and not moved later.
                pipe.set(key, 0, ex=WINDOW_S, nx=True)
                pipe.incr(key)
                pipe.ttl(key)
            replies = await pipe.execute()
        counted = zip(self._get_limits(name, address), replies[1::3], replies[2::3])
        return max((int(wait) for (_, limit), count, wait in counted if count > limit), default=0)

    async def record_success(self, name: str, address: str) -> None:
        """Forget the attempts of a person who has signed in; what the address tried elsewhere stays counted."""
        (pair, _), (from_address, _), (on_account, _) = self._get_limits(name, address)
        async with self._client.pipeline() as pipe:
            pipe.delete(pair)
            # Only what is counted is counted back: a decrement alone would make a key that never expires.
            for key in (from_address, on_account):
                pipe.set(key, 1, ex=WINDOW_S, nx=True)
                pipe.decr(key)
            await pipe.execute()

    def _get_limits(self, name: str, address: str) -> tuple[tuple[str, int], tuple[str, int], tuple[str, int]]:
        """(key, most attempts) of the three counters. Names are hashed: people type passwords into that field."""
        who = hash_secret(name.lower())[:32]
        return (
            (f"{self._prefix}pair:{who}:{address}", MAX_PER_PAIR),
            (f"{self._prefix}address:{address}", MAX_PER_ADDRESS),
            (f"{self._prefix}account:{who}", MAX_PER_ACCOUNT),
        )
