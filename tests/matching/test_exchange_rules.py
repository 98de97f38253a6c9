"""The whole law book at the exchange: what is journaled, who is told what, what a restart keeps."""

from typing import Any

from matching.order import Phase
from tests.matching.trading_floor import Floor, Person


def test_an_amend_is_answered_journaled_with_all_its_values_and_told_to_the_venue() -> None:
    floor = Floor()
    trader, venue = floor.trader(7), floor.venue(orders=True)
    floor.ask(trader, "buy 100@50.25 id=a1")
    venue.take()
    answer = floor.ask(trader, "mod id=a1 80@50.30")
    assert answer["events"] == [
        {"event": "amended", "oid": 1, "quantity": 80, "price": "50.30", "stop": None}
    ]
    assert (answer["oid"], answer["status"], answer["remaining"]) == (1, "open", 80)
    assert _bodies(floor, "mod") == ["[1] 7 mod 80@50.30/0"]
    (told,) = venue.take()
    assert (told["event"]["event"], told["order"]["price"]) == ("amended", "50.30")
    assert floor.query()["bids"] == [["50.30", 80, 1]]
    before = floor.state()
    floor.restart()
    assert floor.state() == before


def test_an_iceberg_shows_its_peak_to_the_market_and_all_of_it_to_its_owner() -> None:
    floor = Floor()
    trader, watcher = floor.trader(7), floor.trader(7, orders=True)
    floor.ask(trader, "sell 100@50.25 peak=10")
    floor.ask(floor.trader(8), "buy 25@50.25")
    assert floor.query()["asks"] == [["50.25", 5, 1]]
    told = [message for message in watcher.take() if message["type"] == "order"]
    assert [message["event"].get("quantity") for message in told] == [None, 10, 10, 5]
    last = told[-1]["order"]
    assert (last["quantity"], last["peak"], last["remaining"]) == (100, 10, 75)
    before = floor.state()
    floor.restart()
    assert floor.state() == before


def test_everybody_is_told_the_rules_in_force_and_nobody_the_exceptions() -> None:
    floor = Floor()
    venue, feed = floor.venue(), floor.exchange.feed
    off = dict.fromkeys(("collar", "band", "breaker", "maker_fee", "taker_fee"), "0")
    off |= {"max_quantity": "1000000", "max_open_orders": "0", "max_position": "0"}
    off |= {"max_notional": "0.00", "max_rate": "0"}
    assert feed.rules == off
    venue.send("set intc collar=5 maker_fee=-0.2")
    venue.send("limit intc * max_notional=100 max_rate=9")
    venue.send("limit intc 7 max_position=3")
    batch = floor.exchange.take_batch()
    assert feed.rules == off  # what is not durable is not shown
    floor.store(batch)
    floor.finish(batch)
    now = off | {"collar": "5", "maker_fee": "-0.2", "max_notional": "100.00", "max_rate": "9"}
    assert batch.changes is not None
    assert (batch.changes.rules, feed.rules, feed.snapshot()["rules"]) == (now, now, now)
    assert floor.query()["rules"] == now
    floor.ask(floor.trader(7), "buy 1@50")
    assert floor.exchange.feed.rules == now
    floor.restart()
    assert floor.exchange.feed.rules == now


def test_rules_that_stay_are_not_told_again() -> None:
    floor = Floor()
    floor.trader(7).send("buy 1@50")
    batch = floor.exchange.take_batch()
    assert batch.changes is not None
    assert batch.changes.rules is None


def test_an_auction_publishes_its_indicative_price_until_it_uncrosses() -> None:
    floor = Floor(phase=Phase.AUCTION)
    buyer, seller, venue = floor.trader(1), floor.trader(2, orders=True), floor.venue()
    assert floor.exchange.feed.indicative is None
    floor.ask(buyer, "buy 30@102")
    floor.ask(seller, "sell 20@98")
    assert floor.exchange.feed.indicative == {"price": "102.00", "volume": 20, "surplus": 10}
    assert floor.query()["bids"] == [["102.00", 30, 1]]
    floor.restart()
    assert floor.exchange.feed.indicative == {"price": "102.00", "volume": 20, "surplus": 10}
    seller, venue = floor.trader(2, orders=True), floor.venue()
    answer = floor.ask(venue, "phase intc continuous")
    assert [event["event"] for event in answer["events"]] == ["phase", "trade"]
    assert answer["events"][1]["taker"] == "none"
    feed = floor.exchange.feed
    assert (feed.indicative, feed.phase, feed.trades[-1]["taker"]) == (None, "continuous", "none")
    (told,) = [message for message in seller.take() if message["type"] == "order"]
    assert (told["event"]["price"], told["order"]["status"]) == ("102.00", "filled")


def test_settings_and_limits_are_journaled_and_hold_after_a_restart() -> None:
    floor = Floor()
    venue = floor.venue()
    answer = floor.ask(venue, "set intc collar=5 maker_fee=-0.2")
    assert answer["events"] == [
        {"event": "set", "name": "collar", "value": "5"},
        {"event": "set", "name": "maker_fee", "value": "-0.2"},
    ]
    floor.ask(venue, "limit intc 7 max_open_orders=1")
    assert _bodies(floor, "set") == ["[0] 0 set collar=5 maker_fee=-0.2"]
    assert _bodies(floor, "limit") == ["[0] 0 limit 7 max_open_orders=1"]
    floor.restart()
    trader = floor.trader(7)
    floor.ask(trader, "sell 1@50")
    assert _code(floor, trader, "sell 1@52.51") == "max_open_orders"
    assert floor.ask(floor.trader(8), "sell 1@52.51")["events"] == [{"event": "accepted", "oid": 2}]
    swept = floor.ask(floor.trader(9), "buy 2")
    assert [event.get("reason") for event in swept["events"]] == [None, None, "collar"]


def test_the_venue_alone_may_set_and_limit() -> None:
    floor = Floor()
    trader = floor.trader(7)
    for text in ("set intc collar=5", "limit intc * max_rate=1", "phase intc auction"):
        assert _code(floor, trader, text) == "venue_only"
    assert _code(floor, floor.venue(), "set intc collar=5.001") == "invalid_setting"
    assert _code(floor, floor.venue(), "limit intc * max_rate=0.5") == "invalid_setting"
    assert floor.state()["phase"] == "continuous"


def test_a_breaker_that_halts_is_told_in_the_feed_and_kept_by_the_journal() -> None:
    floor = Floor()
    floor.ask(floor.venue(), "set intc breaker=1")
    floor.ask(floor.trader(1), "sell 5@100")
    floor.ask(floor.trader(1), "sell 5@101.01")
    answer = floor.ask(floor.trader(2), "buy 7@102")
    assert [event["event"] for event in answer["events"]] == [
        *("accepted", "trade", "canceled", "phase"),
    ]
    assert (answer["status"], answer["filled"], answer["remaining"]) == ("canceled", 5, 0)
    assert floor.exchange.feed.phase is Phase.HALTED
    assert _bodies(floor, "phase") == ["phase halted"]
    floor.restart()
    assert floor.exchange.feed.phase is Phase.HALTED
    assert _code(floor, floor.trader(2), "buy 1@100") == "market_halted"


def _bodies(floor: Floor, word: str) -> list[str]:
    """The journal's lines with this word, without time and ending."""
    bodies = [line.partition(": ")[2].partition(" s=")[0] for line in floor.journal_lines()]
    return [body for body in bodies if word in body.split()]


def _code(floor: Floor, person: Person, text: str) -> Any:
    return floor.ask(person, text)["error"]["code"]
