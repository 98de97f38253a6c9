"""Sign-up, log-in, log-out, profile and the list of users as a browser sees them."""

import re
from pathlib import Path

import pytest

from app.controllers import throttle, user
from app.controllers.base import SIGN_UPS_AN_ADDRESS
from app.controllers.user import NAME_LENGTH
from app.models import accounts
from app.models.accounts import User
from app.models.products import Product
from tests.app.venue import JSON, Web, running_web

LOGIN = "/default/user/login"
REGISTER = "/default/user/register"
PROFILE = "/default/user/profile"
USERS = "/default/users"
PRODUCTS = "/default/products"

FORM = {
    "username": "ada",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "email": "ada@example.com",
    "password": "analytical engine",
    "password_two": "analytical engine",
    "actual_cash": "50000",
}


pytestmark = pytest.mark.usefixtures("quick_hashing", "nobody_has_failed")


def test_signing_up_logs_in_and_deposits_the_cash(web: Web, away: Product) -> None:
    browser = web.browser()
    answer = browser.post(REGISTER, FORM)
    assert (answer.status, answer.headers["location"]) == (303, PRODUCTS)
    page = browser.get(PRODUCTS)
    assert "Welcome, ada" in page.text
    assert "Register new product" not in page.text
    assert "Welcome, ada" not in browser.get(PRODUCTS).text, "a message is said once"
    profit = browser.get(f"/default/pandl.json/{away.id}").json()
    assert (profit["actual_cash"], profit["cash_available"]) == ("50000.00", "50000.00")


def test_a_manager_is_who_ticks_the_box(web: Web) -> None:
    browser = web.browser()
    browser.post(REGISTER, {**FORM, "username": "boss", "email": "boss@x.example", "manager": "on"})
    assert "Register new product" in browser.get(PRODUCTS).text


def test_where_managers_are_closed_nobody_signs_up_as_one(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'name="manager"' in web.browser().get(REGISTER).text
    monkeypatch.setattr(web.platform, "manager_signup", False)
    browser = web.browser()
    assert 'name="manager"' not in browser.get(REGISTER).text
    form = {**FORM, "username": "usurper", "email": "usurper@x.example"}
    answer = browser.post(REGISTER, {**form, "manager": "on"}, JSON)
    assert (answer.status, answer.error) == (403, "managers_closed")
    assert browser.post(REGISTER, form).status == 303
    assert "Register new product" not in browser.get(PRODUCTS).text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", ""),
        ("username", "two words"),
        ("username", "trader1"),
        ("username", "TRADER1"),
        ("first_name", ""),
        ("last_name", " "),
        ("email", "no address"),
        ("email", "trader1@example.com"),
        ("password", "x"),
        ("password_two", "another"),
        ("actual_cash", "-1"),
        ("actual_cash", "a lot"),
        ("actual_cash", "1e6"),
    ],
)
def test_a_wrong_field_is_told_and_nothing_is_stored(
    web: Web, trader: User, field: str, value: str
) -> None:
    form = {**FORM, "username": "eve", "email": "eve@example.com", field: value}
    answer = web.browser().post(REGISTER, form)
    assert answer.status == 400
    assert 'aria-invalid="true"' in answer.text
    assert 'value="Ada"' in answer.text or field == "first_name", "what was right is kept"
    assert FORM["password"] not in answer.text
    errors = web.browser().post(REGISTER, form, JSON).json()["errors"]
    assert list(errors) == [field]
    with web.database() as db:
        assert not db.executesql("SELECT id FROM auth_user WHERE username = 'eve'")


def test_fields_are_shown_as_text_not_as_markup(web: Web) -> None:
    answer = web.browser().post(REGISTER, {**FORM, "first_name": '"><script>', "username": ""})
    assert "<script>" not in answer.text.replace('<script type="module"', "")
    assert "&#34;&gt;&lt;script&gt;" in answer.text


