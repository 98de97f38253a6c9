"""Every page on a phone: nothing to scroll sideways, and nothing for the console to complain of."""

import pytest
from playwright.sync_api import expect

from tests.end_to_end.venue import PHONE, Market, Trader, Venue

STRANGERS_PAGES = ["/", "/default/about", "/default/user/login", "/default/user/register"]
STRANGERS_PAGES += ["/default/user/request_reset_password"]
TRADERS_PAGES = ["/default/index", "/default/products", "/default/trade/{}", "/default/pandl/{}"]
TRADERS_PAGES += ["/default/user/profile", "/default/user/change_password"]
MANAGERS_PAGES = ["/default/products", "/default/edit_product/{}", "/default/users"]

OVERFLOW = """() => {
    const wide = document.documentElement.clientWidth;
    const beyond = [...document.querySelectorAll("body *")].filter((element) => {
        const box = element.getBoundingClientRect();
        const mayScroll = element.closest(".table-scroll, .rows, pre");
        return box.width > 0 && box.right > wide + 1 && !mayScroll;
    });
    return {
        scrolls: document.documentElement.scrollWidth > wide,
        beyond: beyond.map((element) => element.outerHTML.slice(0, 80)),
    };
}"""

TOO_SMALL = """() => {
    const targets = "button, a:not(.skip), select, .kind, .sides label, .field input";
    return [...document.querySelectorAll(targets)]
        .filter((element) => element.checkVisibility())
        .map((element) => [element.outerHTML.slice(0, 60), element.getBoundingClientRect().height])
        .filter(([, height]) => height < 44);
}"""


@pytest.fixture(scope="module")
def market(venue: Venue) -> Market:
    return venue.open_market("pages")


def look_at(visitor: Trader, addresses: list[str], market: Market) -> None:
    """Open each page and assert that it fits."""
    for address in addresses:
        path = address.format(market.product)
        visitor.page.goto(path)
        visitor.page.wait_for_load_state("load")
        assert (path, visitor.page.evaluate(OVERFLOW)) == (path, {"scrolls": False, "beyond": []})


def test_what_strangers_see_fits_a_phone(venue: Venue, market: Market) -> None:
    with venue.visitor(**PHONE) as visitor:
        look_at(visitor, STRANGERS_PAGES, market)


def test_what_traders_see_fits_a_phone(venue: Venue, market: Market) -> None:
    with venue.trader(**PHONE) as trader:
        look_at(trader, TRADERS_PAGES, market)


def test_what_managers_see_fits_a_phone(venue: Venue, market: Market) -> None:
    with venue.trader(manager=True, **PHONE) as manager:
        look_at(manager, MANAGERS_PAGES, market)


def test_each_tab_of_the_trade_page_fits_a_phone(venue: Venue, market: Market) -> None:
    with venue.trader(**PHONE) as trader:
        trader.open_trade_page(market)
        for name in ("Book", "Ticket", "Orders", "Chart"):
            trader.page.get_by_role("tab", name=name).tap()
            fits = trader.page.evaluate(OVERFLOW)
            assert (name, fits) == (name, {"scrolls": False, "beyond": []})


def test_what_a_finger_must_hit_is_44_pixels_high(venue: Venue, market: Market) -> None:
    with venue.trader(**PHONE) as trader:
        trader.open_trade_page(market)
        for name in ("Chart", "Book", "Ticket", "Orders"):
            trader.page.get_by_role("tab", name=name).tap()
            assert (name, trader.page.evaluate(TOO_SMALL)) == (name, [])


def test_a_form_that_came_back_begins_at_its_first_mistake(venue: Venue) -> None:
    with venue.visitor() as visitor:
        page = visitor.page
        page.goto("/default/user/register")
        for field, text in (
            ("Username", "mistaken"),
            ("First name", "Ada"),
            ("Last name", "Lovelace"),
            ("Email", "ada@example.com"),
            ("Password", "correct horse"),
            ("Confirm password", "battery"),
        ):
            page.get_by_label(field, exact=field == "Password").fill(text)
        page.get_by_role("button", name="Sign up").click()
        expect(page.get_by_label("Confirm password")).to_be_focused()
        visitor.errors.clear()  # the browser itself notes the answer's status, 400


def test_what_a_chart_waits_for_stands_in_its_middle(venue: Venue) -> None:
    with venue.trader() as trader:
        trader.page.goto("/default/pandl")
        middles = trader.page.evaluate(
            """() => ["#chart-empty", "#chart"].map((part) => {
                const { left, right } = document.querySelector(part).getBoundingClientRect();
                return Math.round((left + right) / 2);
            })"""
        )
        assert middles[0] == middles[1]
