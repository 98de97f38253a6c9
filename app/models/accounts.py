"""Accounts: registration, passwords and log-in sessions.

Hashing a password takes a third of a second, so it happens between transactions, in an executor:

    registration = validate_registration(form)             # Invalid: field → sentence
    password_hash = hash_password(registration.password)   # slow, no database
    with transaction(db, write=True):
        user = register(db, registration, password_hash, at=now())

    with transaction(db):
        credentials = find_credentials(db, username)       # works for unknown names too
    check = check_password(credentials, password)          # slow, the same work for unknown names
    with transaction(db, write=True):
        token = login(db, credentials, check, old_token=cookie, at=now())  # None: wrong

A session is a row; its token is in the trader's cookie and only its hash in the database, so that
who reads the database cannot log in with it.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping

import msgspec
from passlib.hash import pbkdf2_sha256
from pydal import DAL

from app.models import settings
from app.models.db import Invalid, Taken, execute, insert, lock_table, rows
from matching.order import parse_price

LOGIN_FAILED = "Wrong username or password"
"""The one answer to every failed log-in: it does not tell which of the two was wrong."""

PASSWORD_MIN, PASSWORD_MAX = 4, 1024
"""Lengths of a password in characters; the upper bound keeps a log-in from hashing megabytes."""

_USERNAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")

_USER_COLUMNS = "id, username, first_name, last_name, email, manager"


class User(msgspec.Struct, frozen=True):
    """Who is logged in; `id` is the owner number of their orders."""

    id: int
    username: str
    first_name: str
    last_name: str
    email: str
    manager: bool


class Registration(msgspec.Struct, frozen=True):
    """A registration form that was filled in right; cash in ten-thousandths."""

    username: str
    first_name: str
    last_name: str
    email: str
    password: str
    manager: bool
    actual_cash: int


class Credentials(msgspec.Struct, frozen=True):
    """What a log-in is checked against; owner None: there is no such user."""

    owner: int | None
    password_hash: str


class PasswordCheck(msgspec.Struct, frozen=True):
    """Whether the password was right, and its new hash if the policy has moved."""

    right: bool
    new_hash: str | None = None


def validate_registration(form: Mapping[str, str]) -> Registration:
    """Fields username, first_name, last_name, email, password, password_two, manager, actual_cash.

    `manager` is a check box: any text is yes. Raises Invalid with a sentence for each wrong field.
    """
    errors: dict[str, str] = {}
    username = form.get("username", "").strip()
    if _USERNAME.fullmatch(username) is None:
        errors["username"] = "1 to 64 letters, digits, dots, dashes or underscores"
    names = {field: form.get(field, "").strip() for field in ("first_name", "last_name")}
    for field, name in names.items():
        if not 1 <= len(name) <= 128 or not name.isprintable():
            errors[field] = "Enter a name of up to 128 characters"
    email = form.get("email", "").strip().lower()
    if _EMAIL.fullmatch(email) is None or len(email) > 254 or not email.isprintable():
        errors["email"] = "Enter an e-mail address"
    password = form.get("password", "")
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        errors["password"] = f"{PASSWORD_MIN} to {PASSWORD_MAX} characters"
    elif "\0" in password:
        errors["password"] = "A password cannot hold a NUL character"
    elif form.get("password_two", "") != password:
        errors["password_two"] = "The two passwords differ"
    actual_cash = 0
    try:
        actual_cash = parse_price(form.get("actual_cash", "").strip())
    except ValueError:
        errors["actual_cash"] = "Enter an amount from 0 to 999999999.9999, without commas"
    if errors:
        raise Invalid(errors)
    return Registration(
        username=username,
        first_name=names["first_name"],
        last_name=names["last_name"],
        email=email,
        password=password,
        manager=bool(form.get("manager")),
        actual_cash=actual_cash,
    )


def hash_password(password: str, *, rounds: int = settings.PASSWORD_ROUNDS) -> str:
    """The hash that is stored: pbkdf2_sha256, with its salt and rounds in it."""
    return str(pbkdf2_sha256.using(rounds=rounds).hash(password))


def register(db: DAL, registration: Registration, password_hash: str, *, at: int) -> User:
    """Store the account and its first deposit, a ledger row. Invalid: username or e-mail is taken.

    What the owner number has already traded without an account becomes the account's, so that cash
    is ledger plus trades from the first moment on.
    """
    _require_free(db, registration)
    try:
        owner = insert(
            db,
            "auth_user",
            username=registration.username,
            first_name=registration.first_name,
            last_name=registration.last_name,
            email=registration.email,
            password=password_hash,
            manager=registration.manager,
            created_on=at,
            modified_on=at,
        )
    except Taken as taken:  # by a registration at the same moment
        raise Invalid({"username": "This username or e-mail is already taken"}) from taken
    insert(
        db,
        "ledger",
        owner=owner,
        amount=registration.actual_cash,
        reason="initial deposit",
        created_on=at,
    )
    lock_table(db, "position")  # no journal is settled until this account is there
    execute(
        db,
        "UPDATE auth_user SET actual_cash = actual_cash + ?"
        " + (SELECT COALESCE(SUM(cash), 0) FROM position WHERE owner = ?) WHERE id = ?",
        registration.actual_cash,
        owner,
        owner,
    )
    user = get(db, owner)
    assert user is not None
    return user


def find_credentials(db: DAL, username: str) -> Credentials:
    """What to check a log-in of this name (or e-mail) against."""
    if "\0" in username:  # PostgreSQL takes no such text, and nobody has such a name
        return Credentials(None, "")
    found = rows(
        db,
        "SELECT id, password FROM auth_user WHERE lower(username) = ? OR email = ?",
        username.strip().lower(),
        username.strip().lower(),
    )
    return Credentials(*found[0]) if found else Credentials(None, "")


def check_password(
    credentials: Credentials, password: str, *, rounds: int = settings.PASSWORD_ROUNDS
) -> PasswordCheck:
    """Whether the password is right; as much work for a user who does not exist.

    A hash of another number of rounds than the policy's is replaced at the log-in that proves the
    password.
    """
    policy = pbkdf2_sha256.using(rounds=rounds)
    if len(password) > PASSWORD_MAX or "\0" in password:
        return PasswordCheck(right=False)
    if credentials.owner is None:
        policy.verify(password, f"$pbkdf2-sha256${rounds}${'A' * 22}${'A' * 43}")
        return PasswordCheck(right=False)
    right = bool(policy.verify(password, credentials.password_hash))
    moved = right and policy.needs_update(credentials.password_hash)
    return PasswordCheck(right, hash_password(password, rounds=rounds) if moved else None)


def login(
    db: DAL,
    credentials: Credentials,
    check: PasswordCheck,
    *,
    at: int,
    old_token: str | None = None,
) -> str | None:
    """The token of a new session, or None if the log-in failed. The browser's old session ends.

    The new hash replaces only the hash that was checked: a password changed meanwhile stays.
    """
    if not check.right or credentials.owner is None:
        return None
    if check.new_hash is not None:
        execute(
            db,
            "UPDATE auth_user SET password = ?, modified_on = ? WHERE id = ? AND password = ?",
            check.new_hash,
            at,
            credentials.owner,
            credentials.password_hash,
        )
    if old_token is not None:
        logout(db, old_token)
    execute(db, "DELETE FROM session WHERE expires_on <= ?", at)
    token = secrets.token_urlsafe(32)
    insert(
        db,
        "session",
        token_hash=_token_hash(token),
        owner=credentials.owner,
        created_on=at,
        expires_on=at + settings.SESSION_SECONDS * 1_000_000,
    )
    return token


def session_user(db: DAL, token: str, *, at: int) -> User | None:
    """Whose session this is; None if there is none or it has expired."""
    found = rows(
        db,
        f"SELECT {_USER_COLUMNS} FROM auth_user WHERE id ="
        " (SELECT owner FROM session WHERE token_hash = ? AND expires_on > ?)",
        _token_hash(token),
        at,
    )
    return _user(found[0]) if found else None


def logout(db: DAL, token: str) -> None:
    """End the session; one that is not there is none the less ended."""
    execute(db, "DELETE FROM session WHERE token_hash = ?", _token_hash(token))


def get(db: DAL, owner: int) -> User | None:
    """The user with this id."""
    found = rows(db, f"SELECT {_USER_COLUMNS} FROM auth_user WHERE id = ?", owner)
    return _user(found[0]) if found else None


def _require_free(db: DAL, registration: Registration) -> None:
    errors: dict[str, str] = {}
    name = registration.username.lower()
    if rows(db, "SELECT id FROM auth_user WHERE lower(username) = ?", name):
        errors["username"] = "This username is already taken"
    if rows(db, "SELECT id FROM auth_user WHERE email = ?", registration.email):
        errors["email"] = "This e-mail address is already taken"
    if errors:
        raise Invalid(errors)


def _user(row: tuple[int, str, str, str, str, str]) -> User:
    owner, username, first_name, last_name, email, manager = row
    return User(owner, username, first_name, last_name, email, manager == "T")


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
