"""Roles, accounts and tokens: the rules, without Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowdperf.accounts import model, passwords
from crowdperf.accounts.model import Account, AccountError, Token, UnknownAccount
from crowdperf.accounts.permissions import GRANTS, NEEDS, PERMISSIONS, ROLES, Principal, narrowed
from crowdperf.accounts.setup import SetupSecret

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
        ("reception", {"read", "visitors"}),
        ("operator", {"read", "visitors", "review", "configure"}),
        ("admin", set(PERMISSIONS)),
    ],
)
def test_each_role_has_its_permissions_and_no_other(role: str, may: set[str]) -> None:
    who = account("ada", role).principal("s", "c")
    assert {need for need in NEEDS if who.may(need)} == may | {"open", "self"}


def test_a_token_is_no_person_and_never_more_than_its_owner() -> None:
    row = token(permissions=list(PERMISSIONS))
    assert row.principal(account("ada", "reception"), NOW).permissions == GRANTS["reception"]
    assert not row.principal(account("ada", "admin"), NOW).may("self")
    assert token().principal(account("ada", "admin"), NOW).permissions == {"read"}


def test_a_token_ends_with_its_time_and_with_its_owner() -> None:
    assert token().principal(account("ada"), NOW + 59.9) is not None
    assert token().principal(account("ada"), NOW + 60) is None
    assert token().principal(account("ada", disabled=True), NOW) is None


def test_a_tokens_cameras_are_those_that_both_may_see() -> None:
    both = token(cameras=["a", "b"]).principal(account("ada", cameras=["b", "c"]), NOW)
    assert both.cameras == {"b"}
    assert both.sees("b")
    assert not both.sees("a")
    assert token().principal(account("ada"), NOW).sees("anything")


CAMERAS = st.none() | st.frozensets(st.sampled_from("abc"))


@given(CAMERAS, CAMERAS, st.sampled_from("abc"))
def test_narrowing_never_shows_more(one: frozenset[str] | None, two: frozenset[str] | None, camera: str) -> None:
    def sees(cameras: frozenset[str] | None) -> bool:
        return Principal(name="", kind="token", cameras=cameras).sees(camera)

    assert sees(narrowed(one, two)) == (sees(one) and sees(two))


def test_the_last_administrator_stays() -> None:
    rows = {"ada": account("ada", "admin"), "bob": account("bob")}
    for change in (
        lambda: model.removed(rows, "ada"),
        lambda: model.changed(rows, "ada", role="viewer"),
        lambda: model.changed(rows, "ada", disabled=True),
    ):
        with pytest.raises(AccountError, match="last administrator"):
            change()
    both = model.changed(rows, "bob", role="admin")
    assert set(model.removed(both, "ada")) == {"bob"}


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
                rows = model.removed(rows, name)
            elif what == "role":
                rows = model.changed(rows, name, role=role)
            else:
                rows = model.changed(rows, name, disabled=what == "disable")
        except AccountError:
            continue
    assert any(row.role == "admin" and not row.disabled for row in rows.values())


def test_a_change_of_password_or_role_ends_sessions_and_a_change_of_cameras_does_not() -> None:
    rows = {"ada": account("ada", "admin"), "bob": account("bob")}
    assert model.changed(rows, "bob", password="y")["bob"].generation == 1
    assert model.changed(rows, "bob", role="operator")["bob"].generation == 1
    assert model.changed(rows, "bob", disabled=True)["bob"].generation == 1
    cut = model.changed(rows, "bob", cameras=["b", "a", "a"])["bob"]
    assert (cut.generation, cut.cameras) == (0, ["a", "b"])
    assert model.changed({**rows, "bob": cut}, "bob", all_cameras=True)["bob"].cameras is None


def test_names_are_taken_whatever_their_case_and_unknown_ones_are_named() -> None:
    rows = {"ada": account("ada", "admin")}
    with pytest.raises(AccountError, match="exists already"):
        model.added(rows, account("Ada"))
    with pytest.raises(AccountError, match="administrator already"):
        model.first(rows, account("bob", "admin"))
    with pytest.raises(UnknownAccount, match="'eve'"):
        model.changed(rows, "eve", role="admin")
    for name in ("", "-x", "a b", "a" * 65, "ä", "../x", "a\n"):
        with pytest.raises(AccountError):
            model.check_name(name)


@pytest.mark.parametrize("password", ["short", "aaaaaaaaaaaaaa", "x" * 257, "Administrator"])
def test_what_anybody_would_try_first_is_no_password(password: str) -> None:
    with pytest.raises(passwords.WeakPassword, match="Remedy"):
        passwords.check(password, "administrator")


def test_passwords_are_argon2id_and_salted() -> None:
    one, two = passwords.hashed("a long sentence"), passwords.hashed("a long sentence")
    assert one.startswith("$argon2id$v=19$m=65536,t=3,")
    assert one != two
    assert passwords.matches("a long sentence", one)
    assert not passwords.matches("another sentence", one)
    assert not passwords.matches("a long sentence", None)
    assert not passwords.matches("a long sentence", "")


def test_the_setup_secret_is_one_for_all_and_its_owners_alone(tmp_path: Path) -> None:
    one, two = SetupSecret(tmp_path), SetupSecret(tmp_path)
    assert one.read() is None
    assert not one.fits("")
    secret = one.create()
    assert two.create() == secret
    assert one.fits(secret)
    assert not one.fits(secret[:-1])
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    two.remove()
    assert not one.fits(secret)


def test_threads_that_make_the_setup_secret_at_once_agree(tmp_path: Path) -> None:
    link = SetupSecret(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(50):
            assert len(set(pool.map(lambda _: link.create(), range(8)))) == 1
            link.remove()
    assert list(tmp_path.iterdir()) == []
