"""Every kind of order from the ticket, amends by table and by hand, and an auction on the page."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.end_to_end.venue import DESKTOP, PHONE, Market, Trader, Venue
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def market(venue: Venue) -> Market:
    return venue.open_market("kinds")


def send(trader: Trader, quantity: int, price: str) -> None:
    trader.fill_ticket(quantity, price)
    trader.page.locator("#ticket [type=submit]").click()


def preview(trader: Trader) -> Locator:
    return trader.page.locator("#ticket .preview")


def wait_for_price(trader: Trader, oid: int, price: int) -> None:
    def has_price(orders: list[dict[str, Any]]) -> bool:
        return any((order["oid"], order["price"]) == (oid, price) for order in orders)

    trader.wait_for("orders", has_price, f"order #{oid} at {price}")


def drag(trader: Trader, oid: int, pixels: int) -> None:
    """Press an order's mark and move it, without letting go."""
    trader.page.hover("#overlay")  # the view stands still from now on
    mark = trader.mark(oid)
    mouse = trader.page.mouse
    mouse.move(mark["x"], mark["y"])
    mouse.down()
    mouse.move(mark["x"] + pixels, mark["y"], steps=4)


def forgive(trader: Trader, status: int) -> None:
    """The browser itself notes an answer's status."""
    assert all(f"status of {status}" in error for error in trader.errors), trader.errors
    trader.errors.clear()


def test_post_only_and_icebergs_go_in_from_the_ticket(venue: Venue, market: Market) -> None:
    with venue.trader() as alice, venue.trader() as bob:
        alice.open_trade_page(market)
        page = alice.page
        page.get_by_label("Show only").fill("10")
        page.get_by_label("Post-only").check()
        alice.fill_ticket(100, "90.00")
        expect(preview(alice)).to_contain_text("rests 100, shows 10 of it")
        page.get_by_role("button", name="Buy 100 at 90.00, shows 10, post-only").click()
        [order] = alice.wait_for_orders(1)
        assert (order["peak"], order["post"], order["remaining"]) == (10, True, 100)
        row = page.locator(f"#open-orders tr[data-oid='{order['oid']}']")
        expect(row).to_contain_text("100, shows 10")
        expect(row).to_contain_text("gtc, post-only")

        # What does not go together cannot be chosen, and says why.
        kind, force = page.get_by_label("Kind", exact=True), page.get_by_label("In force")
        peak, post = page.get_by_label("Show only"), page.get_by_label("Post-only")
        for choose, option, reason in (
            (kind, "Market", "not with market orders (R8)"),
            (kind, "Stop limit", "not with stop orders (R8)"),
            (force, "ioc", "not with ioc (R8)"),
        ):
            before = choose.input_value()
            choose.select_option(option)
            expect(post).to_be_disabled()
            expect(page.locator("#post-note")).to_have_text(reason)
            assert peak.is_disabled() == (option != "Stop limit"), option
            choose.select_option(before)
        expect(post).to_be_checked()
        expect(post).to_be_enabled()

        # The server has the last word, and the preview knows it.
        bob.open_trade_page(market)
        bob.wait_for_level("bids", "90.00", 10)
        bob.page.locator("#ticket .sides .sell").click()
        bob.page.get_by_label("Post-only").check()
        bob.fill_ticket(5, "90.00")
        expect(preview(bob)).to_contain_text("would take 5: will be refused (R8)")
        bob.page.locator("#ticket [type=submit]").click()
        expect(bob.page.locator(".toast.error")).to_contain_text("post-only")
        forgive(bob, 422)
        bob.page.get_by_label("Post-only").uncheck()
        send(bob, 15, "90.00")
        alice.wait_for("orders", lambda orders: orders[0]["filled"] == 15, "a part of it filled")
        alice.wait_for_level("bids", "90.00", 5)
        alice.page.goto("/default/positions")
        line = alice.page.locator("[data-table=orders] tbody tr")
        expect(line).to_contain_text("100, shows 10")
        expect(line).to_contain_text("gtc, post-only")
        alice.page.get_by_role("link", name=re.compile("Edit order")).click()
        alice.page.get_by_label("New quantity").fill("15")
        alice.page.keyboard.press("Enter")
        alice.wait_for_orders(0)


