"""Accounts: registration, profiles, passwords and log-in sessions.

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
who reads the database cannot log in with it. So it is with the link to a new password: its key is
in the trader's mail, and `reset_password_key` holds "HASH:EXPIRES", "" where none was asked for.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping

import msgspec
from passlib.hash import pbkdf2_sha256
from pydal import DAL

from app.models import settings
from app.models.db import Invalid, Taken, execute, insert, lock_row, lock_table, rows
from matching.order import parse_price

LOGIN_FAILED = "Wrong username or password"
"""The one answer to every failed log-in: it does not tell which of the two was wrong."""

EMAIL_TAKEN = "This e-mail address is already taken"

PASSWORD_MIN, PASSWORD_MAX = 4, 1024
"""Lengths of a password in characters; the upper bound keeps a log-in from hashing megabytes."""

_USERNAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_EMAIL = re.compile(r'[^@\s"(),:;<>\[\]\\]+@[^@\s"(),:;<>\[\]\\]+')

_LIKE = (
    "(lower(username) LIKE lower(?) ESCAPE '!'"
    " OR lower(first_name || ' ' || last_name) LIKE lower(?) ESCAPE '!')"
)

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


class Profile(msgspec.Struct, frozen=True):
    """A profile form that was filled in right."""

    first_name: str
    last_name: str
    email: str


class Reset(msgspec.Struct, frozen=True):
    """A link to a new password that was asked for: whose it is, and the key in it."""

    username: str
    email: str
    key: str


class Account(msgspec.Struct, frozen=True):
    """A line of the managers' list of users; cash in ten-thousandths, times in microseconds."""

    username: str
    first_name: str
    last_name: str
    manager: bool
    actual_cash: int
    created_on: int


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
        errors["username"] = "A username has 1 to 64 letters, digits, dots, dashes or underscores"
    profile = _read_profile(form, errors)
    password = _read_new_password(form, errors)
    actual_cash = 0
    try:
        actual_cash = parse_price(form.get("actual_cash", "").strip())
    except ValueError:
        errors["actual_cash"] = "Enter an amount from 0 to 999999999.9999, without commas"
    if errors:
        raise Invalid(errors)
    return Registration(
        username=username,
        first_name=profile.first_name,
        last_name=profile.last_name,
        email=profile.email,
        password=password,
        manager=bool(form.get("manager")),
        actual_cash=actual_cash,
    )


def validate_profile(form: Mapping[str, str]) -> Profile:
    """Fields first_name, last_name, email. Raises Invalid with a sentence for each wrong field."""
    errors: dict[str, str] = {}
    profile = _read_profile(form, errors)
    if errors:
        raise Invalid(errors)
    return profile


def validate_new_password(form: Mapping[str, str]) -> str:
    """Fields password, password_two. Raises Invalid with a sentence for each wrong field."""
    errors: dict[str, str] = {}
    password = _read_new_password(form, errors)
    if errors:
        raise Invalid(errors)
    return password


def _read_profile(form: Mapping[str, str], errors: dict[str, str]) -> Profile:
    names = {field: form.get(field, "").strip() for field in ("first_name", "last_name")}
    for field, name in names.items():
        if not 1 <= len(name) <= 128 or not name.isprintable():
            errors[field] = "Enter a name of up to 128 characters"
    email = form.get("email", "").strip().lower()
    if _EMAIL.fullmatch(email) is None or len(email) > 254 or not email.isprintable():
        errors["email"] = "Enter an e-mail address"
    return Profile(names["first_name"], names["last_name"], email)


def _read_new_password(form: Mapping[str, str], errors: dict[str, str]) -> str:
    password = form.get("password", "")
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        errors["password"] = f"A password has {PASSWORD_MIN} to {PASSWORD_MAX} characters"
    elif "\0" in password:
        errors["password"] = "A password cannot hold a NUL character"
    elif form.get("password_two", "") != password:
        errors["password_two"] = "The two passwords differ"
    return password


def hash_password(password: str, *, rounds: int = settings.PASSWORD_ROUNDS) -> str:
    """The hash that is stored: pbkdf2_sha256, with its salt and rounds in it."""
    return str(pbkdf2_sha256.using(rounds=rounds).hash(password))


