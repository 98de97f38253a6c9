"""Sign-up, log-in, log-out, profile: web2py's `user` function, at /default/user/<action>; users.

A failed log-in says the same whatever was wrong, takes as long, and is throttled. Passwords are
hashed in threads of their own, between the transactions, and only so many at once. A form that is
refused comes back with what was typed, never with a password.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode

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
from app.controllers.throttle import Throttle
from app.models import accounts
from app.models.accounts import Account, Credentials, PasswordCheck, Registration
from app.models.db import DAL, DatabaseAway, Invalid, now
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

PAGE_ROWS = 100
CSV_ROWS = 10_000
"""So many users are on a page of their list, and in its .csv."""

SEARCH_LIMIT = 300
"""No name is longer."""

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
    shown = {"username": username, "next": way_on}
    try:
        token = await _log_in(request, username, request.form.get("password", ""))
    except Problem as problem:
        return Answer(problem.status, {**shown, "error": problem.message}, problem)
    if token is None:
        return Answer(403, {**shown, "error": accounts.LOGIN_FAILED})
    return Redirect(way_on, session=token)


async def _log_in(request: Request, username: str, password: str) -> str | None:
    """The token of the new session; None if name or password is wrong."""
    platform, throttle = request.platform, request.platform.throttle
    with attempt(throttle, username.lower(), request.address, "Too many log-ins have failed"):
        credentials = await platform.transactions.read(accounts.find_credentials, username)
        check = await platform.hash(lambda: accounts.check_password(credentials, password))
        token = await platform.transactions.write(
            accounts.login, credentials, check, at=now(), old_token=request.session or None
        )
    if token is not None:
        throttle.succeeded(username.lower(), request.address)
    return token


@contextmanager
def attempt(throttle: Throttle, name: str, address: str, sentence: str) -> Iterator[None]:
    """Something that a throttle counts. Problem (`throttled`) with the sentence if it must wait.

    What ends because we are too busy is not counted.
    """
    wait = throttle.seconds_to_wait(name, address)
    if wait:
        message = f"{sentence}. Try again in {wait} s"
        raise Problem(429, "throttled", message, retry_after=wait)
    try:
        yield
    except (Problem, DatabaseAway):
        throttle.withdraw(name, address)
        raise


@expose(
    Audience.EVERYONE, view="user/register.html", methods=("GET", "POST"), fields=REGISTER_FIELDS
)
async def register(request: Request) -> Result:
    """The form of 2010; who has filled it in right is logged in."""
    manager_signup = request.platform.manager_signup
    if request.method == "GET":
        return {"form": {}, "errors": {}, "manager_signup": manager_signup}
    try:
        if request.form.get("manager") and not manager_signup:
            message = "Nobody signs up as a manager here: ask who runs this venue"
            raise Problem(403, "managers_closed", message)
        registration = accounts.validate_registration(request.form)
        token = await _sign_up(request, registration)
    except (Invalid, Problem) as reason:
        # Passwords are typed again: they are never sent back.
        shown = {name: value for name, value in request.form.items() if "password" not in name}
        return refusal(reason, form=shown, manager_signup=manager_signup)
    return Redirect(HOME, f"Welcome, {registration.username}", session=token)


async def _sign_up(request: Request, registration: Registration) -> str | None:
    """The token of the new account's session."""
    platform, name = request.platform, registration.username.lower()
    with attempt(platform.sign_ups, name, request.address, "Too many have signed up from here"):
        password_hash = await platform.hash(lambda: accounts.hash_password(registration.password))
        return await platform.transactions.write(
            _register, registration, password_hash, request.session or None
        )


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
    except (Invalid, Problem) as reason:
        form = {name: request.form.get(name, "") for name in PROFILE_FIELDS}
        return refusal(reason, username=known.username, form=form)
    return Redirect("/default/user/profile", "Your profile is changed")


async def check_own_password(request: Request, field: str) -> tuple[Credentials, PasswordCheck]:
    """The trader's credentials and their check, if a field of the form holds the password.

    Invalid otherwise; Problem if too many have failed: guesses count as log-ins do.
    """
    platform, throttle = request.platform, request.platform.throttle
    owner, password = request.trader.id, request.form.get(field, "")
    name = request.trader.username.lower()
    with attempt(throttle, name, request.address, "Too many passwords were wrong"):
        credentials = await platform.transactions.read(accounts.find_password, owner)
        check = await platform.hash(lambda: accounts.check_password(credentials, password))
    if not check.right:
        raise Invalid({field: "This is not your password"})
    throttle.succeeded(name, request.address)
    return credentials, check


def refusal(reason: Invalid | Problem, **shown: object) -> Answer:
    """A form that comes back with what is wrong in it, or with why it has to wait."""
    if isinstance(reason, Invalid):
        return Answer(400, {**shown, "errors": reason.errors})
    return Answer(reason.status, {**shown, "errors": {"": reason.message}}, reason)


@expose(Audience.MANAGERS, view="default/users.html", table="users", columns=USER_COLUMNS)
def users(db: DAL, request: Request) -> Result:
    """Who has an account here, for managers, a page at a time: `search` looks for a part of a name,
    `after` is the username at which the page before ended."""
    search = request.query.get("search", "").strip()
    if len(search) > SEARCH_LIMIT:  # SQLite takes no pattern that is far longer
        message = f"A search has at most {SEARCH_LIMIT} characters"
        raise Problem(400, "bad_request", message)
    after = request.query.get("after", "")
    limit = CSV_ROWS if request.wants_csv else PAGE_ROWS
    # One more than is shown tells whether there is another page.
    found = accounts.listed(db, search=search, after=after, limit=limit + 1)
    shown = found[:limit]
    asked = {"search": search} if search else {}
    is_last = len(found) == len(shown)
    return {
        "search": search,
        "query": urlencode(asked),
        "count": accounts.count(db, search=search),
        "is_first": not after,
        "next": None if is_last else urlencode({**asked, "after": shown[-1].username}),
        "users": [_user_row(account) for account in shown],
    }


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