def test_nobody_signs_up_with_an_id_or_a_balance_of_their_own(web: Web) -> None:
    for extra in ({"id": "1"}, {"virtual_cash": "9999999"}, {"registration_key": ""}):
        answer = web.browser().post(REGISTER, {**FORM, **extra}, JSON)
        assert (answer.status, answer.error) == (400, "bad_request")


def test_logging_in_by_name_or_email_leads_on(web: Web, trader: User) -> None:
    for name in ("trader1", "Trader1", " trader1 ", "trader1@example.com"):
        browser = web.browser()
        answer = browser.post(LOGIN, {"username": name, "password": "trader1"})
        assert (answer.status, answer.headers["location"]) == (303, PRODUCTS)
        assert "Welcome <b>trader1</b>" in browser.get(PRODUCTS).text


def test_a_failed_log_in_does_not_tell_what_was_wrong(web: Web, trader: User) -> None:
    wrong = [
        web.browser().post(LOGIN, {"username": name, "password": password}, JSON)
        for name, password in (("trader1", "x"), ("nobody", "trader1"), ("", ""), ("trader1", ""))
    ]
    assert {answer.status for answer in wrong} == {403}
    assert {answer.json()["error"] for answer in wrong} == {accounts.LOGIN_FAILED}
    assert all("emte_session" not in answer.headers.get("set-cookie", "") for answer in wrong)


def test_many_failed_log_ins_have_to_wait_and_others_do_not(web: Web, trader: User) -> None:
    wrong = {"username": "trader1", "password": "guess"}
    statuses = [web.browser().post(LOGIN, wrong).status for _ in range(7)]
    assert statuses == [403] * throttle.PAIR_LIMIT + [429] * 2
    right = {"username": "trader1", "password": "trader1"}
    refused = web.browser().post(LOGIN, right)
    assert refused.status == 429, "the right password has to wait too, else it would be told"
    assert "Try again in" in refused.text
    elsewhere = web.browser().post(LOGIN, right, {"X-Forwarded-For": "203.0.113.9"})
    assert elsewhere.status == 303


THROTTLED = [
    # the page, its throttle, what is typed and kept, and a password that is not
    (LOGIN, "throttle", {"username": "trader1"}, {"password": "guess work"}),
    (
        REGISTER,
        "sign_ups",
        {"username": "trader1", "first_name": "A", "last_name": "B", "email": "a@x.example"},
        {"password": "guess work", "password_two": "guess work", "actual_cash": "1"},
    ),
    (
        PROFILE,
        "throttle",
        {"first_name": "A", "last_name": "B", "email": "a@x.example"},
        {"password": "guess work"},
    ),
    (
        "/default/user/change_password",
        "throttle",
        {},
        {"old_password": "guess work", "password": "new word", "password_two": "new word"},
    ),
    ("/default/user/request_reset_password", "resets", {"username": "trader1"}, {}),
]


@pytest.mark.parametrize(("path", "name", "typed", "hidden"), THROTTLED)
def test_who_has_to_wait_is_told_for_how_long(
    web: Web,
    trader: User,
    path: str,
    name: str,
    typed: dict[str, str],
    hidden: dict[str, str],
) -> None:
    counting: throttle.Throttle = getattr(web.platform, name)
    for _ in range(throttle.PAIR_LIMIT):
        counting.seconds_to_wait("trader1", "127.0.0.1")
    is_own = path in (PROFILE, "/default/user/change_password")
    browser = web.browser(trader) if is_own else web.browser()
    page = browser.post(path, {**typed, **hidden})
    seconds = int(page.headers["retry-after"])
    assert page.status == 429
    assert 0 < seconds <= throttle.WINDOW_SECONDS
    assert f"Try again in {seconds} s" in page.text
    assert all(f'value="{value}"' in page.text for value in typed.values())
    assert not any(word in page.text for word in ("guess work", "new word"))
    answer = browser.post(path, {**typed, **hidden}, JSON)
    assert (answer.status, answer.error) == (429, "throttled")
    assert set(answer.json()) == {"error"}
    assert 0 < int(answer.headers["retry-after"]) <= seconds


