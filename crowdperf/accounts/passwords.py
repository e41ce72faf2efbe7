"""Passwords by Argon2id (RFC 9106), and random secrets."""

from __future__ import annotations

import hashlib
import secrets

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
