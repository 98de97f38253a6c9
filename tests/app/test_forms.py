"""Every form with bad input: a sentence beside the field, what was typed kept, nothing changed."""

import re
from collections.abc import Iterator
from html import escape, unescape
from urllib.parse import urlencode

import pytest

from app.models import accounts
from app.models.accounts import User
from app.models.db import now, rows
from app.models.products import Product
from app.routes import PAGES
from tests.app.venue import JSON, Browser, Response, Web, on_each_database

pytestmark = [on_each_database, pytest.mark.usefixtures("quick_hashing", "nobody_has_failed")]

REGISTER = "/default/user/register"
PROFILE = "/default/user/profile"
PASSWORD = "/default/user/change_password"
RESET = "/default/user/reset_password"
PRODUCTS = "/default/products"
EDIT = "/default/edit_product/ID"

SIGN_UP = {
    "username": "eve",
    "first_name": "Eve",
    "last_name": "Moneypenny",
    "email": "eve@example.com",
    "password": "my secret",
    "password_two": "my secret",
    "actual_cash": "50000",
}
PRODUCT = {
    "name": "newone",
    "description": "A new one",
    "unit_price": "100.00",
    "tick": "0.01",
    "lot": "1",
    "port": "",
    "post_url": "http://127.0.0.1:18885/",
    "quote_url": "http://127.0.0.1:18885/quote",
    "ws_url": "ws://127.0.0.1:18885/realtime",
    "active": "on",
    "allow_short": "on",
}
FORMS = {
    REGISTER: SIGN_UP,
    PROFILE: {
        "first_name": "Man",
        "last_name": "Ager",
        "email": "manager@example.com",
        "password": "manager1",
    },
    PASSWORD: {
        "old_password": "manager1",
        "password": "my secret",
        "password_two": "my secret",
    },
    RESET: {"password": "my secret", "password_two": "my secret"},
    PRODUCTS: PRODUCT,
    EDIT: {**PRODUCT, "name": "away", "test": "connection"},
}
"""Forms filled in right, the last by the button that only tests; each case changes one field."""

SCRIPT = "<script>alert('x')</script>"
NOT_IN_A_LINE = [
    "nul\0byte",
    "two\nlines",
    "a\ttab",
    "bell\x07",
    "\x1b[31mred",
    "right\u202eto left",
    "zero\u200bwidth",
    "soft\u00adhyphen",
    "\ufeffmark",
    "line\u2028separator",
    "private\ue000use",
]
NO_AMOUNTS = [
    "",
    "-1",
    "+1",
    "1e6",
    "1,000",
    "1 000",
    "1_000",
    "0x10",
    "NaN",
    "inf",
    ".5",
    "1.",
    "1.00001",
    "1000000000",
    "9" * 400,
    "\uff11\uff12",
    "\u0661",
    "1\0",
    SCRIPT,
]
NO_URLS = [
    "",
    "127.0.0.1:18885",
    "ftp://127.0.0.1:18885/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "gopher://127.0.0.1:18885/",
    "//127.0.0.1:18885/",
    "http://user:pass@127.0.0.1:18885/",
    "http://127.0.0.1:18885@evil.example/",
    "http://127.0.0.1:18885\\@evil.example/",
    "http://127.0.0.1:18885/?x=1",
    "http://127.0.0.1:18885/#x",
    "http://127.0.0.1:18885/admin",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:-1/",
    "http://127.0.0.1:x/",
    "http://[::1/",
    "http://",
    "http://:18885/",
    "http://127.0.0.1:18885/\r\nHost: evil",
    "http://127.0.0.1:188\n85/",
    "http://127.0.0.1 evil:18885/",
    "http://<script>:18885/",
    "http://exa mple:18885/",
    "http://127.0.0.1%00:18885/",
    "http://" + "a" * 300 + ":18885/",
]


