"""What managers do on their pages, and what traders see of it."""

import pytest
from playwright.sync_api import expect

from tests.end_to_end.venue import PHONE, Market, Venue


@pytest.fixture(scope="module")
def market(venue: Venue) -> Market:
    return venue.open_market("ruled")


def test_a_paused_market_is_seen_at_once_and_orders_can_still_be_canceled(
    venue: Venue, market: Market
) -> None:
    with venue.trader(manager=True, **PHONE) as manager, venue.trader() as trader:
        trader.open_trade_page(market)
        trader.fill_ticket(10, "99")
        trader.page.keyboard.press("Enter")
        trader.wait_for_orders(1)
        manager.page.goto(f"/default/edit_product/{market.product}")
        manager.page.get_by_role("button", name="Pause").tap()
        expect(manager.page.get_by_text("ruled: halted.")).to_be_visible()
        expect(trader.page.locator("#phase")).to_have_text("halted")
        trader.fill_ticket(20, "98")
        expect(trader.page.get_by_text("refused: the market is halted")).to_be_visible()
        trader.page.keyboard.press("Enter")
        expect(trader.page.get_by_text("Trading in ruled is halted (R11)").first).to_be_visible()
        trader.errors.clear()  # the browser itself notes the answer's status, 422
        trader.page.get_by_role("button", name="Cancel", exact=True).first.click()
        trader.wait_for_orders(0)
        manager.page.get_by_role("button", name="Resume").tap()
        expect(manager.page.get_by_text("ruled: trading.")).to_be_visible()
        expect(trader.page.locator("#phase")).to_be_hidden()


def test_closing_is_asked_for_twice(venue: Venue, market: Market) -> None:
    with venue.trader(manager=True) as manager:
        page = manager.page
        page.goto("/default/products")
        page.once("dialog", lambda dialog: dialog.dismiss())
        page.get_by_role("button", name="Close all").click()
        expect(page.locator("#products .state")).to_have_text("continuous")
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Close all").click()
        expect(page.get_by_text("ruled: closed.")).to_be_visible()
        expect(page.locator("#products .state")).to_have_text("closed")
        page.get_by_role("button", name="Resume all").click()
        expect(page.locator("#products .state")).to_have_text("continuous")


def test_a_form_is_compared_with_what_answers_and_enter_still_saves(
    venue: Venue, market: Market
) -> None:
    with venue.trader(manager=True, **PHONE) as manager:
        page = manager.page
        page.goto(f"/default/edit_product/{market.product}")
        page.get_by_label("Unit price").fill("100.05")
        page.get_by_role("button", name="Test connection").tap()
        line = "The reference price is 100.00 there, and 100.05 in this form"
        expect(page.get_by_text(line)).to_be_in_viewport()
        page.get_by_label("Unit price").fill("100")
        page.get_by_role("button", name="Test connection").tap()
        expect(page.get_by_text("All is well: ruled answers at")).to_be_in_viewport()
        page.get_by_label("Description").fill("Tried and true")
        page.keyboard.press("Enter")
        expect(page.get_by_text("ruled is changed")).to_be_visible()
        expect(page.get_by_label("Description")).to_have_value("Tried and true")


def test_rules_are_saved_seen_by_traders_without_reload_and_excepted_from(
    venue: Venue, market: Market
) -> None:
    with venue.trader(manager=True, **PHONE) as manager, venue.trader() as trader:
        trader.page.goto("/default/products")
        told = trader.page.locator("#products .rules")
        expect(told).to_have_text("")
        page = manager.page
        page.goto(f"/default/edit_product/{market.product}")
        page.get_by_label("Collar, %").fill("10")
        page.get_by_label("Band, %").fill("7.5")
        page.get_by_label("Taker fee, bp").fill("0.5")
        page.get_by_role("button", name="Save").tap()
        expect(page.get_by_text("ruled is changed; its exchange has been told")).to_be_visible()
        expect(told).to_have_text("collar 10 % · band 7.5 % · maker fee 0 bp, taker fee 0.5 bp")
        exceptions = page.locator("#exceptions")
        exceptions.get_by_label("Trader").fill("nobody")
        exceptions.get_by_label("Value").fill("5")
        exceptions.get_by_role("button", name="Add").tap()
        expect(exceptions.get_by_text("There is no user with this name")).to_be_in_viewport()
        manager.errors.clear()  # the browser itself notes the answer's status, 400
        exceptions.get_by_label("Trader").fill("trader1")
        exceptions.get_by_label("Limit").select_option("Position")
        exceptions.get_by_role("button", name="Add").tap()
        expect(exceptions.get_by_role("row", name="trader1")).to_contain_text("Position")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        exceptions.get_by_role("button", name="Remove Position of trader1").tap()
        expect(page.get_by_text("The exception is removed; its exchange")).to_be_visible()
        expect(exceptions.get_by_role("row")).to_have_count(0)
