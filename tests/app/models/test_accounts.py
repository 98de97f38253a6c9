"""Accounts: who may register, what a password becomes, and whose session it is."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import passlib.handlers.pbkdf2 as passlib_pbkdf2
import pytest

from app.models import accounts, settings
from app.models.accounts import Account, Credentials, PasswordCheck, User
from app.models.db import DAL, Invalid, close, execute, insert, rows, transaction
from matching.order import format_price
from tests.database import add_user

FORM = {
    "username": "alice",
    "first_name": "Alice",
    "last_name": "Liddell",
    "email": "Alice@Example.org",
    "password": "s3cret",
    "password_two": "s3cret",
    "manager": "",
    "actual_cash": "50000",
}
ROUNDS = 10
DAY = 24 * 3600 * 1_000_000


def _register(db: DAL, **fields: str) -> User:
    registration = accounts.validate_registration(FORM | fields)
    password_hash = accounts.hash_password(registration.password, rounds=ROUNDS)
    with transaction(db, write=True):
        return accounts.register(db, registration, password_hash, at=1)


def _login(
    db: DAL, username: str, password: str, *, at: int = 2, rounds: int = ROUNDS
) -> str | None:
    with transaction(db):
        credentials = accounts.find_credentials(db, username)
    check = accounts.check_password(credentials, password, rounds=rounds)
    with transaction(db, write=True):
        return accounts.login(db, credentials, check, at=at)


def _errors(form: dict[str, str]) -> dict[str, str]:
    try:
        accounts.validate_registration(form)
    except Invalid as invalid:
        return invalid.errors
    return {}


def test_a_registration_becomes_an_account_with_its_deposit_in_the_ledger(db: DAL) -> None:
    user = _register(db, manager="on", actual_cash="50000.25")
    assert user == User(1, "alice", "Alice", "Liddell", "alice@example.org", True)
    with transaction(db):
        assert accounts.get(db, user.id) == user
        assert rows(db, "SELECT actual_cash FROM auth_user") == [(500_002_500,)]
        assert rows(db, "SELECT owner, amount, reason FROM ledger") == [
            (1, 500_002_500, "initial deposit")
        ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""),
        ("username", "   "),
        ("username", "a b"),
        ("username", "../etc"),
        ("username", "älice"),
        ("username", "a" * 65),
        ("first_name", ""),
        ("first_name", "  "),
        ("last_name", ""),
        ("last_name", "x" * 129),
        ("last_name", "tab\tbed"),
        ("email", ""),
        ("email", "nobody"),
        ("email", "two@at@signs"),
        ("email", "spa ce@example.org"),
        ("email", "x" * 250 + "@e.org"),
        ("password", ""),
        ("password", "abc"),
        ("password", "x" * 1025),
        ("password", "nul\0nul"),
        ("password_two", "another"),
        ("password_two", ""),
        ("actual_cash", ""),
        ("actual_cash", "-1"),
        ("actual_cash", "1.00001"),
        ("actual_cash", "1e9"),
        ("actual_cash", "nan"),
        ("actual_cash", "1000000000"),
        ("actual_cash", "٣"),
    ],
)
def test_a_field_that_is_wrong_is_named_and_no_other(field: str, value: str) -> None:
    form = FORM | {field: value}
    if field == "password":
        form["password_two"] = value
    assert set(_errors(form)) == {field}


def test_an_empty_form_names_every_field_that_is_needed() -> None:
    needed = {"username", "first_name", "last_name", "email", "password", "actual_cash"}
    assert set(_errors({})) == needed


@pytest.mark.parametrize("text", ["0", "0.0001", "999999999.9999"])
def test_cash_is_kept_to_the_last_of_four_decimals(db: DAL, text: str) -> None:
    _register(db, actual_cash=text)
    with transaction(db):
        cash = rows(db, "SELECT actual_cash FROM auth_user")[0][0]
    assert float(format_price(cash)) == float(text)


@pytest.mark.parametrize(
    ("username", "email", "taken"),
    [
        ("alice", "other@example.org", {"username"}),
        ("ALICE", "other@example.org", {"username"}),
        ("bob", "ALICE@example.ORG", {"email"}),
        ("Alice", "alice@example.org", {"username", "email"}),
    ],
)
def test_username_and_email_are_unique_however_they_are_spelt(
    db: DAL, username: str, email: str, taken: set[str]
) -> None:
    _register(db)
    with pytest.raises(Invalid) as raised:
        _register(db, username=username, email=email)
    assert set(raised.value.errors) == taken
    with transaction(db):
        assert rows(db, "SELECT COUNT(*) FROM auth_user") == [(1,)]
        assert rows(db, "SELECT COUNT(*) FROM ledger") == [(1,)]


def test_of_ten_who_want_one_name_at_once_one_gets_it(db: DAL) -> None:
    start = threading.Barrier(10)

    def attempt(number: int) -> bool:
        start.wait()
        try:
            _register(db, email=f"{number}@example.org")
        except Invalid:
            return False
        finally:
            close(db)
        return True

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(attempt, range(10))) == [False] * 9 + [True]


def test_what_a_number_traded_without_an_account_becomes_the_accounts(db: DAL) -> None:
    with transaction(db, write=True):
        for ticker, cash in (("intc", -700), ("gs", 100)):
            insert(db, "log_position", ticker=ticker, lineage="a", h="0")
            insert(db, "position", ticker=ticker, lineage="a", owner=1, shares=1, cash=cash)
        insert(db, "position", ticker="gs", lineage="a", owner=2, shares=1, cash=5)
    user = add_user(db, "alice", cash="1")
    assert user.id == 1
    with transaction(db):
        assert rows(db, "SELECT actual_cash FROM auth_user") == [(10_000 - 600,)]


def test_a_password_is_hashed_as_the_policy_says() -> None:
    first, second = (accounts.hash_password("s3cret") for _ in range(2))
    assert re.fullmatch(r"\$pbkdf2-sha256\$600000\$[^$]+\$[^$]+", first)
    assert first != second, "the salt is missing"
    check = accounts.check_password(Credentials(1, first), "s3cret")
    assert check == PasswordCheck(right=True, new_hash=None)


def test_the_right_password_opens_a_session_and_nothing_else_does(db: DAL) -> None:
    user = _register(db)
    for name in ("alice", "ALICE", " alice ", "alice@example.org"):
        token = _login(db, name, "s3cret")
        assert token is not None
        with transaction(db):
            assert accounts.session_user(db, token, at=3) == user
    for name, password in (
        ("alice", "S3cret"),
        ("alice", ""),
        ("alice", "s3cret\0"),
        ("alice", "x" * 5000),
        ("nobody", "s3cret"),
        ("alice\0", "s3cret"),
        ("", ""),
        ("' OR 1=1 --", "s3cret"),
    ):
        assert _login(db, name, password) is None, (name, password)
    with transaction(db):
        assert accounts.session_user(db, "", at=3) is None
        assert accounts.session_user(db, "guess\udcff", at=3) is None


def test_a_user_who_does_not_exist_costs_as_much_work_as_one_who_does(
    db: DAL, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(db)
    rounds: list[int] = []
    real = passlib_pbkdf2.pbkdf2_hmac

    def counted(digest: str, secret: bytes, salt: bytes, count: int, keylen: int) -> bytes:
        rounds.append(count)
        return bytes(real(digest, secret, salt, count, keylen))

    monkeypatch.setattr(passlib_pbkdf2, "pbkdf2_hmac", counted)
    assert _login(db, "alice", "wrong") is None
    assert _login(db, "nobody", "wrong") is None
    assert rounds == [ROUNDS, ROUNDS]


def test_a_hash_of_an_older_policy_is_replaced_at_the_log_in_that_proves_the_password(
    db: DAL,
) -> None:
    _register(db)

    def stored() -> str:
        with transaction(db):
            return str(rows(db, "SELECT password FROM auth_user")[0][0])

    old = stored()
    assert _login(db, "alice", "wrong", rounds=20) is None
    assert stored() == old
    assert _login(db, "alice", "s3cret", rounds=20) is not None
    assert stored().startswith("$pbkdf2-sha256$20$")
    assert _login(db, "alice", "s3cret", rounds=20) is not None


def test_a_password_changed_while_its_old_hash_was_checked_stays_changed(db: DAL) -> None:
    _register(db)
    with transaction(db):
        credentials = accounts.find_credentials(db, "alice")
    check = accounts.check_password(credentials, "s3cret", rounds=20)
    assert check.new_hash is not None
    with transaction(db, write=True):
        execute(db, "UPDATE auth_user SET password = 'changed'")
    with transaction(db, write=True):
        accounts.login(db, credentials, check, at=2)
    with transaction(db):
        assert rows(db, "SELECT password FROM auth_user") == [("changed",)]


def test_the_database_does_not_hold_what_a_cookie_holds(db: DAL) -> None:
    _register(db)
    token = _login(db, "alice", "s3cret")
    with transaction(db):
        ((stored,),) = rows(db, "SELECT token_hash FROM session")
    assert token is not None
    assert len(token) >= 43
    assert stored != token
    assert token not in stored


def test_a_log_in_gives_a_new_session_and_ends_the_browsers_old_one(db: DAL) -> None:
    user = _register(db)
    old = _login(db, "alice", "s3cret")
    other_browser = _login(db, "alice", "s3cret")
    assert old is not None
    assert other_browser is not None
    with transaction(db):
        credentials = accounts.find_credentials(db, "alice")
    with transaction(db, write=True):
        new = accounts.login(db, credentials, PasswordCheck(right=True), at=3, old_token=old)
    assert new is not None
    assert new != old
    with transaction(db):
        assert accounts.session_user(db, old, at=4) is None
        assert accounts.session_user(db, new, at=4) == user
        assert accounts.session_user(db, other_browser, at=4) == user


def test_a_session_ends_with_the_log_out_or_when_its_time_is_over(db: DAL) -> None:
    user = _register(db)
    token = _login(db, "alice", "s3cret", at=0)
    assert token is not None
    length = settings.SESSION_SECONDS * 1_000_000
    with transaction(db):
        assert accounts.session_user(db, token, at=length - 1) == user
        assert accounts.session_user(db, token, at=length) is None
    later = _login(db, "alice", "s3cret", at=length + DAY)
    assert later is not None
    with transaction(db, write=True):
        assert rows(db, "SELECT COUNT(*) FROM session") == [(1,)], "the expired one is still kept"
        accounts.logout(db, later)
        accounts.logout(db, later)
        assert accounts.session_user(db, later, at=length + DAY) is None


def _change_password(db: DAL, user: User, old: str, new: str, *, at: int = 5) -> str | None:
    with transaction(db):
        credentials = accounts.find_password(db, user.id)
    check = accounts.check_password(credentials, old, rounds=ROUNDS)
    new_hash = accounts.hash_password(new, rounds=ROUNDS)
    with transaction(db, write=True):
        return accounts.change_password(db, credentials, check, new_hash, at=at)


def _request_reset(db: DAL, name: str, *, at: int = 5) -> str:
    with transaction(db, write=True):
        reset = accounts.request_reset(db, name, at=at)
    assert reset is not None
    return reset.key


def _reset_password(db: DAL, key: str, new: str, *, at: int = 6) -> bool:
    with transaction(db, write=True):
        new_hash = accounts.hash_password(new, rounds=ROUNDS)
        return accounts.reset_password(db, key, new_hash, at=at)


def test_a_log_in_by_a_password_that_was_changed_meanwhile_opens_nothing(db: DAL) -> None:
    user = _register(db)
    with transaction(db):
        credentials = accounts.find_credentials(db, "alice")
    check = accounts.check_password(credentials, "s3cret", rounds=ROUNDS)
    assert _change_password(db, user, "s3cret", "changed") is not None
    with transaction(db, write=True):
        assert accounts.login(db, credentials, check, at=6) is None
        assert rows(db, "SELECT COUNT(*) FROM session") == [(1,)]


def test_a_profile_is_stored_without_touching_anything_else(db: DAL) -> None:
    user = _register(db)
    form = {"first_name": " Al ", "last_name": "Li", "email": "New@Example.org"}
    with transaction(db, write=True):
        accounts.change_profile(db, user.id, accounts.validate_profile(form), at=9)
        assert accounts.get(db, user.id) == User(1, "alice", "Al", "Li", "new@example.org", False)
        accounts.change_profile(db, user.id, accounts.validate_profile(form), at=10)


def test_an_address_of_another_account_is_refused(db: DAL) -> None:
    user = _register(db)
    add_user(db, "bob")
    form = {"first_name": "Al", "last_name": "Li", "email": "BOB@example.org"}
    with pytest.raises(Invalid) as raised, transaction(db, write=True):
        accounts.change_profile(db, user.id, accounts.validate_profile(form), at=9)
    assert set(raised.value.errors) == {"email"}
    with transaction(db):
        assert accounts.get(db, user.id) == user


@pytest.mark.parametrize(
    "email", ["a,b@example.org", "<a@example.org>", '"a"@example.org', "a@b;c"]
)
def test_an_address_is_one_and_bare(email: str) -> None:
    with pytest.raises(Invalid) as raised:
        accounts.validate_profile({"first_name": "A", "last_name": "B", "email": email})
    assert set(raised.value.errors) == {"email"}


def test_a_changed_password_is_the_only_one_and_ends_every_session(db: DAL) -> None:
    user, bob = _register(db), _register(db, username="bob", email="bob@example.org")
    before = [_login(db, "alice", "s3cret") for _ in range(2)]
    bobs = _login(db, "bob", "s3cret")
    assert _change_password(db, user, "wrong", "changed") is None
    assert _login(db, "alice", "s3cret") is not None, "a wrong old password changes nothing"
    token = _change_password(db, user, "s3cret", "changed")
    assert token is not None
    assert _login(db, "alice", "s3cret") is None
    with transaction(db):
        assert accounts.session_user(db, token, at=6) == user
        assert bobs is not None
        assert accounts.session_user(db, bobs, at=6) == bob
        for old in before:
            assert old is not None
            assert accounts.session_user(db, old, at=6) is None
    assert _login(db, "alice", "changed") is not None


def test_of_two_changes_that_checked_one_password_the_first_stays(db: DAL) -> None:
    user = _register(db)
    with transaction(db):
        credentials = accounts.find_password(db, user.id)
    check = accounts.check_password(credentials, "s3cret", rounds=ROUNDS)
    assert _change_password(db, user, "s3cret", "first") is not None
    with transaction(db, write=True):
        assert accounts.change_password(db, credentials, check, "second", at=6) is None
    assert _login(db, "alice", "first") is not None


def test_a_link_to_a_new_password_works_once(db: DAL) -> None:
    _register(db)
    token = _login(db, "alice", "s3cret")
    assert token is not None
    for name in ("alice", " ALICE ", "Alice@Example.org"):
        key = _request_reset(db, name)
    assert _login(db, "alice", "s3cret") is not None, "who asks has changed nothing yet"
    assert _reset_password(db, key, "changed")
    with transaction(db):
        assert accounts.session_user(db, token, at=7) is None
        assert rows(db, "SELECT COUNT(*) FROM session") == [(0,)]
    assert not _reset_password(db, key, "again")
    assert _login(db, "alice", "changed") is not None


def test_a_link_to_a_new_password_expires_in_an_hour(db: DAL) -> None:
    user = _register(db)
    key = _request_reset(db, "alice", at=5)
    hour = 3600 * 1_000_000
    with transaction(db):
        assert accounts.reset_owner(db, key, at=5 + hour - 1) == user.id
        assert accounts.reset_owner(db, key, at=5 + hour) is None
    assert not _reset_password(db, key, "changed", at=5 + hour)
    assert _login(db, "alice", "s3cret") is not None


@pytest.mark.parametrize("what", ["newer", "password", "email", "log-in"])
def test_what_ends_a_link_to_a_new_password(db: DAL, what: str) -> None:
    user = _register(db)
    key = _request_reset(db, "alice")
    if what == "newer":
        _request_reset(db, "alice")
    elif what == "password":
        _change_password(db, user, "s3cret", "changed")
    elif what == "email":
        form = {"first_name": "A", "last_name": "B", "email": "other@example.org"}
        with transaction(db, write=True):
            accounts.change_profile(db, user.id, accounts.validate_profile(form), at=6)
    else:
        _login(db, "alice", "s3cret")
    assert _reset_password(db, key, "reset") is (what == "log-in")


def test_nothing_but_the_key_that_was_mailed_is_a_link(db: DAL) -> None:
    _register(db)
    key = _request_reset(db, "alice")
    with transaction(db):
        ((stored,),) = rows(db, "SELECT reset_password_key FROM auth_user")
        assert key not in stored
        for guess in ("", key[:-1], key + "A", stored, stored[:64], "%", "\udcff", "a\0"):
            assert accounts.reset_owner(db, guess, at=6) is None, guess
    with transaction(db, write=True):
        for name in ("nobody", "", "%", "a\0b", "' OR 1=1 --"):
            assert accounts.request_reset(db, name, at=6) is None, name


def test_of_ten_who_use_one_link_at_once_one_does(db: DAL) -> None:
    _register(db)
    key = _request_reset(db, "alice")
    start = threading.Barrier(10)

    def attempt(number: int) -> bool:
        start.wait()
        try:
            return _reset_password(db, key, f"password {number}")
        finally:
            close(db)

    with ThreadPoolExecutor(10) as pool:
        assert sorted(pool.map(attempt, range(10))) == [False] * 9 + [True]


def test_managers_list_accounts_by_name_and_without_a_hash(db: DAL) -> None:
    _register(db, username="Bob", manager="on", actual_cash="1.5")
    _register(db, username="alice", email="bob@example.org")
    with transaction(db):
        listed = accounts.listed(db, limit=10)
    assert listed == [
        Account("alice", "Alice", "Liddell", False, 500_000_000, 1),
        Account("Bob", "Alice", "Liddell", True, 15_000, 1),
    ]


def test_managers_look_accounts_up_by_parts_of_their_names(db: DAL) -> None:
    for username, first_name, last_name in (
        ("ada", "Ada", "Lovelace"),
        ("Ben_1", "Ben", "Ada"),
        ("ben11", "Benedikt", "Öztürk"),
        ("carl", "Carl", "100%!"),
    ):
        names = {"first_name": first_name, "last_name": last_name}
        _register(db, username=username, email=f"{username}@example.org", **names)

    def found(search: str = "", *, after: str = "", limit: int = 10) -> list[str]:
        with transaction(db):
            listed = accounts.listed(db, search=search, after=after, limit=limit)
            assert after or limit < 10 or accounts.count(db, search=search) == len(listed)
        return [account.username for account in listed]

    everybody = found()
    assert set(everybody) == {"ada", "Ben_1", "ben11", "carl"}
    assert found(limit=3) == everybody[:3]
    assert found(after=everybody[1].upper()) == everybody[2:]
    assert found(after=everybody[-1]) == []
    for search, usernames in (
        ("ADA", {"ada", "Ben_1"}),
        ("ada love", {"ada"}),
        ("ben_", {"Ben_1"}),
        ("Özt", {"ben11"}),
        ("0%!", {"carl"}),
        ("%", {"carl"}),
        ("' OR '' = '", set()),
        ("example.org", set()),
    ):
        assert set(found(search)) == usernames, search
