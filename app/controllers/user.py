"""Sign-up, log-in and log-out: web2py's `user` function, at /default/user/<action>.

A failed log-in says the same whatever was wrong, takes as long, and is throttled. Passwords are
hashed in threads of their own, between the transactions, and only so many at once.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from app.controllers.base import (
    HOME,
    Answer,
    Audience,
    Platform,
    Problem,
    Redirect,
    Request,
    Result,
    expose,
    local_path,
)
from app.models import accounts
from app.models.accounts import Credentials, PasswordCheck, Registration
from app.models.db import DAL, Invalid, now

T = TypeVar("T")

HASHES_WAITING = 32
"""More passwords than these, waiting to be hashed, and the next one is told to come back."""

LOGIN_FIELDS = ("username", "password", "_next")
REGISTER_FIELDS = (
    "username",
    "first_name",
    "last_name",
    "email",
    "password",
    "password_two",
    "manager",
    "actual_cash",
)


@expose(Audience.EVERYONE, view="user/login.html", methods=("GET", "POST"), fields=LOGIN_FIELDS)
async def login(request: Request) -> Result:
    """Username (or e-mail) and password; then on to `_next`."""
    way_on = local_path(request.query.get("_next") or request.form.get("_next", ""), HOME)
    if request.method == "GET":
        if request.user is not None:
            return Redirect(way_on)
        return {"username": "", "error": "", "next": way_on}
    username = request.form.get("username", "").strip()
    wait = request.platform.throttle.seconds_to_wait(username.lower(), request.address)
    if wait:
        status, error = 429, f"Too many log-ins have failed. Try again in {wait} s"
    elif token := await _log_in(request, username, request.form.get("password", "")):
        return Redirect(way_on, session=token)
    else:
        status, error = 403, accounts.LOGIN_FAILED
    return Answer(status, {"username": username, "error": error, "next": way_on})


async def _log_in(request: Request, username: str, password: str) -> str | None:
    """The token of the new session; None if name or password is wrong."""
    platform = request.platform
    credentials = await platform.transactions.read(accounts.find_credentials, username)
    check = await _hash(platform, lambda: accounts.check_password(credentials, password))
    token = await platform.transactions.write(
        accounts.login, credentials, check, at=now(), old_token=request.session or None
    )
    if token is not None:
        platform.throttle.succeeded(username.lower(), request.address)
    return token


@expose(
    Audience.EVERYONE, view="user/register.html", methods=("GET", "POST"), fields=REGISTER_FIELDS
)
async def register(request: Request) -> Result:
    """The form of 2010; who has filled it in right is logged in."""
    if request.method == "GET":
        return {"form": {}, "errors": {}}
    try:
        registration = accounts.validate_registration(request.form)
        password_hash = await _hash(
            request.platform, lambda: accounts.hash_password(registration.password)
        )
        token = await request.platform.transactions.write(
            _register, registration, password_hash, request.session or None
        )
    except Invalid as invalid:
        # Passwords are typed again: they are never sent back.
        shown = {name: value for name, value in request.form.items() if "password" not in name}
        return Answer(400, {"form": shown, "errors": invalid.errors})
    return Redirect(HOME, f"Welcome, {registration.username}", session=token)


def _register(
    db: DAL, registration: Registration, password_hash: str, old_token: str | None
) -> str | None:
    user = accounts.register(db, registration, password_hash, at=now())
    credentials = Credentials(owner=user.id, password_hash=password_hash)
    check = PasswordCheck(right=True)
    return accounts.login(db, credentials, check, at=now(), old_token=old_token)


@expose(Audience.EVERYONE, view=None, methods=("POST",))
def logout(db: DAL, request: Request) -> Result:
    """End the session, here and on the server."""
    if request.session:
        accounts.logout(db, request.session)
    return Redirect("/default/index", "You are logged out", session="")


async def _hash(platform: Platform, work: Callable[[], T]) -> T:
    """The result of work on a password, done in a thread of its own kind."""
    if platform.hashes_waiting >= HASHES_WAITING:
        raise Problem(503, "busy", "Too many people log in at once. Try again", retry_after=2)
    platform.hashes_waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(platform.hashing, work)
    finally:
        platform.hashes_waiting -= 1
