"""Sign-up, log-in and log-out as a browser does them."""

from pathlib import Path

import pytest

from app.controllers import throttle
from app.models import accounts
from app.models.accounts import User
from app.models.products import Product
from tests.app.venue import FEW_ROUNDS, JSON, Web, running_web

LOGIN = "/default/user/login"
REGISTER = "/default/user/register"
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


@pytest.fixture(autouse=True)
def _quick_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy's 600,000 rounds are tested with the models; here they would only take time."""
    hash_password, check_password = accounts.hash_password, accounts.check_password
    monkeypatch.setattr(
        accounts,
        "hash_password",
        lambda password, rounds=FEW_ROUNDS: hash_password(password, rounds=FEW_ROUNDS),
    )
    monkeypatch.setattr(
        accounts,
        "check_password",
        lambda known, password: check_password(known, password, rounds=FEW_ROUNDS),
    )


@pytest.fixture(autouse=True)
def _nobody_has_failed(web: Web) -> None:
    web.platform.throttle = throttle.Throttle()


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