def test_an_order_is_amended_in_the_table_by_keys(venue: Venue, market: Market) -> None:
    with venue.trader() as trader:
        trader.open_trade_page(market)
        page = trader.page
        send(trader, 50, "80.00")
        [order] = trader.wait_for_orders(1)
        oid = order["oid"]
        edit = page.get_by_role("button", name=f"Edit order {oid}")
        edit.press("Enter")
        page.get_by_label("New price").fill("80.005")
        page.keyboard.press("Enter")
        expect(page.locator(".fields [role=alert]")).to_have_text(
            "80.005 is not a multiple of 0.01"
        )
        forgive(trader, 422)
        page.keyboard.press("Escape")
        expect(page.locator(".fields")).to_have_count(0)
        expect(edit).to_be_focused()
        edit.press("Enter")
        expect(page.get_by_label("New quantity")).to_have_value("50")
        page.get_by_label("New quantity").fill("60")
        page.get_by_label("New price").fill("80.30")
        page.keyboard.press("Enter")
        wait_for_price(trader, oid, 803_000)
        expect(page.locator("#voice")).to_contain_text(f"Order #{oid} is now 60 at 80.30.")
        expect(page.locator(".fields")).to_have_count(0)
        expect(page.locator("#available")).to_have_text("45,182.00")

        # A stop has its stop to change; what the platform gave it as a limit goes along.
        page.get_by_label("Kind", exact=True).select_option("Stop market")
        page.get_by_label("Stop", exact=True).fill("103.00")
        page.locator("#ticket [type=submit]").click()
        stop = trader.wait_for_orders(2)[1]["oid"]
        page.get_by_role("button", name=f"Edit order {stop}").click()
        expect(page.get_by_label("New price")).to_have_count(0)
        page.get_by_label("New stop").fill("104.00")
        page.get_by_role("button", name=f"Save order {stop}").click()
        row = page.locator(f"#open-orders tr[data-oid='{stop}']")
        expect(row).to_contain_text("104.00")
        expect(row).to_contain_text("buy stop market")
        page.get_by_role("button", name="Cancel all").click()
        trader.wait_for_orders(0)


def test_a_mark_is_dragged_to_another_price_and_a_click_still_cancels(
    venue: Venue, market: Market
) -> None:
    with venue.trader() as trader:
        trader.open_trade_page(market)
        page = trader.page
        send(trader, 54, "89.50")
        [order] = trader.wait_for_orders(1)
        oid = order["oid"]
        page.evaluate("() => document.activeElement.blur()")
        drag(trader, oid, 40)
        dragged = trader.state("dragged")
        assert dragged["oid"] == oid
        assert dragged["price"] > 895_000
        assert dragged["price"] % 100 == 0, "on the grid"
        page.keyboard.press("Escape")
        assert trader.state("dragged") is None
        page.mouse.up()
        drag(trader, oid, 40)  # the first one of a visit asks
        target = trader.state("dragged")["price"]
        page.mouse.up()
        expect(page.locator("#arming-order")).to_have_text(
            f"Order #{oid}: 89.50 → {target / 10_000:.2f}"
        )
        assert trader.state("orders")[0]["price"] == 895_000, "nothing was sent yet"
        page.get_by_role("button", name="Arm, and change this order").click()
        wait_for_price(trader, oid, target)
        drag(trader, oid, -60)
        lower = trader.state("dragged")["price"]
        page.mouse.up()
        wait_for_price(trader, oid, lower)
        expect(page.locator("#voice")).to_contain_text(
            f"Order #{oid} is now 54 at {lower / 10_000:.2f}."
        )
        page.hover("#overlay")
        mark = trader.mark(oid)
        page.mouse.click(mark["x"], mark["y"])
        trader.wait_for_orders(0)


def test_an_auction_collects_and_trades_at_one_price(venue: Venue) -> None:
    market = venue.open_market("call")
    with (
        venue.trader() as alice,
        venue.trader(**PHONE) as bob,
        venue.trader(manager=True) as manager,
    ):
        for trader in (alice, bob):
            trader.open_trade_page(market)
        alice.page.keyboard.press("1")
        manager.page.goto(f"/default/edit_product/{market.product}")
        manager.page.get_by_role("button", name="Auction").click()
        expect(alice.page.locator("#phase")).to_have_text("in auction")
        assert alice.state("kind") == "buy-limit", "a market order is none of an auction's"
        expect(alice.page.locator("#indicative")).to_contain_text("nothing crosses")
        expect(alice.page.locator("#kinds input:disabled")).to_have_count(2)
        expect(alice.page.get_by_label("Post-only")).to_be_disabled()
        for tif in ("ioc", "fok"):
            expect(alice.page.locator(f"#ticket-tif [value={tif}]")).to_be_disabled()
        alice.fill_ticket(300, "102.00")
        expect(preview(alice)).to_contain_text("collected, to trade at the auction's one price")
        alice.page.locator("#ticket [type=submit]").click()
        alice.wait_for_orders(1)
        bob.page.get_by_role("tab", name="Ticket").tap()
        bob.page.locator("#ticket .sides .sell").tap()
        send(bob, 250, "101.00")
        words = "102.00 250 shares, 50 left to buy"
        for trader in (alice, bob):
            expect(trader.page.locator("#indicative")).to_have_text(words)
        expect(alice.page.locator("#book .middle")).to_have_text("indicative 102.00")
        expect(bob.page.locator("#indicative")).to_be_in_viewport(ratio=1)
        alice.page.reload()
        expect(alice.page.locator("#indicative")).to_have_text(words)
        alice.wait_for_line("live")
        manager.page.get_by_role("button", name="Resume").click()
        expect(alice.page.locator("#phase")).to_be_hidden()
        expect(alice.page.locator("#indicative")).to_be_hidden()
        expect(alice.page.locator("#tape tr").first).to_contain_text("◆ 102.00")
        expect(alice.page.locator("#position")).to_have_text("250")
        expect(bob.page.locator("#position")).to_have_text("−250")
        [order] = alice.wait_for_orders(1)
        assert (order["filled"], order["remaining"]) == (250, 50)