def test_a_crowd_that_comes_at_once_does_not_lock_itself_out(web: Web, trader: User) -> None:
    """What we had no time for counts for nobody, so that an address or a name is not used up."""
    right = {"username": "trader1", "password": "trader1"}
    web.platform.hashes_waiting = 1_000
    try:
        for number in range(throttle.PAIR_LIMIT + 1):
            assert web.browser().post(LOGIN, right).status == 503
            form = {**FORM, "username": "crowd", "email": f"crowd{number}@x.example"}
            busy = web.browser().post(REGISTER, form)
            assert (busy.status, busy.headers["retry-after"]) == (503, "2")
            assert 'value="Lovelace"' in busy.text, "what was typed is kept"
    finally:
        web.platform.hashes_waiting = 0
    assert web.browser().post(LOGIN, right).status == 303
    assert web.browser().post(REGISTER, form).status == 303


def test_a_hall_of_students_signs_up_from_one_address(web: Web) -> None:
    students = 200
    assert students < SIGN_UPS_AN_ADDRESS
    counting = web.platform.sign_ups
    waits = {counting.seconds_to_wait(f"student{number}", "10.0.0.1") for number in range(students)}
    assert waits == {0}


def test_who_succeeds_has_not_failed(web: Web, trader: User) -> None:
    for password in ("a", "b", "trader1", "c", "d", "e", "trader1"):
        answer = web.browser().post(LOGIN, {"username": "trader1", "password": password})
        assert answer.status == (303 if password == "trader1" else 403)


def test_log_ins_that_succeed_count_for_nobody_however_many_they_are() -> None:
    counting = throttle.Throttle(clock=lambda: 0.0)
    for number in range(2 * throttle.ADDRESS_LIMIT):
        # One name from many addresses, then many names from one.
        for name, address in (("trader1", f"10.0.0.{number}"), (f"trader{number}", "10.1.0.1")):
            assert counting.seconds_to_wait(name, address) == 0
            counting.succeeded(name, address)


@pytest.mark.parametrize(
    ("way_on", "leads_to"),
    [
        ("/default/trade/3?simple=1", "/default/trade/3?simple=1"),
        ("", PRODUCTS),
        ("//evil.example/default/", PRODUCTS),
        ("https://evil.example/", PRODUCTS),
        ("/\\evil.example", PRODUCTS),
        ("/default/\\..\\..//evil.example", PRODUCTS),
        ("/default/x\r\nSet-Cookie: a=b", PRODUCTS),
        ("javascript:alert(1)", PRODUCTS),
        ("/default/../../evil", "/default/../../evil"),
    ],
)
def test_a_log_in_leads_to_pages_of_ours_only(
    web: Web, trader: User, way_on: str, leads_to: str
) -> None:
    form = {"username": "trader1", "password": "trader1", "_next": way_on}
    answer = web.browser().post(LOGIN, form)
    assert (answer.status, answer.headers["location"]) == (303, leads_to)


def test_the_log_in_form_carries_where_to_go(web: Web) -> None:
    page = web.browser().get(f"{LOGIN}?_next=%2Fdefault%2Ftrade%2F3")
    assert 'name="_next" value="/default/trade/3"' in page.text
    evil = web.browser().get(f"{LOGIN}?_next=%2F%2Fevil.example")
    assert "evil" not in evil.text


def test_who_is_logged_in_is_led_past_the_log_in(web: Web, trader: User) -> None:
    answer = web.browser(trader).get(f"{LOGIN}?_next=%2Fdefault%2Fabout")
    assert (answer.status, answer.headers["location"]) == (303, "/default/about")


def test_a_log_in_ends_the_browsers_session_before(web: Web, trader: User) -> None:
    browser = web.browser(trader)
    before = browser.session
    browser.post(LOGIN, {"username": "trader1", "password": "trader1"})
    assert browser.session != before
    browser.session = before
    assert browser.get(PRODUCTS).status == 303


