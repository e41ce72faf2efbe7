"""Passwords by Argon2id (RFC 9106), and random secrets.

The one-time link that makes a site's first administrator: a secret in the data folder, for its owner's eyes only.

Limits of failed sign-ins, counted in Redis so that every web process shares them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

import redis.asyncio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_PASSWORD_LENGTH = 10
MAX_PASSWORD_LENGTH = 256
# RFC 9106's second recommendation (64 MiB, three passes) with one lane: a site's machine has cameras to count.
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)


class WeakPasswordError(Exception):
    """The message says what a password needs."""


def check_password(password: str, name: str) -> None:
    """Refuse what anybody would try first.

    Raises:
        WeakPassword: too short, too long, one repeated character, or the account's name.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise WeakPasswordError(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters. Remedy: use a longer "
            "one, such as a sentence."
        )
    if len(set(password)) < 4 or password.lower() == name.lower():
        raise WeakPasswordError("that password is too easy to guess. Remedy: use one with more different characters.")


def hash_password(password: str) -> str:
    """Argon2id of a password, salt and parameters included. Takes about 0.1 s: not on an event loop."""
    return _HASHER.hash(password)


_DUMMY_HASH = hash_password(secrets.token_urlsafe(16))


def verify_password(password: str, stored: str | None) -> bool:
    """Whether it is the password. Without an account (None) it takes as long, so that time tells no names."""
    try:
        return _HASHER.verify(stored or _DUMMY_HASH, password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def generate_secret() -> str:
    """256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def hash_secret(text: str) -> str:
    """SHA-256, hex: how secrets of 256 bits are kept."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_same_secret(first: str, second: str) -> bool:
    """Compare two secrets in constant time."""
    return secrets.compare_digest(first.encode(), second.encode())


class SetupSecret:
    """The file `setup.secret` of the folder of sockets. Who can read it owns the installation already."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "setup.secret"

    def read(self) -> str | None:
        """The secret; None while there is none."""
        try:
            return self._file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def create(self) -> str:
        """The secret, made by whoever comes first."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Readable for nobody else, under a name that neither a process nor a thread shares with another.
        handle, fresh = tempfile.mkstemp(".tmp", "setup.", self._file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(generate_secret())
        try:
            # A link never replaces: two processes that start together agree on one secret, and nobody reads half of it.
            os.link(fresh, self._file)
        except FileExistsError:
            pass
        finally:
            os.unlink(fresh)
        return self.read() or ""

    def matches(self, text: str) -> bool:
        """Whether `text` is the secret."""
        known = self.read()
        return known is not None and is_same_secret(known, text)

    def remove(self) -> None:
        """Used up."""
        self._file.unlink(missing_ok=True)


def build_setup_link(base_url: str, secret: str) -> str:
    """What the administrator opens. Behind the '#', so that it is in no server's log and no Referer."""
    return f"{base_url}/setup/#{secret}"


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
