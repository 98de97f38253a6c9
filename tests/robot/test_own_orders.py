"""A strategy's own orders, as the messages of a server change them."""

from typing import Any

import pytest
from msgspec.structs import replace

from matching.order import Cancel, CancelReason, NewOrder, Side, Status
from robot.own_orders import Message, News, OrderNews, OwnOrders
from robot.strategy import Reject, What


def _own(owner: int = 7) -> OwnOrders:
    return OwnOrders(owner=owner, id_prefix="bot-")


def _buy(quantity: int = 100, *, stop: int = 0, name: str = "bot-1") -> NewOrder:
    return NewOrder(
        ticker="intc",
        owner=7,
        side=Side.BUY,
        quantity=quantity,
        price=500_000,
        stop=stop,
        client_id=name,
    )


def _answer(oid: int, *events: Message, seq: int = 10) -> Message:
    return {"seq": seq, "oid": oid, "events": [{"event": "accepted", "oid": oid}, *events]}


def _trade(quantity: int, *, buy: int, sell: int) -> Message:
    event = {"event": "trade", "tid": 1, "price": "50.25", "quantity": quantity}
    return {**event, "buy": buy, "sell": sell, "taker": "buy"}


def _wire(oid: int, *, name: str | None = "bot-1", filled: int = 0, **fields: Any) -> Message:
    order = {"oid": oid, "id": name, "side": "buy", "price": "50.00", "stop": None}
    rest = {"quantity": 100, "filled": filled, "remaining": 100 - filled, "status": "open"}
    return {**order, **rest, **fields}


def _told(order: Message, event: Message, seq: int = 20) -> Message:
    return {"type": "order", "seq": seq, "event": event, "order": order}


def _whats(news: list[News]) -> list[tuple[int, str]]:
    return [
        (each.order.oid, each.change.what.value) for each in news if isinstance(each, OrderNews)
    ]


def test_an_answer_tells_each_event_with_the_order_as_it_then_stood() -> None:
    own = _own()
    events = (_trade(60, buy=5, sell=3), _trade(40, buy=5, sell=4))
    news = own.answered(_buy(), _answer(5, *events))
    stood = [
        (each.change.what, each.order.filled, each.order.remaining, each.order.status)
        for each in news
        if isinstance(each, OrderNews)
    ]
    assert stood == [
        (What.ACCEPTED, 0, 100, Status.OPEN),
        (What.TRADE, 60, 40, Status.PARTIALLY_FILLED),
        (What.TRADE, 100, 0, Status.FILLED),
    ]
    assert isinstance(news[1], OrderNews)
    assert (news[1].change.price, news[1].change.quantity) == (502_500, 60)
    assert own.orders == {}
    assert own.position == 100


def test_a_stop_waits_until_it_is_triggered() -> None:
    own = _own()
    own.answered(_buy(stop=510_000), _answer(5))
    assert own.orders[5].status is Status.PENDING_STOP
    own.told(_told(_wire(5, stop="51.00"), {"event": "triggered", "oid": 5}))
    assert own.orders[5].status is Status.OPEN


def test_a_cancel_ends_the_order_with_its_reason() -> None:
    own = _own()
    own.answered(_buy(), _answer(5))
    event = {"event": "canceled", "oid": 5, "quantity": 100, "reason": "user"}
    cancel = Cancel(ticker="intc", owner=7, oid=5)
    (news,) = own.answered(cancel, {"seq": 11, "oid": 5, "events": [event]})
    assert isinstance(news, OrderNews)
    assert (news.order.status, news.change.reason) == (Status.CANCELED, CancelReason.USER)
    assert own.orders == {}


def test_a_refusal_is_told_with_its_command_and_changes_nothing() -> None:
    own = _own()
    error = {"code": "bad_tick", "rule": "", "message": "50.001 is not a multiple of 0.01"}
    assert own.answered(_buy(), {"error": error}) == [
        Reject(_buy(), "bad_tick", "50.001 is not a multiple of 0.01")
    ]
    assert own.orders == {}


@pytest.mark.parametrize("owner", [7, 0])
def test_fills_by_others_count_in_the_position(owner: int) -> None:
    own = _own(owner)
    own.answered(_buy(), _answer(5))
    order = _wire(5, filled=30)
    assert _whats(own.told(_told(order, _trade(30, buy=5, sell=9)))) == [(5, "trade")]
    assert own.position == 30
    assert own.orders[5].remaining == 70


@pytest.mark.parametrize(("owner", "position"), [(7, 30), (0, 0)])
def test_what_the_owner_trades_elsewhere_counts_for_an_owner_with_an_account(
    owner: int, position: int
) -> None:
    own = _own(owner)
    order = _wire(5, name="web-1", filled=30)
    assert own.told(_told(order, _trade(30, buy=5, sell=9))) == []
    assert own.position == position
    assert own.orders == {}


def test_both_sides_of_a_trade_with_oneself_are_told() -> None:
    own = _own(0)
    own.answered(replace(_buy(), side=Side.SELL), _answer(4))
    news = own.answered(_buy(), _answer(5, _trade(100, buy=5, sell=4)))
    assert _whats(news) == [(5, "accepted"), (5, "trade"), (4, "trade")]
    assert own.position == 0


def _open(*orders: Message, position: int = 0, seq: int = 30) -> Message:
    return {"type": "orders", "seq": seq, "orders": list(orders), "position": position}


@pytest.mark.parametrize(("owner", "position"), [(7, 500), (0, 60)])
def test_after_an_outage_it_goes_on_with_what_the_server_has(owner: int, position: int) -> None:
    own = _own(owner)
    for oid in (5, 6, 7, 8):
        own.answered(_buy(name=f"bot-{oid}"), _answer(oid))
    message = _open(
        _wire(5, name="bot-5"),  # as it was
        _wire(6, name="bot-6", filled=20),  # filled meanwhile
        _wire(9, name="web-9"),  # not ours
        position=500,
    )
    assert own.missing(message) == [7, 8]
    ended = _wire(7, name="bot-7", filled=40, remaining=0, status="canceled")
    news = own.resume(message, [ended])  # of 8 the server knows nothing any more
    assert sorted(_whats(news)) == [(6, "recovered"), (7, "recovered"), (8, "recovered")]
    assert set(own.orders) == {5, 6}
    assert own.position == position


def test_what_the_open_orders_hold_already_is_not_counted_again() -> None:
    own = _own()
    own.resume(_open(_wire(5, filled=30), position=30, seq=30), [])
    trade = _trade(30, buy=5, sell=9)
    assert own.told(_told(_wire(5, filled=30), trade, seq=30)) == []
    own.told(_told(_wire(5, filled=60), trade, seq=31))
    assert own.position == 60


def test_a_new_market_has_none_of_the_old_orders() -> None:
    own = _own()
    own.answered(_buy(), _answer(5, _trade(40, buy=5, sell=3)))
    (news,) = own.forget()
    assert isinstance(news, OrderNews)
    assert (news.order.status, news.order.is_open) == (Status.CANCELED, False)
    assert (own.orders, own.position) == ({}, 0)