def test_on_a_phone_an_order_is_amended_in_the_table(venue: Venue, market: Market) -> None:
    with venue.trader(**PHONE) as trader:
        trader.open_trade_page(market)
        page = trader.page
        page.get_by_role("tab", name="Ticket").tap()
        send(trader, 20, "85.00")
        [order] = trader.wait_for_orders(1)
        page.get_by_role("tab", name=re.compile("Orders")).tap()
        page.get_by_role("button", name=f"Edit order {order['oid']}").tap()
        for name in ("Save", "Keep", "Cancel"):
            button = page.get_by_role("button", name=re.compile(f"{name} order {order['oid']}"))
            expect(button).to_be_in_viewport(ratio=1)
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44, name
        page.get_by_label("New price").fill("85.50")
        page.get_by_role("button", name=re.compile("Save")).tap()
        wait_for_price(trader, order["oid"], 855_000)


@pytest.mark.parametrize("width", [390, 900, 1280, 1440])
def test_no_choice_of_the_ticket_is_cut_off(venue: Venue, market: Market, width: int) -> None:
    options = PHONE if width == 390 else {"viewport": {"width": width, "height": 720}}
    with venue.trader(**options) as trader:
        trader.open_trade_page(market)
        if width == 390:
            trader.page.get_by_role("tab", name="Ticket").tap()
        for select in trader.page.locator("#ticket select").all():
            shown, wanted = select.evaluate(
                """(select) => {
                    const { width } = select.getBoundingClientRect();
                    select.style.width = "max-content";
                    return [width, select.getBoundingClientRect().width];
                }"""
            )
            assert shown >= wanted


def test_a_form_sent_before_the_scripts_ran_comes_back_as_it_was_written(
    venue: Venue, market: Market
) -> None:
    with venue.trader() as trader:
        page = trader.page
        page.goto(
            f"/default/trade/{market.product}?type=sell&quantity=7&price=98.7&stop=99&tif=fok"
        )
        trader.wait_for_line("live")
        expect(page.get_by_role("button", name="Sell 7 at 98.70, stop 99.00")).to_be_visible()
        for name, value in (("Price", "98.7"), ("Stop", "99"), ("Quantity", "7")):
            expect(page.get_by_label(name, exact=True)).to_have_value(value)
        expect(page.get_by_label("sell stop limit")).to_be_checked()
        expect(page.get_by_label("In force", exact=True)).to_have_value("fok")


def test_without_scripts_a_refused_order_stays_in_the_ticket(venue: Venue, market: Market) -> None:
    with venue.trader(**DESKTOP, java_script_enabled=False) as trader:
        page = trader.page
        page.goto(f"/default/trade/{market.product}")
        page.locator("#ticket [value=sell]").check()
        trader.fill_ticket(7, "99.255")
        page.get_by_label("In force", exact=True).select_option("fok")
        page.get_by_role("button", name="Send order").click()
        expect(page.get_by_role("alert").first).to_contain_text("99.255 is not a multiple of 0.01")
        expect(page.locator("#ticket [value=sell]")).to_be_checked()
        expect(page.get_by_label("Quantity", exact=True)).to_have_value("7")
        expect(page.get_by_label("Price", exact=True)).to_have_value("99.255")
        expect(page.get_by_label("In force", exact=True)).to_have_value("fok")
        page.get_by_label("Price", exact=True).fill("99.25")
        page.get_by_role("button", name="Send order").click()
        expect(page.get_by_role("status")).to_contain_text("canceled, 0 filled")


def test_without_scripts_every_kind_of_order_is_placed_and_amended(venue: Venue) -> None:
    market = venue.open_market("bare")
    with venue.trader(**DESKTOP, java_script_enabled=False) as trader:
        page = trader.page
        page.goto(f"/default/trade/{market.product}")
        trader.fill_ticket(50, "99.25")
        page.get_by_label("Show only").fill("5")
        page.get_by_label("Post-only").check()
        page.get_by_role("button", name="Send order").click()
        expect(page.get_by_role("status")).to_contain_text("Order #1: open")

        def has_row(words: str) -> bool:
            page.goto(f"/default/trade/{market.product}")
            return words in page.locator("#open-orders").inner_text()

        wait_until(lambda: has_row("50, shows 5"), "the order in the table")
        expect(page.locator("#open-orders")).to_contain_text("gtc, post-only")
        page.get_by_label("Edit order 1").click()
        page.get_by_label("New quantity").fill("40")
        page.get_by_label("New price").fill("99.30")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("status")).to_contain_text("Order #1 is now 40 at 99.30")
        wait_until(lambda: has_row("40, shows 5"), "the change in the table")
