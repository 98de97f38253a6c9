"""Every URL: what form it takes, who may see it, and what each answer carries beside its text."""

import pytest

from app.models.accounts import User
from app.models.products import Product
from app.routes import PAGES
from tests.app.venue import JSON, Browser, Web

LOGIN = "/default/user/login?_next="

AUDIENCES = {
    # path: what a stranger, a trader and a manager get
    "/": (200, 200, 200),
    "/default": (200, 200, 200),
    "/default/index": (200, 200, 200),
    "/default/about": (200, 200, 200),
    "/default/error": (404, 404, 404),
    "/default/products": (303, 200, 200),
    "/default/edit_product/ID": (303, 403, 200),
    "/default/trade/ID": (303, 200, 200),
    "/default/account/ID": (401, 200, 200),
    "/default/old_trade/ID": (303, 303, 303),
    "/default/pandl": (303, 200, 200),
    "/default/pandl/ID": (303, 200, 200),
    "/default/positions": (303, 200, 200),
    "/default/my_trades": (303, 200, 200),
    "/default/all_trades": (303, 200, 200),
    "/default/order": (405, 405, 405),
    "/default/delete": (405, 405, 405),
    "/default/amend": (405, 405, 405),
    "/default/flatten": (405, 405, 405),
    "/default/phase": (405, 405, 405),
    "/default/zap": (303, 403, 200),
    "/default/user": (200, 303, 303),
    "/default/user/login": (200, 303, 303),
    "/default/user/register": (200, 200, 200),
    "/default/user/logout": (405, 405, 405),
    "/default/user/profile": (303, 200, 200),
    "/default/user/change_password": (303, 200, 200),
    "/default/user/request_reset_password": (200, 200, 200),
    "/default/user/reset_password": (404, 404, 404),
    "/default/users": (303, 403, 200),
}


@pytest.fixture(scope="module")
def visitors(web: Web, trader: User, manager: User) -> list[Browser]:
    return [web.browser(), web.browser(trader), web.browser(manager)]


def test_every_page_has_its_audience() -> None:
    assert set(AUDIENCES) == set(PAGES)


@pytest.mark.parametrize("path", AUDIENCES)
def test_who_may_see_a_page(path: str, visitors: list[Browser], away: Product) -> None:
    address = path.replace("ID", str(away.id))
    assert tuple(visitor.get(address).status for visitor in visitors) == AUDIENCES[path]


def test_a_stranger_is_led_to_the_log_in_and_back(web: Web, away: Product) -> None:
    answer = web.browser().get(f"/default/trade/{away.id}?simple=1")
    assert answer.status == 303
    assert answer.headers["location"] == f"{LOGIN}%2Fdefault%2Ftrade%2F{away.id}%3Fsimple%3D1"


def test_a_stranger_who_wants_json_is_told_to_log_in(web: Web, away: Product) -> None:
    browser = web.browser()
    for answer in (
        browser.get(f"/default/pandl.json/{away.id}"),
        browser.get("/default/products", JSON),
        browser.post("/default/order", headers=JSON),
    ):
        assert (answer.status, answer.error) == (401, "login_required")


def test_a_stranger_who_sends_a_form_is_led_back_to_its_page(web: Web, away: Product) -> None:
    origin = f"http://127.0.0.1:{web.port}"
    for referer, target in (
        (f"{origin}/default/trade/{away.id}", f"%2Fdefault%2Ftrade%2F{away.id}"),
        ("http://evil.example/default/trade/1", "%2Fdefault%2Fproducts"),
        ("", "%2Fdefault%2Fproducts"),
    ):
        answer = web.browser().post("/default/order", headers={"Referer": referer})
        assert (answer.status, answer.headers["location"]) == (303, f"{LOGIN}{target}")


@pytest.mark.parametrize(
    ("asked", "leads_to"),
    [
        ("/emte", "/"),
        ("/emte/", "/"),
        ("/emte/default/index", "/default/index"),
        ("/emte/default/pandl.json/3?x=1", "/default/pandl.json/3?x=1"),
        ("/favicon.ico", "/static/favicon.svg"),
    ],
)
def test_old_addresses_lead_to_the_new(web: Web, asked: str, leads_to: str) -> None:
    answer = web.browser().get(asked)
    assert (answer.status, answer.headers["location"]) == (301, leads_to)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/default/nothing",
        "/default/trade",
        "/default/trade/x",
        "/default/trade/1234567890123456789",
        "/default/trade/99",
        "/default/pandl/99",
        "/default/pandl.xml/1",
        "/default/about.csv",
        "/emte/other",
        "//evil.example/",
        "/static/nothing.js",
        "/static/js/%00",
        "/static/js/%C3%A9.js",
        "/realtime/nothing",
    ],
)
def test_what_is_no_page_is_not_found(web: Web, trader: User, path: str) -> None:
    assert web.browser(trader).get(path).status == 404


def test_no_file_outside_the_static_folder_is_served(web: Web) -> None:
    for path in ("/static/../webserver.py", "/static/%2e%2e/webserver.py", "/static//etc/passwd"):
        answer = web.browser().get(path)
        assert answer.status in (403, 404), path
        assert "import" not in answer.text


