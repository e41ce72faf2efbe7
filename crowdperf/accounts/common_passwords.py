"""Passwords that are tried first: keyboard rows, counted digits, repeated parts and the commonest words."""

from __future__ import annotations

import re

# Words that lead public lists of leaked passwords (SecLists, 10k-most-common), without names of persons, and what
# people here would put in their place. A word counts alone, with others, and with a short number behind it.
_WORDS = [
    "abc",
    "access",
    "admin",
    "administrator",
    "baseball",
    "batman",
    "changeme",
    "computer",
    "crowdperf",
    "default",
    "dragon",
    "football",
    "guest",
    "hello",
    "iloveyou",
    "internet",
    "kamera",
    "kennwort",
    "letmein",
    "login",
    "master",
    "monkey",
    "mustang",
    "operator",
    "pass",
    "passwort",
    "password",
    "princess",
    "reception",
    "root",
    "secret",
    "security",
    "shadow",
    "sommer",
    "starwars",
    "summer",
    "sunshine",
    "superman",
    "test",
    "trustno",
    "user",
    "viewer",
    "visitor",
    "welcome",
    "whatever",
    "willkommen",
    "winter",
]
_ROWS = (
    "0123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1q2w3e4r5t6y7u8i9o0p",
    "1q2w3e4r5t6z7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
)
_SEQUENCES = " ".join(text for row in _ROWS for text in (row * 2, (row * 2)[::-1]))
_SUBSTITUTES = str.maketrans("@0134$5", "aoieass")
_SUBSTITUTED = re.compile(r"(?<=[a-z])[@0134$5]+(?=[a-z])")
_WORDS_PATTERN = re.compile(f"(?:{'|'.join(_WORDS)})+")
_PART_PATTERN = re.compile(r"[a-z]+|\d+")
MAX_PARTS = 4
"""Parts of a password that are looked at; more of them are hard to guess, however short each is."""
MAX_FREE_DIGITS = 4
"""Length of a number that adds nothing: a year, or 99."""


def is_common(password: str, name: str) -> bool:
    """Check whether a password is one of those that are tried first, such as 1234567890 or Passw0rd2024."""
    text, own = password.casefold(), name.casefold()
    if text in _SEQUENCES or _is_repeated(text):
        return True
    plain = _SUBSTITUTED.sub(lambda found: found[0].translate(_SUBSTITUTES), text)
    return any(_consists_of_common_parts(form.replace(own, " ")) for form in (text, plain))


def _is_repeated(text: str) -> bool:
    """Check whether the text is a short part again and again, such as 1231231231."""
    return any(text[length:] == text[:-length] for length in range(1, len(text) // 2 + 1))


def _consists_of_common_parts(text: str) -> bool:
    parts = _PART_PATTERN.findall(text)
    return len(parts) <= MAX_PARTS and all(map(_is_common_part, parts)) and text.isascii()


def _is_common_part(part: str) -> bool:
    is_free_number = part.isdigit() and len(part) <= MAX_FREE_DIGITS
    return is_free_number or part in _SEQUENCES or _WORDS_PATTERN.fullmatch(part) is not None