def cases() -> Iterator[tuple[str, str, str, str]]:
    """(form, field, what is typed there, the sentence beside it)."""
    many = "x" * 10_000
    for text in ("", " ", "two words", "a/b", SCRIPT, "\u0430lice", "x" * 65, *NOT_IN_A_LINE):
        yield REGISTER, "username", text, "A username has 1 to 64 letters, digits"
    for form in (REGISTER, PROFILE):
        for field in ("first_name", "last_name"):
            for text in ("", " ", "x" * 129, many, *NOT_IN_A_LINE):
                yield form, field, text, "Enter a name of up to 128 characters"
        for text in ("", "x", "@x", "x@", "a b@x.example", f"{SCRIPT}@x", "x@" + many, "a@b@c"):
            yield form, "email", text, "Enter an e-mail address"
        for text in ("nul\0@x.example", "a\u202e@x.example", "a\u200b@x.example"):
            yield form, "email", text, "Enter an e-mail address"
        yield form, "email", "TRADER1@example.com", "already taken"
    yield REGISTER, "username", "TRADER1", "already taken"
    for text in NO_AMOUNTS:
        yield REGISTER, "actual_cash", text, "Enter an amount from 0 to 999999999.9999"
    for form in (REGISTER, PASSWORD, RESET):
        for text in ("", "abc", "x" * 1_025, many):
            yield form, "password", text, "A password has 4 to 1024 characters"
        yield form, "password", "nul\0nul", "cannot hold a NUL"
        for text in ("", "an0ther", "my secret "):
            yield form, "password_two", text, "The two passwords differ"
    for text in ("", "wrong", "manager1 ", many, "nul\0"):
        yield PASSWORD, "old_password", text, "This is not your password"
    for form in (PRODUCTS, EDIT):
        for text in ("", "GS", "1st", "all", "a b", "a/b", SCRIPT, "x" * 17, "\uff41", "nul\0"):
            yield form, "name", text, "1 to 16 lowercase letters"
        for text in (many, *NOT_IN_A_LINE):
            yield form, "description", text, "Up to 512 characters, in one line"
        for text in (*NO_AMOUNTS, "0", "0.00"):
            yield form, "unit_price", text, "Enter a price above 0"
            if text:
                yield form, "tick", text, "Enter a price above 0"
        yield form, "unit_price", "100.005", "Not a multiple of the tick"
        for text in ("0", "-1", "1.5", "1e3", "1,000", "9" * 13, "9" * 400, "\uff11", "x"):
            yield form, "lot", text, "Enter a whole number of shares"
        for text in ("0", "-1", "65536", "9" * 400, "80 80", "\uff18\uff10", "x", "nul\0"):
            yield form, "port", text, "A port is a number from 1 to 65535"
        yield form, "port", "18886", "The addresses name another port"
        for field, path, scheme in (
            ("post_url", "", "http"),
            ("quote_url", "quote", "http"),
            ("ws_url", "realtime", "ws"),
        ):
            for text in NO_URLS:
                url = re.sub(r"^http(.*)/$", rf"{scheme}\1/{path}", text, flags=re.DOTALL)
                yield form, field, url, f"Enter a URL like {scheme}://"
        yield form, "quote_url", "http://10.0.0.1:18885/quote", "is not the Post Url"
        yield form, "ws_url", "wss://127.0.0.1:18885/realtime", "is not the Post Url"


CASES = list(cases())

KINDS = {case[1:4:2]: case for case in CASES if case[0] == EDIT}
"""The two forms of a product are read by the same function: one case of each kind is enough."""

CASES = [case for case in CASES if case[0] != EDIT] + list(KINDS.values())


@pytest.fixture(scope="module", autouse=True)
def people(web: Web, manager: User, trader: User, away: Product) -> None:
    """Who and what is there while bad forms come in."""


@pytest.fixture
def browser(web: Web, manager: User) -> Browser:
    return web.browser(manager)


def dump(web: Web) -> dict[str, list[object]]:
    """Everything that the database holds."""
    with web.database() as db:
        return {table: rows(db, f'SELECT * FROM "{table}" ORDER BY id') for table in db.tables}


def noted(page: str, field: str) -> str:
    """The sentence beside a field; "" if there is none."""
    found = re.search(rf'<p class="error" id="{field}-note">(.*?)</p>', page)
    return unescape(found[1]) if found else ""


def typed(page: str, field: str) -> str | None:
    """What stands in a field of a page."""
    found = re.search(rf'<input id="{field}" name="{field}" type="\w+" value="(.*?)"', page, re.S)
    return unescape(found[1]) if found else None


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_field_is_told_kept_and_changes_nothing(
    web: Web, browser: Browser, manager: User, away: Product, form: str
) -> None:
    good = dict(FORMS[form])
    if form == RESET:
        with web.database(write=True) as db:
            reset = accounts.request_reset(db, "trader1", at=now())
        assert reset is not None
        good["key"] = reset.key
    path = form.replace("ID", str(away.id))
    token = browser.get("/default/about") and browser.cookies["_xsrf"]
    before = dump(web)
    for case_form, field, text, sentence in CASES:
        if case_form != form:
            continue
        case = (form, field, text[:40])
        web.platform.throttle.succeeded("manager1", "127.0.0.1")
        answer = browser.post(path, {**good, "_xsrf": token, field: text})
        assert (case, answer.status) == (case, 400)
        assert sentence in noted(answer.text, field), (case, noted(answer.text, field))
        assert SCRIPT not in answer.text
        assert not any(word in answer.text for word in ("my secret", "an0ther"))
        for name, value in (good | {field: text}).items():
            if typed(answer.text, name) is not None:
                kept = "" if "password" in name else value
                assert typed(answer.text, name) == kept, (case, name)
        as_json = browser.post(path, {**good, "_xsrf": token, field: text}, JSON)
        assert (as_json.status, sentence in as_json.json()["errors"][field]) == (400, True), case
        assert "my secret" not in as_json.text
    assert dump(web) == before


