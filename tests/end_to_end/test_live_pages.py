"""The pages beside the trade page, in a browser: what keeps current, and what helps to fill in."""

import re

from playwright.sync_api import expect

from tests.end_to_end.venue import Venue, send_form

GREENS = """canvas => {
    const { width, height } = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, width, height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
        if (data[i + 1] > 100 && data[i] < 90 && data[i + 2] < 160) count += 1;
    }
    return count;
}"""
"""How many pixels of a canvas are green, as buys are."""


def test_a_trade_comes_to_the_profit_and_loss_page_without_a_reload(venue: Venue) -> None:
    market = venue.open_market("gain")
    with venue.trader() as seller, venue.trader() as buyer:
        buyer.page.goto(f"/default/pandl/{market.product}")
        expect(buyer.page.get_by_text("No trades in gain yet.")).to_be_visible()
        expect(buyer.page.get_by_text("Your first trade in gain begins the curve.")).to_be_visible()
        height = "document.getElementById('chart').clientHeight"
        height_before = buyer.page.evaluate(height)
        buyer.page.evaluate("window.stays = true")
        for trader, side in ((seller, "sell"), (buyer, "buy")):
            form = {"product": market.product, "type": side, "quantity": 60, "price": "101"}
            send_form(trader.context, "/default/order", form)
        rows = buyer.page.locator("#trades [data-rows] tr")
        expect(rows.first).to_contain_text("−6,060.00")
        expect(rows).to_have_count(1)
        expect(buyer.page.locator("#trades [data-now]")).to_contain_text("101.00")
        expect(buyer.page.locator("[data-money=actual_cash]")).to_have_text("43,940.00")
        chart = buyer.page.get_by_role("img", name="Profits/loss over time")
        expect(chart).to_be_visible()
        expect(chart).to_have_accessible_description(re.compile("from 0.00 to 0.00, lowest 0.00"))
        expect(chart.locator(".line")).to_have_attribute("d", re.compile("H1000$"))
        expect(buyer.page.locator("#chart .times span")).to_have_count(3)
        assert buyer.page.evaluate(height) == height_before, "what is below has moved"
        assert buyer.page.evaluate("window.stays"), "the page was loaded again"


def test_the_front_page_and_the_list_keep_current(venue: Venue) -> None:
    market = venue.open_market("live")
    with venue.visitor() as stranger, venue.trader() as trader:
        stranger.page.goto("/")
        trader.page.goto("/default/products")
        tile = stranger.page.locator(f'[data-product="{market.product}"]')
        row = trader.page.locator(f'[data-product="{market.product}"]')
        expect(tile.locator("[data-cell=change]")).to_have_text("–")
        expect(row.locator("[data-cell=last]")).to_have_text("–")
        page = trader.context.new_page()
        page.goto(f"/default/trade/{market.product}")
        token = page.locator("input[name=_xsrf]").first.input_value()
        for side in ("sell", "buy"):
            form = {"product": market.product, "type": side, "quantity": 5, "price": "103.50"}
            form |= {"stp": "none", "_xsrf": token}
            assert page.request.post("/default/order", form=form).ok
        expect(tile.locator("[data-cell=last]")).to_have_text("103.50")
        expect(tile.locator("[data-cell=change]")).to_have_text("▲ +3.50%")
        expect(row.locator("[data-cell=last]")).to_have_text("103.50")
        expect(row.locator("[data-cell=volume]")).to_have_text("5")


def test_the_mini_market_draws_the_busiest_market(venue: Venue) -> None:
    market = venue.open_market("busy")
    with venue.visitor() as stranger, venue.trader() as trader:
        trader.open_trade_page(market)
        for side in ("sell", "buy"):
            form = {"product": market.product, "type": side, "quantity": 200, "price": "100"}
            send_form(trader.context, "/default/order", {**form, "stp": "none"})
        expect(trader.page.locator("#last")).to_have_text("100.00")
        stranger.page.goto("/")
        canvas = stranger.page.locator("#mini")
        expect(stranger.page.locator("#mini-ticker")).to_have_text("busy")
        expect(stranger.page.locator("#mini-state")).to_have_text("live")
        assert canvas.evaluate(GREENS) == 0
        trader.fill_ticket(100, "99")
        trader.page.locator("#ticket button[type=submit]").click()
        trader.wait_for_level("bids", "99.00", 100)
        stranger.page.wait_for_function(f"({GREENS})(document.getElementById('mini')) > 100")


def test_the_list_is_searched_with_a_slash(venue: Venue) -> None:
    for ticker in ("find", "lose"):
        venue.open_market(ticker)
    with venue.trader() as trader:
        page = trader.page
        page.goto("/default/products")
        page.keyboard.press("/")
        expect(page.get_by_label("Search products")).to_be_focused()
        page.keyboard.type("FIN")
        expect(page.get_by_role("rowheader", name="find")).to_be_visible()
        expect(page.get_by_role("rowheader", name="lose")).to_be_hidden()
        page.get_by_label("Search products").fill("")
        expect(page.get_by_role("rowheader", name="lose")).to_be_visible()


def test_one_port_fills_three_addresses_but_not_those_that_were_typed(venue: Venue) -> None:
    with venue.trader(manager=True) as manager:
        page = manager.page
        page.goto("/default/products")
        page.get_by_label("Ws Url").fill("ws://10.0.0.5:7000/realtime")
        page.get_by_label("Port").press_sequentially("8881")
        expect(page.get_by_label("Post Url")).to_have_value("http://127.0.0.1:8881/")
        expect(page.get_by_label("Quote Url")).to_have_value("http://127.0.0.1:8881/quote")
        expect(page.get_by_label("Ws Url")).to_have_value("ws://10.0.0.5:7000/realtime")
        page.get_by_label("Port").fill("8882")
        expect(page.get_by_label("Post Url")).to_have_value("http://127.0.0.1:8882/")

        # A mistake that came back from the server is mended in one place, too.
        for field, text in (
            ("Name", "port"),
            ("Unit price", "5"),
            ("Ws Url", ""),
            ("Port", "99999"),
        ):
            page.get_by_label(field).fill(text)
        page.get_by_role("button", name="Register").click()
        expect(page.get_by_text("A port is a number from 1 to 65535")).to_be_visible()
        page.wait_for_load_state()  # with its scripts
        page.get_by_label("Port").fill("8883")
        for field in ("Post Url", "Quote Url", "Ws Url"):
            expect(page.get_by_label(field)).to_have_value(re.compile(":8883/"))
        page.get_by_role("button", name="Register").click()
        expect(page.get_by_text("port is registered. Its matching server")).to_be_visible()
        manager.errors.clear()  # the browser itself notes the answer's status, 400


def test_the_line_that_starts_a_matching_server_is_copied(venue: Venue) -> None:
    market = venue.open_market("copy")
    with venue.trader(manager=True) as manager:
        page = manager.page
        manager.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.goto(f"/default/edit_product/{market.product}")
        line = page.locator(".copyable code").first.inner_text()
        assert line.startswith("python matchingserver.py -p ")
        page.get_by_role("button", name="Copy").first.click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == line
