"""From a click in the browser to the P&L, as traders see it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import FloatRect, expect

from tests.end_to_end.venue import DESKTOP, PHONE, Trader, Venue
from tests.waiting import wait_until


def test_a_click_becomes_an_order_a_trade_a_position_and_a_profit(venue: Venue) -> None:
    market = venue.open_market("acme")
    with venue.visitor() as alice, venue.trader() as bob:
        alice.sign_up("alice")
        alice.log_out()
        alice.log_in("alice")
        alice.page.get_by_role("link", name="Products").click()
        alice.page.get_by_role("link", name="Trade acme").click()
        alice.wait_for_line("live")
        alice.page.evaluate("() => { window.stayed = true; }")

        # A buy limit by a click on the canvas: in the book, in the table, a mark on the axis.
        alice.page.keyboard.press("2")
        alice.click("99.50", 100)
        alice.arm()
        alice.wait_for_level("bids", "99.50", 100)
        [order] = alice.wait_for_orders(1)
        assert (order["side"], order["price"], order["remaining"]) == ("buy", 995_000, 100)
        alice.mark(order["oid"])
        row = alice.page.locator(f"#open-orders tr[data-oid='{order['oid']}']")
        expect(row).to_contain_text("buy limit")

        # Somebody else hits it, by a click as well.
        bob.open_trade_page(market)
        bob.wait_for_level("bids", "99.50", 100)
        bob.page.keyboard.press("6")
        bob.click("99.50", 60)
        bob.arm()
        alice.wait_for_level("bids", "99.50", 40)
        expect(bob.page.locator("#tape tr").first).to_contain_text("99.50")
        expect(alice.page.locator("#position")).to_have_text("60")
        expect(alice.page.locator("#actual")).to_have_text("44,030.00")
        expect(bob.page.locator("#position")).to_have_text("−60")
        expect(alice.page.locator("#voice")).to_contain_text("Bought 60 at 99.50")

        # Ten go back at 100.00: half a unit of profit on each of sixty.
        alice.page.keyboard.press("6")
        alice.click("100.00", 10)
        alice.wait_for_level("asks", "100.00", 10)
        bob.page.keyboard.press("2")
        bob.click("100.00", 10)
        expect(alice.page.locator("#position")).to_have_text("50")
        expect(alice.page.locator("#pandl")).to_have_text("+30.00")
        expect(bob.page.locator("#pandl")).to_have_text("−30.00")

        # What rests is canceled by its mark.
        alice.wait_for_orders(1)
        mark = alice.mark(order["oid"])
        alice.page.mouse.click(mark["x"], mark["y"])
        alice.wait_for_orders(0)
        bob.wait_for_level("bids", "99.50", 0)
        expect(row).to_have_count(0)
        assert alice.page.evaluate("() => window.stayed"), "the page was loaded anew"


def test_all_eight_kinds_go_in_from_the_canvas(venue: Venue) -> None:
    market = venue.open_market("kinds")
    with venue.trader() as maker, venue.trader() as taker:
        maker.open_trade_page(market)
        maker.page.keyboard.press("2")
        maker.click("99.00", 200)
        maker.arm()
        maker.page.keyboard.press("6")
        maker.click("101.00", 200)
        maker.wait_for_orders(2)

        taker.open_trade_page(market)
        taker.wait_for_level("asks", "101.00", 200)
        taker.page.get_by_label("buy market").check()
        taker.click("100.50", 20)
        taker.arm()
        maker.wait_for_level("asks", "101.00", 180)
        taker.page.get_by_label("sell market").check()
        taker.click("100.50", 30)
        maker.wait_for_level("bids", "99.00", 170)
        expect(taker.page.locator("#position")).to_have_text("−10")

        # last is 99.00: stops wait on their own side of it.
        taker.page.get_by_label("buy stop market").check()
        taker.click("101.20", 40)
        taker.page.get_by_label("sell stop market").check()
        taker.click("98.90", 40)
        taker.page.get_by_label("buy stop limit").check()
        press_and_release(taker, stop="101.30", limit="101.40")
        taker.page.get_by_label("sell stop limit").check()
        press_and_release(taker, stop="98.80", limit="98.70")
        orders = taker.wait_for_orders(4)
        waiting = [(order["side"], order["stop"], order["price"]) for order in orders]
        assert waiting == [
            ("buy", 1_012_000, 0),
            ("sell", 989_000, 0),
            ("buy", 1_013_000, 1_014_000),
            ("sell", 988_000, 987_000),
        ]
        assert {order["status"] for order in orders} == {"pending_stop"}
        assert {order["stp"] for order in orders} == {"maker"}
        for order in orders:
            taker.mark(order["oid"])

        taker.page.get_by_role("button", name="Cancel all").click()
        taker.wait_for_orders(0)


def press_and_release(trader, *, stop: str, limit: str) -> None:
    """The press is the stop price, the release the limit price."""
    trader.point(stop, 40)
    trader.page.mouse.down()
    trader.point(limit, 40)
    trader.page.mouse.up()


def test_nothing_is_sent_by_a_click_outside_the_plot_or_before_the_trader_has_armed(
    venue: Venue,
) -> None:
    market = venue.open_market("calm")
    with venue.trader() as trader:
        trader.open_trade_page(market)
        sent: list[str] = []
        trader.page.on("request", lambda request: sent.append(request.method))
        box = trader.page.locator("#overlay").bounding_box()
        assert box is not None
        trader.page.mouse.click(box["x"] + box["width"] - 5, box["y"] + 50)
        trader.page.mouse.click(box["x"] + 200, box["y"] + box["height"] - 5)
        expect(trader.page.locator("#arming")).to_be_hidden()
        trader.click("99.50", 100)
        trader.page.get_by_role("button", name="Not now").click()
        trader.click("99.60", 100)
        trader.page.keyboard.press("Escape")
        assert trader.state("armed") is False
        assert "POST" not in sent
        assert trader.state("orders") == []


def test_the_keyboard_alone_aims_sends_and_cancels(venue: Venue) -> None:
    market = venue.open_market("keys")
    with venue.trader() as trader:
        trader.open_trade_page(market)
        page = trader.page
        page.locator("#overlay").focus()
        page.keyboard.press("6")
        assert trader.state("kind") == "sell-limit"
        page.keyboard.press("Enter")
        start = trader.state("aim")
        assert start["price"] == 1_000_000
        for key in ("ArrowRight", "Shift+ArrowRight", "ArrowUp"):
            page.keyboard.press(key)
        aim = trader.state("aim")
        assert aim["price"] == 1_000_000 + 11 * 100
        assert aim["quantity"] > start["quantity"]
        expect(page.locator("#voice")).to_contain_text("Sell")

        page.keyboard.press("Enter")
        expect(page.locator("#arming")).to_be_visible()
        page.keyboard.press("Enter")
        [order] = trader.wait_for_orders(1)
        assert (order["price"], order["quantity"]) == (aim["price"], aim["quantity"])
        page.keyboard.press("x")
        trader.wait_for_orders(0)
        page.keyboard.press("Escape")
        assert trader.state("armed") is False


def test_f_flattens_and_asks_first_unless_the_trader_is_armed(venue: Venue) -> None:
    market = venue.open_market("flat")
    with venue.trader() as maker, venue.trader() as trader:
        maker.open_trade_page(market)
        for side, price in (("sell", "101.00"), ("buy", "100.00")):
            maker.page.locator(f"#ticket input[value={side}]").check()
            maker.fill_ticket(60, price)
            maker.page.locator("#ticket [type=submit]").click()
        maker.wait_for_orders(2)
        trader.open_trade_page(market)
        page, question = trader.page, trader.page.locator("#flatten")
        for text, quantity in (("101.00", 30), ("99.00", 5)):
            trader.fill_ticket(quantity, text)
            page.locator("#ticket [type=submit]").click()
        trader.wait_for_orders(1)
        expect(page.locator("#position")).to_have_text("30")

        page.locator("#ticket-quantity").focus()
        page.keyboard.press("f")
        page.locator("#overlay").focus()
        page.keyboard.press("Control+f")
        page.keyboard.press("Alt+f")
        expect(question).to_be_hidden()
        page.keyboard.press("f")
        expect(question).to_be_visible()
        page.keyboard.press("Escape")
        expect(question).to_be_hidden()
        assert len(trader.state("orders")) == 1, "nothing is done before the answer"
        page.keyboard.press("f")
        page.keyboard.press("Enter")
        said = "1 open order canceled. Sold 30 flat at 100.00. The position is closed."
        expect(page.locator("#voice")).to_contain_text(said)
        trader.wait_for_orders(0)
        expect(page.locator("#position")).to_have_text("0")

        page.keyboard.press("6")
        trader.click("99.90", 10)
        trader.arm()
        expect(page.locator("#position")).to_have_text("−10")
        page.keyboard.press("f")
        expect(page.locator("#voice")).to_contain_text("Bought 10 flat at 101.00")
        expect(question).to_be_hidden()
        expect(page.locator("#position")).to_have_text("0")


def test_on_a_phone_a_tap_aims_and_a_button_sends(venue: Venue) -> None:
    market = venue.open_market("phone")
    with venue.trader(**PHONE) as trader:
        trader.open_trade_page(market)
        page = trader.page
        pixels = page.evaluate("() => [document.getElementById('plot').width, innerWidth]")
        assert pixels[0] > 1.8 * pixels[1], "not as sharp as the screen"
        page.get_by_label("Buy limit").check(force=True)
        ask = "([price, quantity]) => window.emte.point(price, quantity)"
        place = page.evaluate(ask, ["99.00", 100])
        page.touchscreen.tap(place["x"], place["y"])
        aim = trader.wait_for("aim", bool, "the aim of a tap")
        assert abs(aim["price"] - 990_000) <= 200
        assert trader.state("orders") == []

        page.get_by_role("button", name="Send").click()
        [order] = trader.wait_for_orders(1)
        assert (order["price"], order["quantity"]) == (aim["price"], aim["quantity"])
        assert trader.state("aim") is None

        mark = trader.mark(order["oid"])
        page.touchscreen.tap(mark["x"], mark["y"])
        trader.wait_for_orders(0)

        page.get_by_role("tab", name="Ticket").tap()
        trader.fill_ticket(7, "98.50")
        page.get_by_role("button", name="Buy 7 at 98.50").tap()
        trader.wait_for_orders(1)
        page.get_by_role("tab", name="Orders").tap()
        page.get_by_role("button", name="Cancel order").tap()
        trader.wait_for_orders(0)


def test_two_fingers_zoom_and_leave_the_aim_alone(venue: Venue) -> None:
    market = venue.open_market("pinch")
    with venue.trader(**PHONE) as trader:
        trader.open_trade_page(market)
        chart = trader.page.locator("#overlay").bounding_box()
        assert chart is not None
        before = trader.state("view")
        fingers(trader, chart, [(0.4, 0.6), (0.3, 0.7), (0.2, 0.8), (0.1, 0.9)])
        after = trader.state("view")
        assert after["high"] - after["low"] < before["high"] - before["low"]
        assert trader.state("aim") is None


def test_a_finger_that_moves_sets_stop_and_limit(venue: Venue) -> None:
    market = venue.open_market("finger")
    with venue.trader(**PHONE) as trader:
        trader.open_trade_page(market)
        chart = trader.page.locator("#overlay").bounding_box()
        assert chart is not None
        trader.page.get_by_label("Buy stop limit").check(force=True)
        fingers(trader, chart, [(0.5,), (0.6,), (0.7,)])
        trader.wait_for(
            "aim",
            lambda aim: aim and aim["price"] > aim["stop"] > 0,
            "a limit to the right of the stop",
        )
        # Not tapped: soon after a finger that moved, Chromium now and then makes no click of a tap.
        trader.page.get_by_role("button", name="Clear").click()
        trader.wait_for("aim", lambda aim: aim is None, "the aim to be cleared")


def fingers(trader: Trader, chart: FloatRect, way: list[tuple[float, ...]]) -> None:
    """Lay fingers on the chart, move and lift them; each is a share of the chart's width."""
    devtools = trader.context.new_cdp_session(trader.page)
    middle = chart["y"] + chart["height"] * 0.5
    for index, places in enumerate(way):
        points = [
            {"x": chart["x"] + share * chart["width"], "y": middle, "id": finger}
            for finger, share in enumerate(places)
        ]
        kind = "touchMove" if index else "touchStart"
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_the_ticket_checks_the_grid_and_a_refusal_says_its_sentence(venue: Venue) -> None:
    market = venue.open_market("grid", tick="0.05")
    with venue.trader() as trader:
        trader.open_trade_page(market)
        page = trader.page
        trader.fill_ticket(10, "99.99")
        page.get_by_role("button", name="Buy", exact=True).click()
        expect(page.locator("#price-error")).to_have_text("The price must be a multiple of 0.05.")

        trader.fill_ticket(1_000_000, "99.95")
        page.get_by_role("button", name="Buy 1,000,000 at 99.95").click()
        expect(page.locator(".toast.error")).to_contain_text("R17")
        assert trader.state("orders") == []
        # The browser itself notes the answer's status, 422.
        assert [error for error in trader.errors if "422" not in error] == []
        trader.errors.clear()