def register(db: DAL, registration: Registration, password_hash: str, *, at: int) -> User:
    """Store the account and its first deposit, a ledger row. Invalid: username or e-mail is taken.

    What the owner number has already traded without an account becomes the account's, so that cash
    is ledger plus trades from the first moment on. What it traded in runs that have ended is taken
    back by the ledger: nobody begins with the losses of last week's robot.
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
    past, present = _traded(db, owner)
    if past:
        insert(
            db,
            "ledger",
            owner=owner,
            amount=-past,
            reason="trades of past runs",
            deposit=False,
            created_on=at,
        )
    execute(
        db,
        "UPDATE auth_user SET actual_cash = actual_cash + ? WHERE id = ?",
        registration.actual_cash + present,
        owner,
    )
    user = get(db, owner)
    assert user is not None
    return user


def change_profile(db: DAL, owner: int, profile: Profile, *, at: int) -> None:
    """Store names and e-mail address. Invalid: the address is another account's.

    A link that was mailed to another address than the new one no longer leads in.
    """
    lock_table(db, "auth_user")
    if rows(db, "SELECT id FROM auth_user WHERE email = ? AND id <> ?", profile.email, owner):
        raise Invalid({"email": EMAIL_TAKEN})
    execute(
        db,
        "UPDATE auth_user SET first_name = ?, last_name = ?, modified_on = ?,"
        " reset_password_key = CASE WHEN email = ? THEN reset_password_key ELSE '' END,"
        " email = ? WHERE id = ?",
        profile.first_name,
        profile.last_name,
        at,
        profile.email,
        profile.email,
        owner,
    )


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

    A password that was changed while its old hash was checked opens nothing any more.
    """
    if not check.right or credentials.owner is None:
        return None
    lock_row(db, "auth_user", credentials.owner)
    if not _is_password(db, credentials):
        return None
    if check.new_hash is not None:
        execute(
            db,
            "UPDATE auth_user SET password = ?, modified_on = ? WHERE id = ?",
            check.new_hash,
            at,
            credentials.owner,
        )
    if old_token is not None:
        logout(db, old_token)
    return open_session(db, credentials.owner, at=at)