POSTS = [path for path, page in PAGES.items() if "POST" in page.methods]


@pytest.mark.parametrize("path", POSTS)
def test_what_is_no_form_of_ours_is_refused(
    web: Web, browser: Browser, away: Product, path: str
) -> None:
    fields = PAGES[path].fields
    path = path.replace("ID", str(away.id))
    token = browser.get("/default/about") and browser.cookies["_xsrf"]
    own = f"_xsrf={token}"
    before = dump(web)

    def send(body: bytes, kind: str = "application/x-www-form-urlencoded") -> Response:
        headers = {"Content-Type": kind, "X-Xsrftoken": token}
        as_page = browser.request("POST", path, body=body, headers=headers)
        as_json = browser.request("POST", path, body=body, headers={**headers, **JSON})
        assert as_json.status == as_page.status
        assert as_json.json()["error"]["message"] in unescape(as_page.text)
        return as_json

    a_file = '--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n--x--\r\n'
    refused = [
        (f"{own}&sender=7", None, 400, "This form has no field 'sender'"),
        (f"{own}&{own}", None, 400, "The field '_xsrf' stands twice"),
        (f"{own}&%FF=1", None, 400, "This form has no field"),
        (f"{own}&{'a=1&' * 2_000}", None, 400, "The form cannot be read"),
        (a_file, "multipart/form-data; boundary=x", 400, "This form takes no files"),
        (a_file, "multipart/form-data", 400, "The form cannot be read"),
        ("--x", "multipart/form-data; boundary=x", 400, "The form cannot be read"),
        ('{"username":"x"}', "application/json", 400, "A form is sent as application/x-www-form"),
        (own, "text/plain", 400, "A form is sent as application/x-www-form"),
        ("x" * 1_000_000, None, 413, "A form has at most 64 KiB"),
    ]
    for field in fields:
        refused += [
            (f"{own}&{field}=1&{field}=2", None, 400, f"The field '{field}' stands twice"),
            (f"{own}&{field}=caf%E9", None, 400, "The form cannot be read"),
            (f"{own}&{field}={'1' * 1_000_000}", None, 413, "A form has at most 64 KiB"),
        ]
    for body, kind, status, sentence in refused:
        answer = send(body.encode(), kind or "application/x-www-form-urlencoded")
        assert (answer.status, sentence in answer.json()["error"]["message"]) == (status, True), (
            body[:60],
            answer.text,
        )
    assert dump(web) == before


@pytest.mark.parametrize("path", POSTS)
def test_an_empty_form_changes_nothing(web: Web, manager: User, away: Product, path: str) -> None:
    if path.endswith("/logout"):
        return  # an empty form is all that it takes
    browser = web.browser(manager)
    token = browser.get("/default/about") and browser.cookies["_xsrf"]
    before = dump(web)
    for headers in ({}, JSON):
        answer = browser.post(path.replace("ID", str(away.id)), {"_xsrf": token}, headers)
        assert answer.status in (303, 400, 403, 404)
        if answer.status == 303:  # an order's form lies on another page, which says what is wrong
            assert "There is no" in browser.get(answer.headers["location"]).text
    assert dump(web) == before


ORDER = {"type": "buy", "quantity": "1", "price": "100.00", "stop": "", "id": "web-1"}

BAD_ORDERS = [
    *(("quantity", text, "Quantity is a whole") for text in NO_AMOUNTS if text != "1000000000"),
    *(("price", text, "Price: ") for text in NO_AMOUNTS if text),
    *(("stop", text, "Stop: ") for text in NO_AMOUNTS if text),
    *(("type", text, "type is one of buy, sell") for text in ("", "BUY", "short", SCRIPT, "\0")),
    *(("tif", text, "tif is one of gtc, day") for text in ("GTC", "forever", SCRIPT, "\0")),
    *(("stp", text, "stp is one of taker") for text in ("x", SCRIPT)),
    *(("id", text, "begins with web-") for text in ("1", "web-", "web-" + "x" * 33, "web- 1")),
    *(("id", text, "begins with web-") for text in ("web-\0", "web-\u202e", "web-1 tif=day")),
]