def test_the_view_follows_the_price_but_never_under_a_hand(venue: Venue) -> None:
    market = venue.open_market("view")
    with venue.trader() as trader, venue.trader() as other:
        trader.open_trade_page(market)
        other.open_trade_page(market)
        trader.fill_ticket(10, "104.00")
        trader.page.get_by_role("button", name="Buy 10 at 104.00").click()
        trader.wait_for_orders(1)
        trader.page.hover("#overlay")
        before = trader.state("view")
        other.page.locator("#ticket [value=sell]").check()
        other.fill_ticket(10, "104.00")
        other.page.get_by_role("button", name="Sell 10 at 104.00").click()
        trader.wait_for("last", lambda last: last == "104.00", "the trade")
        held = trader.state("view")
        assert (held["low"], held["high"]) == (before["low"], before["high"])

        trader.page.hover("#book")
        trader.wait_for("view", is_around(1_040_000), "the view to follow")


def is_around(price: int) -> Callable[[dict[str, float]], bool]:
    """Whether a view has the price near its middle."""
    return lambda view: abs((view["low"] + view["high"]) / 2 - price) < 1_000


def test_the_wheel_zooms_the_axis_pans_and_c_comes_back(venue: Venue) -> None:
    market = venue.open_market("zoom")
    with venue.trader() as trader:
        trader.open_trade_page(market)
        start = trader.state("view")
        x = trader.point("100.50", 100)[0]
        trader.page.mouse.wheel(0, -300)
        closer = trader.wait_for("view", lambda view: view["held"], "the zoom")
        assert closer["high"] - closer["low"] < start["high"] - start["low"]
        assert trader.point("100.50", 100)[0] == pytest.approx(
            x, abs=0.5
        )  # it stays under the hand

        box = trader.page.locator("#overlay").bounding_box()
        assert box is not None
        axis = box["y"] + box["height"] - 10
        trader.page.mouse.move(x, axis)
        trader.page.mouse.down()
        trader.page.mouse.move(x - 100, axis, steps=3)
        trader.page.mouse.up()
        assert trader.state("view")["low"] > closer["low"]
        assert trader.state("orders") == []

        trader.page.keyboard.press("c")
        assert trader.state("view") == {**start, "held": False}