def open_session(db: DAL, owner: int, *, at: int) -> str:
    """The token of a new session of an account that has proved who it is."""
    execute(db, "DELETE FROM session WHERE expires_on <= ?", at)
    token = secrets.token_urlsafe(32)
    insert(
        db,
        "session",
        token_hash=_token_hash(token),
        owner=owner,
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


def find_password(db: DAL, owner: int) -> Credentials:
    """What the old password of an account is checked against, before it gets a new one."""
    found = rows(db, "SELECT id, password FROM auth_user WHERE id = ?", owner)
    return Credentials(*found[0]) if found else Credentials(None, "")


def change_password(
    db: DAL, credentials: Credentials, check: PasswordCheck, new_hash: str, *, at: int
) -> str | None:
    """The token of the one session that the account then has; None if the old one was wrong.

    All sessions end, since a thief of a cookie may hold one; and a link to a new password with
    them. A password that was changed while its old hash was checked stays.
    """
    if not check.right or credentials.owner is None:
        return None
    lock_row(db, "auth_user", credentials.owner)
    if not _is_password(db, credentials):
        return None
    _store_password(db, credentials.owner, new_hash, at=at)
    return open_session(db, credentials.owner, at=at)


def request_reset(db: DAL, name: str, *, at: int) -> Reset | None:
    """The link to a new password of the account with this username or e-mail; None without one.

    It replaces the link that was asked for before.
    """
    name = name.strip().lower()
    if "\0" in name:  # PostgreSQL takes no such text, and nobody has such a name
        return None
    found = rows(
        db,
        "SELECT id, username, email FROM auth_user WHERE lower(username) = ? OR email = ?",
        name,
        name,
    )
    if not found:
        return None
    owner, username, email = found[0]
    key = secrets.token_urlsafe(32)
    execute(
        db,
        "UPDATE auth_user SET reset_password_key = ? WHERE id = ?",
        f"{_token_hash(key)}:{at + settings.RESET_SECONDS * 1_000_000}",
        owner,
    )
    return Reset(username, email, key)


def reset_owner(db: DAL, key: str, *, at: int) -> int | None:
    """Whose new password this link leads to; None if it was used, has expired, or never was."""
    found = rows(
        db,
        "SELECT id, reset_password_key FROM auth_user WHERE reset_password_key <> ''"
        " AND substr(reset_password_key, 1, 64) = ?",
        _token_hash(key),
    )
    if not found:
        return None
    owner, stored = found[0]
    return int(owner) if int(stored.partition(":")[2]) > at else None


def reset_password(db: DAL, key: str, new_hash: str, *, at: int) -> bool:
    """Whether the link was good: then it no longer is, and all sessions of its account have ended.

    Of two who use it at once, one finds it used.
    """
    owner = reset_owner(db, key, at=at)
    if owner is None:
        return False
    lock_row(db, "auth_user", owner)
    if reset_owner(db, key, at=at) != owner:
        return False
    _store_password(db, owner, new_hash, at=at)
    return True


def listed(db: DAL, *, search: str = "", after: str = "", limit: int) -> list[Account]:
    """At most `limit` accounts by username, for managers: the next ones after that of `after`.

    search: what the username, or the first and last name, have somewhere in them, in any case.
    """
    found = rows(
        db,
        "SELECT username, first_name, last_name, manager, actual_cash, created_on FROM auth_user"
        f" WHERE lower(username) > lower(?) AND {_LIKE} ORDER BY lower(username) LIMIT ?",
        after,
        *_patterns(search),
        limit,
    )
    return [
        Account(username, first_name, last_name, manager == "T", actual_cash, created_on)
        for username, first_name, last_name, manager, actual_cash, created_on in found
    ]


def count(db: DAL, *, search: str = "") -> int:
    """How many accounts `listed` has in all."""
    found = rows(db, f"SELECT COUNT(*) FROM auth_user WHERE {_LIKE}", *_patterns(search))
    return int(found[0][0])


def _patterns(search: str) -> tuple[str, str]:
    escaped = re.sub("([!%_])", r"!\1", search)
    pattern = f"%{escaped}%"
    return pattern, pattern


def get(db: DAL, owner: int) -> User | None:
    """The user with this id."""
    found = rows(db, f"SELECT {_USER_COLUMNS} FROM auth_user WHERE id = ?", owner)
    return _user(found[0]) if found else None


def _is_password(db: DAL, credentials: Credentials) -> bool:
    """Whether the hash that was checked is still the account's."""
    return bool(
        rows(
            db,
            "SELECT id FROM auth_user WHERE id = ? AND password = ?",
            credentials.owner,
            credentials.password_hash,
        )
    )


def _store_password(db: DAL, owner: int, password_hash: str, *, at: int) -> None:
    execute(
        db,
        "UPDATE auth_user SET password = ?, reset_password_key = '', modified_on = ? WHERE id = ?",
        password_hash,
        at,
        owner,
    )
    execute(db, "DELETE FROM session WHERE owner = ?", owner)


def _traded(db: DAL, owner: int) -> tuple[int, int]:
    """The cash of an owner's trades: in journals that are closed, and in those being followed."""
    cash = {"T": 0, "F": 0}
    for closed, amount in rows(
        db,
        "SELECT l.closed, SUM(p.cash) FROM position p JOIN log_position l"
        " ON l.ticker = p.ticker AND l.lineage = p.lineage WHERE p.owner = ? GROUP BY l.closed",
        owner,
    ):
        cash[closed] = int(amount)
    return cash["T"], cash["F"]


def _require_free(db: DAL, registration: Registration) -> None:
    errors: dict[str, str] = {}
    name = registration.username.lower()
    if rows(db, "SELECT id FROM auth_user WHERE lower(username) = ?", name):
        errors["username"] = "This username is already taken"
    if rows(db, "SELECT id FROM auth_user WHERE email = ?", registration.email):
        errors["email"] = EMAIL_TAKEN
    if errors:
        raise Invalid(errors)


def _user(row: tuple[int, str, str, str, str, str]) -> User:
    owner, username, first_name, last_name, email, manager = row
    return User(owner, username, first_name, last_name, email, manager == "T")


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
