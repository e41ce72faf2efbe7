"""Roles, accounts and tokens: the rules, without Redis."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.accounts import credentials, principal
from crowdperf.accounts.credentials import SetupSecret
from crowdperf.accounts.principal import (
    NEEDS,
    PERMISSIONS,
    ROLE_PERMISSIONS,
    ROLES,
    Account,
    AccountError,
    Principal,
    Token,
    UnknownAccountError,
    intersect_cameras,
)

NOW = 1_780_000_000.0


def account(name: str, role: str = "viewer", **more) -> Account:
    return Account(name=name, role=role, password="x", created_at=NOW, **more)


def token(**more) -> Token:
    base = {
        "id": "a1",
        "account": "ada",
        "label": "export",
        "secret_sha256": "",
        "permissions": ["read"],
        "created_at": NOW,
        "expires_at": NOW + 60,
    }
    return Token(**{**base, **more})


@pytest.mark.parametrize(
    ("role", "may"),
    [
        ("viewer", {"read"}),
        ("reception", {"read", "visitors", "kiosk"}),
        ("operator", {"read", "visitors", "review", "configure", "kiosk"}),
        ("kiosk", {"kiosk"}),
        ("admin", set(PERMISSIONS)),
    ],
)
def test_each_role_has_its_permissions_and_no_other(role: str, may: set[str]) -> None:
    who = account("ada", role).to_principal("s", "c")
    assert {need for need in NEEDS if who.has_permission(need)} == may | {"open", "self"}


def test_a_token_is_no_person_and_never_more_than_its_owner() -> None:
    row = token(permissions=list(PERMISSIONS))
    assert row.to_principal(account("ada", "reception"), NOW).permissions == ROLE_PERMISSIONS["reception"]
    assert not row.to_principal(account("ada", "admin"), NOW).has_permission("self")
    assert token().to_principal(account("ada", "admin"), NOW).permissions == {"read"}


def test_a_token_ends_with_its_time_and_with_its_owner() -> None:
    assert token().to_principal(account("ada"), NOW + 59.9) is not None
    assert token().to_principal(account("ada"), NOW + 60) is None
    assert token().to_principal(account("ada", disabled=True), NOW) is None


def test_a_tokens_cameras_are_those_that_both_may_see() -> None:
    both = token(cameras=["a", "b"]).to_principal(account("ada", cameras=["b", "c"]), NOW)
    assert both.cameras == {"b"}
    assert both.can_see("b")
    assert not both.can_see("a")
    assert token().to_principal(account("ada"), NOW).can_see("anything")


def test_a_kiosk_is_no_person_and_its_link_opens_once() -> None:
    kiosk = principal.build_kiosk("entrance", "hash", NOW)
    rows = principal.add_kiosk({"ada": account("ada", "admin")}, kiosk)
    for name, link, now in (("entrance", "other", NOW), ("ada", "hash", NOW), ("ada", "", NOW), ("nobody", "", NOW)):
        with pytest.raises(AccountError, match="not valid"):
            principal.open_kiosk(rows, name, link, now)
    with pytest.raises(AccountError, match="not valid"):
        principal.open_kiosk(rows, "entrance", "hash", NOW + principal.KIOSK_LINK_S)
    opened = principal.open_kiosk(rows, "entrance", "hash", NOW + 1)
    for link in ("hash", ""):
        with pytest.raises(AccountError, match="not valid"):
            principal.open_kiosk(opened, "entrance", link, NOW + 1)
    again = principal.add_kiosk(opened, kiosk)
    assert again["entrance"].generation > opened["entrance"].generation, "a new link signs the device out"
    with pytest.raises(AccountError, match="account of a person"):
        principal.add_kiosk(rows, principal.build_kiosk("ada", "hash", NOW))


@pytest.mark.parametrize("role", ROLES)
def test_a_browser_that_is_a_kiosk_does_nothing_else(role: str) -> None:
    who = account("ada", role).to_principal("s", "c", is_kiosk=True)
    assert {need for need in NEEDS if who.has_permission(need)} <= {"kiosk", "open"}


CAMERAS = st.none() | st.frozensets(st.sampled_from("abc"))


@given(CAMERAS, CAMERAS, st.sampled_from("abc"))
def test_narrowing_never_shows_more(one: frozenset[str] | None, two: frozenset[str] | None, camera: str) -> None:
    def sees(cameras: frozenset[str] | None) -> bool:
        return Principal(name="", kind="token", cameras=cameras).can_see(camera)

    assert sees(intersect_cameras(one, two)) == (sees(one) and sees(two))


def test_the_last_administrator_stays() -> None:
    rows = {"ada": account("ada", "admin"), "bob": account("bob")}
    for change in (
        lambda: principal.remove_account(rows, "ada"),
        lambda: principal.change_account(rows, "ada", role="viewer"),
        lambda: principal.change_account(rows, "ada", disabled=True),
        lambda: principal.change_account(rows, "ada", cameras=["lobby"]),
    ):
        with pytest.raises(AccountError, match="last administrator"):
            change()
    both = principal.change_account(rows, "bob", role="admin")
    assert set(principal.remove_account(both, "ada")) == {"bob"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["remove", "role", "disable", "enable"]), st.sampled_from("abc"), st.sampled_from(ROLES)
        ),
        max_size=30,
    )
)
def test_whatever_is_done_somebody_may_administer(steps: list[tuple[str, str, str]]) -> None:
    rows = {name: account(name, role) for name, role in (("a", "admin"), ("b", "admin"), ("c", "viewer"))}
    for what, name, role in steps:
        try:
            if what == "remove":
                rows = principal.remove_account(rows, name)
            elif what == "role":
                rows = principal.change_account(rows, name, role=role)
            else:
                rows = principal.change_account(rows, name, disabled=what == "disable")
        except AccountError:
            continue
    assert any(row.role == "admin" and not row.disabled for row in rows.values())


def test_password_or_role_change_ends_sessions() -> None:
    rows = {"ada": account("ada", "admin"), "bob": account("bob")}
    assert principal.change_account(rows, "bob", password="y")["bob"].generation == 1
    assert principal.change_account(rows, "bob", role="operator")["bob"].generation == 1
    assert principal.change_account(rows, "bob", disabled=True)["bob"].generation == 1
    cut = principal.change_account(rows, "bob", cameras=["b", "a", "a"])["bob"]
    assert (cut.generation, cut.cameras) == (0, ["a", "b"])
    assert principal.change_account({**rows, "bob": cut}, "bob", all_cameras=True)["bob"].cameras is None


def test_names_ignore_case_and_unknown_ones_are_named() -> None:
    rows = {"ada": account("ada", "admin")}
    with pytest.raises(AccountError, match="exists already"):
        principal.add_account(rows, account("Ada"))
    with pytest.raises(AccountError, match="administrator already"):
        principal.add_first_admin(rows, account("bob", "admin"))
    with pytest.raises(UnknownAccountError, match="'eve'"):
        principal.change_account(rows, "eve", role="admin")
    for name in ("", "-x", "a b", "a" * 65, "ä", "../x", "a\n"):
        with pytest.raises(AccountError):
            principal.check_account_name(name)


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaa", "x" * 257, "Administrator"])
def test_what_anybody_would_try_first_is_no_password(password: str) -> None:
    with pytest.raises(credentials.WeakPasswordError, match="Remedy"):
        credentials.check_password(password, "administrator")


@pytest.mark.parametrize(
    "password",
    [
        "1234567890",
        "0987654321",
        "123456789012",
        "abcdefghij",
        "Qwertyuiop",
        "qwertzuiop",
        "1q2w3e4r5t",
        "1231231231",
        "Password123",
        "Passw0rd2024!",
        "p@$$w0rd99",
        "passwordpassword",
        "Welcome2024!",
        "iloveyou12",
        "ada1234567890",
        "ada.ada.2024",
    ],
)
def test_the_commonest_passwords_are_refused(password: str) -> None:
    with pytest.raises(credentials.WeakPasswordError, match=r"first that are tried.*Remedy"):
        credentials.check_password(password, "ada")


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "another good one",
        "8392817465",
        "a7k2m9x4b1",
        "my password is long",
        "adamant walrus",
        "пароль длинный",
        "das ist mein Kennwort hier",
    ],
)
def test_what_nobody_would_try_first_is_a_password(password: str) -> None:
    credentials.check_password(password, "ada")


def test_passwords_are_argon2id_and_salted() -> None:
    one, two = credentials.hash_password("a long sentence"), credentials.hash_password("a long sentence")
    assert one.startswith("$argon2id$v=19$m=65536,t=3,")
    assert one != two
    assert credentials.verify_password("a long sentence", one)
    assert not credentials.verify_password("another sentence", one)
    assert not credentials.verify_password("a long sentence", None)
    assert not credentials.verify_password("a long sentence", "")


def test_an_unknown_name_costs_what_a_known_one_costs() -> None:
    dummy, real = credentials._DUMMY_HASH, credentials.hash_password("a long sentence")
    assert argon2.extract_parameters(dummy) == argon2.extract_parameters(real)
    assert [len(part) for part in dummy.split("$")] == [len(part) for part in real.split("$")]
    # It is verified to its end: a hash that cannot be read would be refused at once.
    with pytest.raises(argon2.exceptions.VerifyMismatchError):
        argon2.PasswordHasher().verify(dummy, "a long sentence")


def test_the_import_hashes_nothing() -> None:
    code = (
        "import argon2; argon2.PasswordHasher.hash = lambda *words, **options: exit('hashed'); "
        "import crowdperf.accounts.credentials"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_setup_secret_is_one_for_all_and_its_owners_alone(tmp_path: Path) -> None:
    one, two = SetupSecret(tmp_path), SetupSecret(tmp_path)
    assert one.read() is None
    assert not one.matches("")
    secret = one.create()
    assert two.create() == secret
    assert one.matches(secret)
    assert not one.matches(secret[:-1])
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    two.remove()
    assert not one.matches(secret)


def test_threads_that_make_the_setup_secret_at_once_agree(tmp_path: Path) -> None:
    link = SetupSecret(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):
            assert len(set(pool.map(lambda _: link.create(), range(8)))) == 1
            link.remove()
    assert list(tmp_path.iterdir()) == []
