"""Every page in every form, for everybody: who is shown what, and what no answer may hold."""

import csv
import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from app.controllers import default
from app.controllers.base import ERROR_CODES
from app.controllers.markets import Quote
from app.models import products
from app.models.accounts import User
from app.models.db import DAL, DatabaseAway
from app.models.products import Product
from app.routes import PAGES
from tests.app.test_routes import AUDIENCES
from tests.app.venue import JSON, Browser, Response, Web

ROOT = Path(__file__).resolve().parents[2]

TABLES = [path for path, page in PAGES.items() if page.table is not None]

FORMS = ("", ".html", ".json", ".csv")

CONTENT_TYPES = {
    "": "text/html; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
}

PLANTED = {
    "password": "planted-hash",
    "reset_password_key": f"{hashlib.sha256(b'planted').hexdigest()}:9999999999999999",
    "registration_key": "planted-registration",
}
"""What is in columns of an account that no page shows, not even to their owner."""

NEVER_SHOWN = ("pbkdf2", "token_hash", "reset_password_key", "registration_", "session_secret")


def address(path: str, form: str, key: object) -> str:
    """A page of the route table, in one of its forms, of the row `key`."""
    function, has_key, _ = path.partition("/ID")
    return f"{function}{form}/{key}" if has_key else f"{function}{form}"


@pytest.fixture(scope="module")
def secrets(web: Web, trader: User, manager: User, away: Product) -> list[str]:
    """What no answer may hold: planted in the rows of the visitors and of somebody else."""
    victim = web.add_user("victim")
    assignments = ", ".join(f"{column} = '{value}'" for column, value in PLANTED.items())
    with web.database(write=True) as db:
        for user in (trader, manager, victim):
            db.executesql(f"UPDATE auth_user SET {assignments} WHERE id = {user.id}")
    web.browser(victim)
    return [*PLANTED.values(), "victim@example.com", web.venue_key, web.platform.session_secret]


@pytest.fixture(scope="module")
def visitors(web: Web, trader: User, manager: User) -> dict[str, Browser]:
    return {
        "stranger": web.browser(),
        "trader": web.browser(trader),
        "manager": web.browser(manager),
    }


def expected_status(path: str, form: str, method: str, visitor: str) -> int:
    """What a page answers, by its row in the table of audiences and how it was exposed."""
    page = PAGES[path]
    as_page = AUDIENCES[path][["stranger", "trader", "manager"].index(visitor)]
    if ("GET" if method == "HEAD" else method) not in page.methods:
        return 405
    if form == ".csv" and page.table is None:
        return 404
    if method == "POST":
        return 403  # the form's token is missing
    if visitor == "stranger" and as_page == 303 and form in (".json", ".csv"):
        return 401
    return as_page


@pytest.mark.parametrize("path", PAGES)
def test_every_page_in_every_form_for_everybody(
    path: str, web: Web, visitors: dict[str, Browser], away: Product, secrets: list[str]
) -> None:
    with web.database() as db:
        hashes = [row[0] for row in db.executesql("SELECT token_hash FROM session")]
    for form in FORMS if path != "/" else ("",):
        for visitor, browser in visitors.items():
            asked = address(path, form, away.id)
            for method in ("GET", "POST", "HEAD"):
                body = b"" if method == "POST" else None
                browser.cookies.pop(web.platform.message_cookie, None)  # said once, so not twice
                answer = browser.request(method, asked, body=body)
                case = (method, asked, visitor)
                assert (*case, answer.status) == (
                    *case,
                    expected_status(path, form, method, visitor),
                )
                held = [text for text in (*NEVER_SHOWN, *secrets, *hashes) if text in answer.text]
                assert not held, case
                if method == "GET":
                    check_form(answer, form, path)
                    got = answer
                elif method == "HEAD":
                    assert answer.text == ""
                    for name in ("content-type", "content-length", "location", "allow"):
                        assert answer.headers.get(name) == got.headers.get(name), (case, name)