def test_logging_out_ends_the_session_on_the_server_too(web: Web, trader: User) -> None:
    browser = web.browser(trader)
    cookie = browser.session
    answer = browser.post("/default/user/logout")
    assert (answer.status, answer.headers["location"]) == (303, "/default/index")
    assert not browser.session
    assert "You are logged out" in browser.get("/default/index").text
    browser.session = cookie
    assert browser.get(PRODUCTS).status == 303


def test_the_cookie_of_a_log_in_is_out_of_the_reach_of_scripts_and_other_sites(
    web: Web, trader: User
) -> None:
    right = {"username": "trader1", "password": "trader1"}
    for headers, is_secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
        browser = web.browser()
        cookie = browser.post(LOGIN, right, headers).headers["set-cookie"]
        assert cookie.startswith(web.platform.session_cookie)
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert ("Secure" in cookie) is is_secure


def test_another_browser_stays_logged_in(web: Web, trader: User) -> None:
    one, other = web.browser(trader), web.browser(trader)
    one.post("/default/user/logout")
    assert other.get(PRODUCTS).status == 200


def test_venues_on_one_host_do_not_log_each_other_out(
    web: Web, trader: User, tmp_path: Path
) -> None:
    with running_web(tmp_path) as elsewhere:
        here, there = web.browser(trader), elsewhere.browser(elsewhere.add_user("trader1"))
        here.cookies |= there.cookies
        there.cookies = here.cookies  # one person's, who visits both: cookies know no ports
        for browser in (here, there):
            assert browser.get(PRODUCTS).status == 200
        assert there.post("/default/user/logout").status == 303
        assert "You are logged out" not in here.get(PRODUCTS).text
        assert here.get(PRODUCTS).status == 200
        assert there.get(PRODUCTS).status == 303


def test_a_session_of_an_expired_log_in_is_a_strangers(web: Web, trader: User) -> None:
    browser = web.browser(trader)
    with web.database(write=True) as db:
        db.executesql("UPDATE session SET expires_on = 1")
    assert browser.get(PRODUCTS).status == 303


def test_too_many_passwords_at_once_are_told_to_come_back(web: Web, trader: User) -> None:
    web.platform.hashes_waiting = 1_000
    try:
        answer = web.browser().post(LOGIN, {"username": "trader1", "password": "trader1"}, JSON)
    finally:
        web.platform.hashes_waiting = 0
    assert (answer.status, answer.error) == (503, "busy")
    assert answer.headers["retry-after"] == "2"


def test_sign_ups_are_throttled_by_address(web: Web) -> None:
    def sign_up(number: int, address: str) -> int:
        form = {**FORM, "username": f"crowd{number}", "email": f"crowd{number}@x.example"}
        return web.browser().post(REGISTER, form, {"X-Forwarded-For": address}).status

    for number in range(SIGN_UPS_AN_ADDRESS):
        web.platform.sign_ups.seconds_to_wait(f"someone{number}", "203.0.113.7")
    assert sign_up(1, "203.0.113.7") == 429
    assert sign_up(2, "203.0.113.8") == 303
    answer = web.browser().post(
        REGISTER, FORM | {"username": ""}, {"X-Forwarded-For": "203.0.113.7"}
    )
    assert answer.status == 400, "who mistypes does not sign up yet"
    with web.database() as db:
        assert not db.executesql("SELECT id FROM auth_user WHERE username = 'crowd1'")


def test_one_name_is_not_tried_for_ever(web: Web, trader: User) -> None:
    form = {**FORM, "username": "trader1", "email": "another@x.example"}
    statuses = [web.browser().post(REGISTER, form).status for _ in range(7)]
    assert statuses == [400] * throttle.PAIR_LIMIT + [429] * 2
    assert "Try again in" in web.browser().post(REGISTER, form).text


def test_a_name_of_any_length_takes_little_memory(web: Web) -> None:
    """What is beyond the length of any name of ours is not kept, so it tells no names apart."""
    for path in (LOGIN, "/default/user/request_reset_password"):
        for number in range(throttle.PAIR_LIMIT):
            web.browser().post(path, {"username": "x" * NAME_LENGTH + str(number) * 60_000})
        assert web.browser().post(path, {"username": "x" * NAME_LENGTH}).status == 429


