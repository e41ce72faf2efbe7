"""Passwords (Argon2id, RFC 9106), random secrets, the setup secret and the limits of sign-in attempts."""

from __future__ import annotations

import base64
import ipaddress
import secrets
from pathlib import Path

import redis.asyncio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from crowdperf.accounts.common_passwords import is_common
from crowdperf.messaging.redis.client import AnyClient
from crowdperf.primitives.atomic_file import create_private_file
from crowdperf.primitives.digest import compute_digest

MIN_PASSWORD_LENGTH = 10
MAX_PASSWORD_LENGTH = 256
# RFC 9106's second recommendation (64 MiB, three passes) with one lane: the cameras need the other cores.
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=1)


class WeakPasswordError(Exception):
    """Raised for a password that is too weak; the message is the remedy."""


def check_password(password: str, name: str) -> None:
    """Raise WeakPasswordError for a password that is too short, too long or easy to guess."""
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise WeakPasswordError(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters. Remedy: use a longer "
            "one, such as a sentence."
        )
    if len(set(password)) < 4 or is_common(password, name):
        raise WeakPasswordError("that password is one of the first that are tried. Remedy: use a sentence of your own.")


def hash_password(password: str) -> str:
    """Hash a password with Argon2id; takes about 0.1 s, so not on an event loop."""
    return _HASHER.hash(password)


def _build_dummy_hash() -> str:
    """Build a hash that fits no password: verifying it takes as long as a real one, building it no time."""
    salt, value = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")
        for size in (_HASHER.salt_len, _HASHER.hash_len)
    )
    costs = f"m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${value}"


_DUMMY_HASH = _build_dummy_hash()


def verify_password(password: str, stored: str | None) -> bool:
    """Verify a password. Without an account (None) it takes as long, so that timing reveals no names."""
    try:
        return _HASHER.verify(stored or _DUMMY_HASH, password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def generate_secret() -> str:
    """Generate 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def hash_secret(text: str) -> str:
    """Hash a secret of 256 bits with SHA-256, as hex."""
    return compute_digest(text.encode())


def is_same_secret(first: str, second: str) -> bool:
    """Compare two secrets in constant time."""
    return secrets.compare_digest(first.encode(), second.encode())


class SetupSecret:
    """Secret of the one-time setup link, in the file `setup.secret` of the sockets' folder.

    A user who can read the file owns the installation already.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "setup.secret"

    def read(self) -> str | None:
        """Read the secret; None while there is none."""
        try:
            return self._file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def create(self) -> str:
        """Create the secret unless it exists; return it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        create_private_file(self._file, generate_secret().encode())
        return self.read() or ""

    def matches(self, text: str) -> bool:
        """Check whether `text` is the secret."""
        secret = self.read()
        return secret is not None and is_same_secret(secret, text)

    def remove(self) -> None:
        """Remove the secret once it was used."""
        self._file.unlink(missing_ok=True)


def build_setup_link(base_url: str, secret: str) -> str:
    """Build the administrator's link. The secret follows '#', so that no server log and no Referer has it."""
    return f"{base_url}/setup/#{secret}"


def build_kiosk_link(base_url: str, name: str, secret: str) -> str:
    """Build the link that makes a browser the kiosk of that name.

    Args:
        base_url: Address of the site; empty for a path.
        name: Name of the kiosk.
        secret: Secret that the link carries.

    Returns:
        The link. The secret follows '#', so that no server log and no Referer has it.
    """
    return f"{base_url}/kiosk/#{name}:{secret}"


WINDOW_S = 900
MAX_PER_PAIR = 5
"""Attempts on one account from one address, enough for a person who mistypes."""
MAX_PER_ADDRESS = 20
"""Attempts from one address on any account, against a client that tries names."""
MAX_PER_ACCOUNT = 60
"""Attempts on one account from anywhere, against many machines. High, because it can lock a person out."""
REFUSAL_INTERVAL_S = 60
"""Time between two audit entries of refused requests from one address."""
KEY_PREFIX = "crowdperf:login:"


class SignInLimiter:
    """Limit sign-in attempts. Each counts before it is checked, so that parallel ones cannot all pass."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "") -> None:
        self._client: AnyClient = client
        self._prefix = prefix + KEY_PREFIX

    async def register_attempt(self, name: str, address: str) -> int:
        """Count one attempt; return 0 when it may proceed, else the seconds to wait."""
        async with self._client.pipeline() as pipe:
            for key, _ in self._get_limits(name, address):
                # The window begins with the first attempt: later ones do not move the expiry.
                pipe.set(key, 0, ex=WINDOW_S, nx=True)
                pipe.incr(key)
                pipe.ttl(key)
            pipe.sadd(self._addresses_key(name), address)
            pipe.expire(self._addresses_key(name), WINDOW_S)
            replies = await pipe.execute()
        counted = zip(self._get_limits(name, address), replies[1::3], replies[2::3])
        return max((int(wait) for (_, limit), count, wait in counted if count > limit), default=0)

    async def is_due_refusal(self, address: str) -> bool:
        """Check whether a refused request is written to the audit log: one a minute and address."""
        key = f"{self._prefix}refused:{get_network(address)}"
        return bool(await self._client.set(key, 1, ex=REFUSAL_INTERVAL_S, nx=True))

    async def record_success(self, name: str, address: str) -> None:
        """Forget the attempts of a person who has signed in; the address's other attempts stay counted."""
        (pair, _), (from_address, _), (on_account, _) = self._get_limits(name, address)
        async with self._client.pipeline() as pipe:
            pipe.delete(pair)
            # Set first: a decrement of a missing key would create one that never expires.
            for key in (from_address, on_account):
                pipe.set(key, 1, ex=WINDOW_S, nx=True)
                pipe.decr(key)
            await pipe.execute()

    async def forget_account(self, name: str) -> None:
        """Forget the attempts on an account, and those from their addresses, once its password was reset."""
        addresses = await self._client.smembers(self._addresses_key(name))
        counters = {key for address in addresses for key, _ in self._get_limits(name, address.decode())}
        (_, _, (on_account, _)) = self._get_limits(name, "")
        await self._client.delete(*counters, on_account, self._addresses_key(name))

    def _addresses_key(self, name: str) -> str:
        """Return the key of the addresses from which an account was tried."""
        return f"{self._prefix}addresses:{_hash_name(name)}"

    def _get_limits(self, name: str, address: str) -> tuple[tuple[str, int], tuple[str, int], tuple[str, int]]:
        """Return (key, maximum) of the three counters. Names are hashed: some people type a password there."""
        account, address = _hash_name(name), get_network(address)
        return (
            (f"{self._prefix}pair:{account}:{address}", MAX_PER_PAIR),
            (f"{self._prefix}address:{address}", MAX_PER_ADDRESS),
            (f"{self._prefix}account:{account}", MAX_PER_ACCOUNT),
        )


def _hash_name(name: str) -> str:
    return hash_secret(name.lower())[:32]


def get_network(address: str) -> str:
    """Return what one client has: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