def test_a_wrong_order_is_told_and_leaves_nothing(
    web: Web, browser: Browser, away: Product
) -> None:
    token = browser.get("/default/about") and browser.cookies["_xsrf"]
    before = dump(web)
    for field, text, sentence in BAD_ORDERS:
        form = {**ORDER, "product": away.id, "_xsrf": token, field: text}
        answer = browser.post("/default/order", form, JSON)
        case = (field, text[:40], answer.text)
        assert (answer.status, answer.error) == (400, "bad_request"), case
        assert sentence in answer.json()["error"]["message"], case
        as_page = browser.post("/default/order", form)
        assert as_page.headers["location"].partition("?")[0] == f"/default/trade/{away.id}"
        page = browser.get(as_page.headers["location"]).text
        assert sentence in unescape(page), case
        assert SCRIPT not in page
    for field, paths in (("product", ("order", "delete", "phase")), ("oid", ("delete",))):
        for text in ("", "x", "-1", "0", "99", "9" * 400, "\uff11", "1e0", "1 ", SCRIPT, "\0"):
            for path in paths:
                good = {
                    "order": {**ORDER, "product": away.id},
                    "delete": {"product": away.id, "oid": "1"},
                    "phase": {"product": away.id, "phase": "halted"},
                }[path]
                form = {**good, "_xsrf": token, field: text}
                answer = browser.post(f"/default/{path}", form, JSON)
                if field == "oid" and text in ("0", "99"):
                    assert answer.status == 503, "its exchange would know"
                    continue
                assert answer.status == (404 if field == "product" else 400), (path, field, text)
    for text in ("", "HALTED", "pause", "all", SCRIPT, "\0"):
        form = {"product": away.id, "phase": text, "_xsrf": token}
        answer = browser.post("/default/phase", form, JSON)
        assert (answer.status, answer.error) == (400, "bad_request")
    assert dump(web) == before


@pytest.mark.parametrize(
    ("field", "texts", "status", "sentence"),
    [
        ("product", ("99", "x", "-1", "9" * 400, "\uff11", SCRIPT), 404, "There is no product"),
        ("side", ("BUY", "both", SCRIPT), 400, "side is buy or sell"),
        (
            "from",
            ("yesterday", "2026-13-01", "2026-1-1", "\uff12026-01-01", SCRIPT),
            400,
            "is a day",
        ),
        ("to", ("9999-12-32", "20260101", "-1", "1e9"), 400, "is a day"),
        ("before", ("x", "1-1-buy-", "9" * 30, "1-1-buy-INTC", SCRIPT), 400, "is no place"),
    ],
)
def test_a_wrong_question_about_trades_is_told(
    browser: Browser, field: str, texts: tuple[str, ...], status: int, sentence: str
) -> None:
    paths = ("my_trades", "all_trades") if field in ("product", "before") else ("my_trades",)
    for text in texts:
        for path in paths:
            for form in ("", ".json", ".csv"):
                answer = browser.get(f"/default/{path}{form}?{urlencode({field: text})}")
                assert (answer.status, sentence in unescape(answer.text)) == (status, True), text
                assert SCRIPT not in answer.text or form


@pytest.mark.parametrize("path", ["/default/user/login", "/default/user/request_reset_password"])
def test_a_strange_name_is_nobodys(web: Web, path: str) -> None:
    browser = web.browser()
    token = browser.get("/default/about") and browser.cookies["_xsrf"]
    before = dump(web)
    for text in ("", SCRIPT, "nul\0", "\u202e", "x" * 10_000, "' OR 1=1 --", "%", "trader1\0"):
        form = {"username": text, "_xsrf": token}
        if path.endswith("login"):
            form["password"] = "my secret\0"
        answer = browser.post(path, form)
        assert answer.status in (303, 400, 403), text
        assert SCRIPT not in answer.text
        assert "my secret" not in answer.text
        assert answer.status == 303 or typed_name_is_kept(answer.text, text)
        as_json = browser.post(path, form, JSON)
        assert as_json.status == answer.status
        assert "my secret" not in as_json.text
    assert dump(web) == before


def typed_name_is_kept(page: str, text: str) -> bool:
    return f'value="{escape(text.strip()[:255], quote=True)}"'.replace("&#x27;", "&#39;") in page