def test_orders_are_blocked_while_the_matching_server_is_away_and_live_again_after(
    venue: Venue,
) -> None:
    market = venue.open_market("away")
    with venue.trader() as trader:
        trader.open_trade_page(market)
        trader.fill_ticket(10, "99.00")
        trader.page.get_by_role("button", name="Buy 10 at 99.00").click()
        [order] = trader.wait_for_orders(1)
        trader.wait_for_level("bids", "99.00", 10)

        market.server.kill()
        trader.wait_for_line("stale")
        expect(trader.page.locator("#blocked")).to_be_visible()
        expect(trader.page.locator("#ticket [type=submit]")).to_be_disabled()
        expect(trader.page.locator("#flatten-open")).to_be_disabled()
        trader.click("99.50", 10)
        if trader.page.locator("#arming").is_visible():
            trader.arm()
        expect(trader.page.locator(".toast.error")).to_contain_text("No order was sent")
        trader.page.keyboard.press("f")
        expect(trader.page.locator(".toast.error")).to_have_count(2)
        expect(trader.page.locator("#flatten")).to_be_hidden()

        trader.page.reload()
        trader.wait_for_level("bids", "99.00", 10)
        trader.wait_for_line("stale")
        trader.page.wait_for_timeout(1_500)  # a heartbeat of the web server's own
        assert trader.state("line") == "stale"
        assert "The line is live" not in trader.page.locator("#voice").inner_text()

        market.start()
        trader.wait_for_line("live")
        trader.wait_for_level("bids", "99.00", 10)
        assert [kept["oid"] for kept in trader.wait_for_orders(1)] == [order["oid"]]
        expect(trader.page.locator("#ticket [type=submit]")).to_be_enabled()


