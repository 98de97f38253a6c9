"""Sign-up, log-in, log-out, profile: web2py's `user` function, at /default/user/<action>; users.

A failed log-in says the same whatever was wrong, takes as long, and is throttled. Passwords are
hashed in threads of their own, between the transactions, and only so many at once.
"""

from collections.abc import Mapping

from app.controllers.base import (
    HOME,
    Answer,
    Audience,
    Problem,
    Redirect,
    Request,
    Result,
    expose,
    local_path,
)
from app.models import accounts
from app.models.accounts import Account, Credentials, PasswordCheck, Registration
from app.models.db import DAL, Invalid, now
from matching.marketdata import format_time
from matching.order import format_price

NAME_LENGTH = 255
"""What is kept of a name that somebody types: one character more than any name of ours has."""

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
PROFILE_FIELDS = ("first_name", "last_name", "email")

USER_COLUMNS = ("username", "first_name", "last_name", "manager", "actual_cash", "created_on")


@expose(Audience.EVERYONE, view="user/login.html", methods=("GET", "POST"), fields=LOGIN_FIELDS)
async def login(request: Request) -> Result:
    """Username (or e-mail) and password; then on to `_next`."""
    way_on = local_path(request.query.get("_next") or request.form.get("_next", ""), HOME)
    if request.method == "GET":
        if request.user is not None:
            return Redirect(way_on)
        return {"username": "", "error": "", "next": way_on}
    username = typed_name(request)
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
    check = await platform.hash(lambda: accounts.check_password(credentials, password))
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
    manager_signup = request.platform.manager_signup
    if request.method == "GET":
        return {"form": {}, "errors": {}, "manager_signup": manager_signup}
    if request.form.get("manager") and not manager_signup:
        message = "Nobody signs up as a manager here: ask who runs this venue"
        raise Problem(403, "managers_closed", message)
    try:
        registration = accounts.validate_registration(request.form)
        wait = request.platform.sign_ups.seconds_to_wait(
            registration.username.lower(), request.address
        )
        if wait:
            raise Invalid({"": f"Too many have signed up from here. Try again in {wait} s"})
        password_hash = await request.platform.hash(
            lambda: accounts.hash_password(registration.password)
        )
        token = await request.platform.transactions.write(
            _register, registration, password_hash, request.session or None
        )
    except Invalid as invalid:
        # Passwords are typed again: they are never sent back.
        shown = {name: value for name, value in request.form.items() if "password" not in name}
        return refusal(invalid.errors, form=shown, manager_signup=manager_signup)
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


@expose(
    Audience.TRADERS,
    view="user/profile.html",
    methods=("GET", "POST"),
    fields=(*PROFILE_FIELDS, "password"),
)
async def profile(request: Request) -> Result:
    """Names and e-mail address; the username stays what it is: others know its owner by it.

    A new address takes the password: the link to a new one goes there, so that whoever finds a
    browser logged in could have the account.
    """
    known = request.trader
    if request.method == "GET":
        form = {name: getattr(known, name) for name in PROFILE_FIELDS}
        return {"username": known.username, "form": form, "errors": {}}
    try:
        changed = accounts.validate_profile(request.form)
        if changed.email != known.email:
            await check_own_password(request, "password")
        write = request.platform.transactions.write
        await write(accounts.change_profile, known.id, changed, at=now())
    except Invalid as invalid:
        form = {name: request.form.get(name, "") for name in PROFILE_FIELDS}
        return refusal(invalid.errors, username=known.username, form=form)
    return Redirect("/default/user/profile", "Your profile is changed")


async def check_own_password(request: Request, field: str) -> tuple[Credentials, PasswordCheck]:
    """The trader's credentials and their check, if a field of the form holds the password.

    Invalid otherwise, with "" for an error if too many have failed: guesses count as log-ins do.
    """
    name, throttle = request.trader.username.lower(), request.platform.throttle
    wait = throttle.seconds_to_wait(name, request.address)
    if wait:
        raise Invalid({"": f"Too many have failed. Try again in {wait} s"})
    owner, password = request.trader.id, request.form.get(field, "")
    credentials = await request.platform.transactions.read(accounts.find_password, owner)
    check = await request.platform.hash(lambda: accounts.check_password(credentials, password))
    if not check.right:
        raise Invalid({field: "This is not your password"})
    throttle.succeeded(name, request.address)
    return credentials, check


def refusal(errors: Mapping[str, str], **shown: object) -> Answer:
    """A form that comes back with its errors; "" among them: too many have tried."""
    return Answer(429 if "" in errors else 400, {**shown, "errors": errors})


@expose(Audience.MANAGERS, view="default/users.html", table="users", columns=USER_COLUMNS)
def users(db: DAL, request: Request) -> Result:
    """Who has an account here, for managers."""
    return {"users": [_user_row(account) for account in accounts.every(db)]}


def _user_row(account: Account) -> dict[str, object]:
    return {
        "username": account.username,
        "first_name": account.first_name,
        "last_name": account.last_name,
        "manager": account.manager,
        "actual_cash": format_price(account.actual_cash),
        "created_on": format_time(account.created_on),
    }


def typed_name(request: Request) -> str:
    """The username or e-mail address in a form, cut to what the throttle may keep."""
    return request.form.get("username", "").strip()[:NAME_LENGTH]