def check_form(answer: Response, form: str, path: str) -> None:
    """An answer is of the kind that was asked for, and nothing but a page speaks of passwords."""
    kind = answer.headers.get("content-type", "")
    if answer.status == 303:
        assert answer.headers["location"].startswith("/default/")
        return
    if answer.status == 200:
        # A page without a view has its JSON form only.
        assert kind == CONTENT_TYPES[form if PAGES[path].view else ".json"]
    elif form in (".json", ".csv"):
        assert kind == CONTENT_TYPES[".json"]
        assert set(answer.json()) in ({"error"}, {"key", "is_good", "errors"})
    if "html" not in kind:
        assert "password" not in answer.text.replace("reset_password", "").replace(path, "")


def test_the_front_page_draws_a_market_that_is_there(
    web: Web, manager: User, away: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.add_product("zulu", by=manager)

    def state(product: Product, quote: Quote | None) -> str:
        return "continuous" if product.name == "zulu" else "away"

    assert 'id="mini-ticker">away<' in web.browser().get("/").text, "the first, if none is there"
    monkeypatch.setattr(default, "_state", state)
    assert 'id="mini-ticker">zulu<' in web.browser().get("/").text


@pytest.mark.parametrize("path", [path for path in PAGES if path != "/"])
def test_strangers_are_led_to_the_log_in_and_back(path: str, web: Web, away: Product) -> None:
    asked = address(path, "", away.id) + "?x=1"
    answer = web.browser().get(asked)
    if expected_status(path, "", "GET", "stranger") == 303:
        assert answer.headers["location"] == f"/default/user/login?_next={quote(asked, safe='')}"


@pytest.mark.parametrize("path", [path for path in PAGES if path != "/"])
def test_the_addresses_of_2010_lead_to_the_page(path: str, web: Web, away: Product) -> None:
    for form in FORMS:
        asked = f"{address(path, form, away.id)}?x=1"
        answer = web.browser().get(f"/emte{asked}")
        assert (answer.status, answer.headers["location"]) == (301, asked)


@pytest.mark.parametrize("path", [path for path in PAGES if path != "/"])
def test_what_follows_an_address_is_nothing_or_no_page(
    path: str, visitors: dict[str, Browser], away: Product
) -> None:
    browser = visitors["manager"]
    page = address(path, "", away.id)
    status = browser.get(page).status
    for same in ("/", "?", "?a=%ff&&=&a=2&%00=1", "?_xsrf=%ff", f"?x={'y' * 20_000}"):
        assert (same[:20], browser.get(page + same).status) == (same[:20], status)
    assert browser.get(f"{page}?x=%00").status == (405 if status == 405 else 400)
    for other in ("/1/2", "/x", "/-1", "/1.5", "/%EF%BC%91", ".xml", ".json.json", "%00"):
        answer = browser.get(page + other)
        assert (other, answer.status) == (other, 404)
        assert 'href="/default/products"' in answer.text


@pytest.mark.parametrize("path", [path for path in PAGES if path.endswith("/ID")])
def test_a_row_that_is_not_there_is_not_found(path: str, visitors: dict[str, Browser]) -> None:
    browser = visitors["manager"]
    for key in (0, 99, "0" * 18, "9" * 18, "9" * 19, "-1", "x", "1e1", "%20", "%00"):
        for form in ("", ".json"):
            answer = browser.get(address(path, form, key))
            if answer.status == 303:  # an old address leads to the new one first
                answer = browser.get(answer.headers["location"].partition("#")[0])
            assert (key, answer.status) == (key, 404)
    answer = browser.get(address(path, "", ""))
    assert answer.status in (200, 404), "without a row: another page, or none"


@pytest.mark.parametrize("path", [path for path in TABLES if path != "/"])
def test_a_table_has_its_heading_with_rows_and_without(
    path: str, web: Web, manager: User, away: Product
) -> None:
    page = PAGES[path]
    answer = web.browser(manager).get(address(path, ".csv", away.id))
    heading, *lines = csv.reader(answer.text.splitlines())
    assert heading == list(page.columns)
    assert all(len(line) == len(heading) for line in lines)
    shown = web.browser(manager).get(address(path, ".json", away.id)).json()[page.table]
    assert len(shown) == len(lines)
    assert all(set(row) == set(heading) for row in shown)


def test_what_goes_wrong_here_is_in_the_log_and_not_in_the_answer(
    web: Web, trader: User, monkeypatch: pytest.MonkeyPatch, expected_errors: list[object]
) -> None:
    def fail(db: DAL, **options: bool) -> list[Product]:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(products, "every", fail)
    browser = web.browser(trader)
    as_page = browser.get("/default/index")
    assert "It is in the server&#39;s log" in as_page.text
    assert 'href="/default/index">Load the page again' in as_page.text
    for answer in (as_page, browser.get("/default/index.json"), browser.get("/default/index.csv")):
        assert answer.status == 500
        assert not any(word in answer.text for word in ("hunter2", "RuntimeError", "Traceback"))
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert browser.get("/default/index.json").error == "internal"


def test_a_page_says_that_the_database_is_away_and_when_to_come_back(
    web: Web, trader: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(db: DAL, **options: bool) -> list[Product]:
        raise DatabaseAway("10.0.0.5 is away")

    monkeypatch.setattr(products, "every", fail)
    browser = web.browser(trader)
    for form in ("", ".json", ".csv"):
        answer = browser.get(f"/default/products{form}")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "10.0.0.5" not in answer.text
    assert browser.get("/default/products.json").error == "busy"
    assert "Load the page again" in browser.get("/default/products").text


def test_every_code_of_an_error_stands_in_the_protocol() -> None:
    pages = (ROOT / "docs" / "PROTOCOL.md").read_text("utf-8").partition("## 7. The pages")[2]
    sources = [path.read_text("utf-8") for path in (ROOT / "app" / "controllers").glob("*.py")]
    codes = {code for text in sources for code in re.findall(r'Problem\(\s*\d+,\s*"(\w+)"', text)}
    assert {"busy", "throttled", "login_required"} <= codes
    told = set(re.findall(r"`(\w+)`", pages))
    assert codes | {*ERROR_CODES.values(), "internal"} <= told


@pytest.mark.parametrize(
    ("path", "fields", "status", "sentence", "leads_to"),
    [
        ("/default/nowhere", None, 404, "There is no page /default/nowhere", "/default/index"),
        ("/default/users", None, 403, "Only managers may do this", "/default/products"),
        ("/default/user/logout", None, 405, "This address takes POST only", "/default/products"),
        (
            "/default/user/profile",
            {"_xsrf": ""},
            403,
            "load its page again, then send it",
            '/default/user/profile">Load the page again',
        ),
        ("/default/user/profile", {"x": 1}, 400, "no field", "/default/user/profile"),
        ("/default/user/profile", {"email": "x" * 70_000}, 413, "64 KiB", "/default/user/profile"),
    ],
)
def test_a_page_that_is_not_shown_says_why_and_what_to_do(
    web: Web,
    trader: User,
    path: str,
    fields: dict[str, object] | None,
    status: int,
    sentence: str,
    leads_to: str,
) -> None:
    browser = web.browser(trader)

    def ask(headers: dict[str, str]) -> Response:
        return browser.get(path, headers) if fields is None else browser.post(path, fields, headers)

    answer = ask({})
    assert (answer.status, answer.headers["content-type"]) == (status, CONTENT_TYPES[""])
    assert sentence in answer.text
    assert f'href="{leads_to}' in answer.text
    assert "Welcome <b>trader1</b>" in answer.text, "the menu is one's own"
    as_json = ask(JSON)
    assert (as_json.status, as_json.headers["content-type"]) == (status, CONTENT_TYPES[".json"])
    assert set(as_json.json()["error"]) == {"code", "rule", "message"}