def test_without_scripts_the_form_places_an_order_and_the_table_cancels_it(venue: Venue) -> None:
    market = venue.open_market("plain")
    with venue.trader(**DESKTOP, java_script_enabled=False) as trader:
        page = trader.page
        page.goto(f"/default/trade/{market.product}")
        expect(page.locator("#available")).to_have_text("50,000.00")
        trader.fill_ticket(5, "99.25")
        page.get_by_role("button", name="Send order").click()
        expect(page.get_by_role("status")).to_contain_text("Order #1: open")

        def is_listed() -> bool:
            page.goto(f"/default/trade/{market.product}")
            return page.locator("#open-orders").get_by_text("#1", exact=True).is_visible()

        wait_until(is_listed, "the order in the table")
        for width in (1440, 1024, 390):
            page.set_viewport_size({"width": width, "height": 844})
            for button in ("Cancel order 1", "Cancel all"):
                place = page.get_by_role("button", name=button).bounding_box()
                around = page.locator("#orders").bounding_box()
                assert place is not None
                assert around is not None
                right = around["x"] + around["width"]
                assert place["x"] + place["width"] <= right <= width, (width, button)
        page.get_by_role("button", name="Cancel order 1").click()

        def is_gone() -> bool:
            page.goto(f"/default/trade/{market.product}")
            return not page.locator("#open-orders").get_by_text("#1", exact=True).is_visible()

        wait_until(is_gone, "the order's row to go")