def test_a_profile_shows_and_changes_names_and_email(web: Web) -> None:
    browser = web.browser(web.add_user("grace"))
    page = browser.get(PROFILE).text
    for shown in ("grace", "Grace", "Tester", "grace@example.com"):
        assert f'value="{shown}"' in page
    form = {"first_name": "Grace", "last_name": "Hopper", "email": "Hopper@example.com"}
    answer = browser.post(PROFILE, {**form, "password": "grace"})
    assert (answer.status, answer.headers["location"]) == (303, PROFILE)
    assert "Your profile is changed" in browser.get(PROFILE).text
    shown = browser.get("/default/user/profile.json").json()
    assert shown == {
        "username": "grace",
        "form": {**form, "email": "hopper@example.com"},
        "errors": {},
    }
    login = {"username": "hopper@example.com", "password": "grace"}
    assert web.browser().post(LOGIN, login).status == 303


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("first_name", ""),
        ("first_name", "x" * 129),
        ("last_name", " "),
        ("last_name", "nul\0"),
        ("email", ""),
        ("email", "no address"),
        ("email", "two@x.example,three@x.example"),
        ("email", "TRADER1@example.com"),
    ],
)
def test_a_wrong_profile_is_told_and_nothing_is_changed(
    web: Web, manager: User, trader: User, field: str, value: str
) -> None:
    browser = web.browser(manager)
    before = browser.get("/default/user/profile.json").json()
    form = {**before["form"], "last_name": "Changed", "password": manager.username, field: value}
    answer = browser.post(PROFILE, form)
    assert answer.status == 400
    assert 'aria-invalid="true"' in answer.text
    assert list(browser.post(PROFILE, form, JSON).json()["errors"]) == [field]
    assert browser.get("/default/user/profile.json").json() == before


def test_a_new_email_takes_the_password_and_names_do_not(web: Web) -> None:
    browser = web.browser(web.add_user("barbara"))
    before = browser.get("/default/user/profile.json").json()
    form = {**before["form"], "email": "somebody@else.example"}
    for wrong in ({}, {"password": ""}, {"password": "guess"}):
        answer = browser.post(PROFILE, {**form, **wrong}, JSON)
        assert (answer.status, list(answer.json()["errors"])) == (400, ["password"])
        assert "guess" not in answer.text
    assert browser.get("/default/user/profile.json").json() == before
    assert browser.post(PROFILE, {**before["form"], "last_name": "King"}).status == 303
    assert browser.post(PROFILE, {**form, "password": "barbara"}).status == 303


def test_guessing_the_password_in_the_profile_is_throttled(web: Web) -> None:
    browser = web.browser(web.add_user("eve"))
    form = {"first_name": "E", "last_name": "V", "email": "eve2@x.example", "password": "guess"}
    for _ in range(throttle.PAIR_LIMIT):
        browser.post(PROFILE, form)
    answer = browser.post(PROFILE, {**form, "password": "eve"}, JSON)
    assert (answer.status, answer.error) == (429, "throttled")


def test_a_profile_changes_neither_username_nor_rights(web: Web, trader: User) -> None:
    form = {"first_name": "A", "last_name": "B", "email": "trader1@example.com"}
    for extra in ({"username": "boss"}, {"manager": "on"}, {"id": "1"}, {"actual_cash": "9"}):
        answer = web.browser(trader).post(PROFILE, {**form, **extra}, JSON)
        assert (answer.status, answer.error) == (400, "bad_request")


def test_what_is_typed_into_a_profile_is_text_on_every_page(web: Web, manager: User) -> None:
    browser = web.browser(web.add_user("mallory"))
    form = {"first_name": "<img src=x>", "last_name": "=1+1", "email": "m@x.example"}
    assert browser.post(PROFILE, {**form, "password": "mallory"}).status == 303
    for page in (browser.get(PROFILE), web.browser(manager).get(USERS)):
        assert "<img" not in page.text
        assert "&lt;img src=x&gt;" in page.text
    assert ",'=1+1," in web.browser(manager).get("/default/users.csv").text