def test_a_page_that_is_not_found_says_so_in_the_form_asked_for(web: Web) -> None:
    as_html = web.browser().get("/default/nothing")
    assert "There is no page /default/nothing" in as_html.text
    assert as_html.headers["content-type"] == "text/html; charset=utf-8"
    as_json = web.browser().get("/default/nothing", JSON)
    assert (as_json.status, as_json.error) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/default/order", "POST"),
        ("/default/user/logout", "POST"),
        ("/default/about", "GET, HEAD"),
        ("/default/user/login", "GET, HEAD, POST"),
        ("/default/nothing", "GET, HEAD"),
        ("/static/css/emte.css", "GET, HEAD"),
        ("/robots.txt", "GET, HEAD"),
        ("/favicon.ico", "GET, HEAD"),
        ("/emte/default/index", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/health/ready", "GET, HEAD"),
        ("/realtime/away", "GET"),
    ],
)
def test_another_method_is_refused_with_the_right_ones(
    web: Web, trader: User, away: Product, path: str, allowed: str
) -> None:
    browser = web.browser(trader)
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        if method not in allowed.split(", "):
            token = f"_xsrf={browser.get('/default/about') and browser.cookies['_xsrf']}"
            body = token.encode() if method == "POST" else None
            answer = browser.request(method, path, body=body, headers=JSON)
            assert (answer.status, answer.headers["allow"]) == (405, allowed), method
            assert answer.error == "method_not_allowed"


def test_a_method_that_is_refused_is_a_page_to_people(web: Web) -> None:
    answer = web.browser().get("/default/user/logout")
    assert "This address takes POST only" in answer.text
    assert 'href="/default/products"' in answer.text
    assert web.browser().request("PUT", "/default/index.json").error == "method_not_allowed"


def test_head_answers_as_get_without_the_text(web: Web) -> None:
    answer = web.browser().request("HEAD", "/default/about")
    assert (answer.status, answer.text) == (200, "")
    assert int(answer.headers["content-length"]) > 1000


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/default/nothing",
        "/default/index.json",
        "/default/index.csv",
        "/static/css/emte.css",
        "/static/nothing",
        "/robots.txt",
        "/favicon.ico",
        "/emte/default/index",
        "/health/live",
        "/realtime/nothing",
    ],
)
def test_every_answer_carries_the_security_headers(web: Web, path: str) -> None:
    headers = web.browser().get(path).headers
    policy = headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers


def test_windows_are_kept_apart_where_browsers_speak_tls(web: Web) -> None:
    name = "cross-origin-opener-policy"
    behind_a_proxy = web.browser().get("/", {"X-Forwarded-Proto": "https"})
    assert behind_a_proxy.headers[name] == "same-origin"
    assert name not in web.browser().get("/").headers, "a console's complaint in a network"


def test_pages_are_not_kept_and_files_are_asked_about(web: Web) -> None:
    browser = web.browser()
    assert browser.get("/default/index").headers["cache-control"] == "no-store"
    assert browser.get("/static/css/emte.css").headers["cache-control"] == "no-cache"


def test_a_file_that_a_browser_has_is_not_sent_again(web: Web) -> None:
    for path in ("/static/css/emte.css", "/static/js/trade.js", "/robots.txt"):
        first = web.browser().get(path)
        assert first.status == 200
        again = web.browser().get(path, {"If-None-Match": first.headers["etag"]})
        assert (again.status, again.text) == (304, ""), path


def test_search_engines_are_told_which_pages_are_public(web: Web) -> None:
    answer = web.browser().get("/robots.txt")
    assert answer.headers["content-type"] == "text/plain"
    rules = answer.text.splitlines()
    assert "Disallow: /" in rules
    public = {rule.removeprefix("Allow: ") for rule in rules if rule.startswith("Allow: /default")}
    assert all(web.browser().get(path).status == 200 for path in public)


def test_a_form_without_its_token_is_refused(web: Web, trader: User, away: Product) -> None:
    browser = web.browser(trader)
    token = browser.get("/default/about") and browser.cookies["_xsrf"]
    other = web.browser().get("/default/about").headers["set-cookie"].partition("=")[2]
    fields = {"product": away.id, "oid": "all"}
    for wrong in ("", "x", "2|aaaa|bbbb|1", other.partition(";")[0]):
        answer = browser.post("/default/delete", {**fields, "_xsrf": wrong}, JSON)
        assert (answer.status, answer.error) == (403, "bad_xsrf"), wrong
    in_a_header = browser.post(
        "/default/delete", {**fields, "_xsrf": ""}, {**JSON, "X-Xsrftoken": token}
    )
    assert in_a_header.error != "bad_xsrf"


def test_a_token_without_its_cookie_is_refused(web: Web, trader: User) -> None:
    browser = web.browser(trader)
    browser.get("/default/about")
    token = browser.cookies.pop("_xsrf")
    answer = browser.request(
        "POST", "/default/user/logout", body=f"_xsrf={token}".encode(), headers=JSON
    )
    assert (answer.status, answer.error) == (403, "bad_xsrf")


def test_a_large_form_in_chunks_is_refused_as_it_comes(web: Web, trader: User) -> None:
    browser = web.browser(trader)
    body = (
        b"10000\r\n" + b"x" * 0x10000 + b"\r\n" + b"10000\r\n" + b"x" * 0x10000 + b"\r\n0\r\n\r\n"
    )
    headers = {**JSON, "Transfer-Encoding": "chunked"}
    answer = browser.request("POST", "/default/delete", body=body, headers=headers)
    assert (answer.status, answer.error) == (413, "too_large")


def test_a_session_cookie_that_is_not_ours_is_a_strangers(web: Web, trader: User) -> None:
    browser = web.browser(trader)
    genuine = browser.session
    for forged in ("x", genuine[:-70] + "eA==|00", genuine[:-1] + "0"):
        browser.session = forged
        status = browser.get("/default/products").status
        assert status == (200 if forged == genuine else 303)


def test_cookies_are_out_of_the_reach_of_scripts_and_other_sites(web: Web) -> None:
    browser = web.browser()
    plain = browser.get("/default/about").headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=Lax" in plain
    assert "Secure" not in plain
    browser.cookies.clear()
    over_tls = browser.get("/default/about", {"X-Forwarded-Proto": "https"})
    assert "Secure" in over_tls.headers["set-cookie"]