def test_managers_see_the_users_and_others_do_not(web: Web, manager: User, trader: User) -> None:
    browser = web.browser(manager)
    rows = {row["username"]: row for row in browser.get("/default/users.json").json()["users"]}
    assert rows["trader1"].pop("created_on").endswith("Z")
    assert rows["trader1"] == {
        "username": "trader1",
        "first_name": "Trader1",
        "last_name": "Tester",
        "manager": False,
        "actual_cash": "100000.00",
    }
    assert rows["manager1"]["manager"] is True
    heading = browser.get("/default/users.csv").text.partition("\r\n")[0]
    assert heading == "username,first_name,last_name,manager,actual_cash,created_on"
    page = browser.get(USERS).text
    assert "100,000.00" in page
    assert f'href="{USERS}"' in page
    assert web.browser(trader).get("/default/users.csv").status == 403
    assert USERS not in web.browser(trader).get(PRODUCTS).text
    assert web.browser().get("/default/users.json").status == 401


def test_a_long_list_of_users_is_shown_a_page_at_a_time(
    web: Web, manager: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zoe.a", "zoe.b", "zoe.c"):
        web.add_user(name)
    monkeypatch.setattr(user, "PAGE_ROWS", 2)
    browser = web.browser(manager)

    def shown(query: str) -> tuple[list[str], str | None]:
        page = browser.get(f"/default/users.json?{query}").json()
        return [row["username"] for row in page["users"]], page["next"]

    first, way_on = shown("search=ZOE")
    assert (first, way_on) == (["zoe.a", "zoe.b"], "search=ZOE&after=zoe.b")
    assert way_on is not None
    assert shown(way_on) == (["zoe.c"], None)
    page = browser.get(f"{USERS}?search=ZOE").text
    assert 'Users <span class="dim">3</span>' in page
    assert 'value="ZOE"' in page
    assert f'href="{USERS}?search=ZOE&amp;after=zoe.b">Next' in page
    assert f'href="{USERS}?search=ZOE">First' not in page
    second = browser.get(f"{USERS}?{way_on}").text
    assert f'href="{USERS}?search=ZOE">First' in second
    assert ">Next" not in second
    csv = browser.get("/default/users.csv?search=zoe").text
    assert len(csv.splitlines()) == 4, "the .csv has them all"
    nobody = browser.get(f"{USERS}?search=%3Cscript%3E")
    assert "Nobody&#39;s name is like this" in nobody.text
    assert "<script>" not in nobody.text.replace('<script type="module"', "")
    assert "Nobody comes after these" in browser.get(f"{USERS}?after=zzzz").text
    assert browser.get(f"{USERS}?search=nul%00").status == 400
    assert browser.get(f"{USERS}?search={'a' * 300}").status == 200
    assert browser.get(f"{USERS}?search={'a' * 50_001}").status == 400, "longer than any name"


def test_the_top_right_offers_what_one_may_do(web: Web, trader: User) -> None:
    def offered(page: str) -> list[str]:
        links = page.partition('class="account"')[2].partition("</header>")[0]
        return re.findall(r">([A-Z][^<>]+)</(?:a|button)>", links)

    assert offered(web.browser().get("/").text) == ["Log In", "Sign Up", "Lost password?"]
    page = web.browser(trader).get("/").text
    assert "Welcome <b>trader1</b>" in page
    assert offered(page) == ["Log Out", "Profile", "Password"]


@pytest.mark.parametrize("action", ["login", "register", "logout", "profile", "change_password"])
def test_no_form_is_taken_from_another_site(web: Web, trader: User, action: str) -> None:
    browser = web.browser(trader)
    answer = browser.post(f"/default/user/{action}", {"_xsrf": "theirs"}, JSON)
    assert (answer.status, answer.error) == (403, "bad_xsrf")
