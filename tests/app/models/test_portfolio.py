"""Portfolio: what ties cash up (R17), and the page that says what became of the trades."""

import itertools
import math
import random
from collections.abc import Callable

import pytest

from app.models import portfolio
from app.models.db import DAL, execute, insert, rows, transaction
from app.models.portfolio import Cash, OpenOrder, Position, TradeRow, Working
from app.models.products import Product
from matching.order import Side
from tests.app.models.intc import PRODUCT, terms
from tests.database import add_user, only_sqlite

BUY, SELL = Side.BUY, Side.SELL


def _follow(
    db: DAL, ticker: str = "intc", *, lineage: str = "a", seq: int = 0, fee: int = 0
) -> None:
    insert(db, "log_position", ticker=ticker, lineage=lineage, seq=seq, h="", taker_fee=fee)


def _order(db: DAL, owner: int, text: str, **fields: object) -> None:
    """`buy 10@5/0 open` or `sell 10@5/6 pending_stop`, of intc, lineage a, with so much filled."""
    order, _, status = text.rpartition(" ")
    side, quantity, price, stop = terms(order)
    row: dict[str, object] = {
        "ticker": "intc",
        "lineage": "a",
        "oid": len(rows(db, "SELECT id FROM buy_sell_order")) + 1,
        "created_by": owner,
        "buy_sell": str(side),
        "quantity": quantity,
        "price": price,
        "stop_price": stop,
        "status": status,
        "tif": "gtc",
        "stp": "taker",
    }
    insert(db, "buy_sell_order", **(row | fields))


@pytest.mark.parametrize(
    ("held", "working", "expected"),
    [
        # shares, cost      side, quantity, price …       buys, short orders, short positions
        ((0, 0), [], (0, 0, 0)),
        ((0, 0), [(BUY, 10, 5), (BUY, 2, 7)], (64, 0, 0)),
        ((10, 50), [(SELL, 10, 6)], (0, 0, 0)),
        ((10, 50), [(SELL, 12, 6)], (0, 12, 0)),
        ((0, 0), [(SELL, 12, 6)], (0, 72, 0)),
        ((10, 50), [(SELL, 8, 6), (SELL, 8, 6)], (0, 36, 0)),
        # The shares held cover the cheaper sell, whichever came first.
        ((10, 50), [(SELL, 10, 9), (SELL, 10, 6)], (0, 90, 0)),
        ((10, 50), [(SELL, 10, 6), (SELL, 10, 9)], (0, 90, 0)),
        # A short position: the proceeds, and as much again; more sells come on top.
        ((-10, 70), [], (0, 0, 140)),
        ((-10, 70), [(SELL, 5, 6)], (0, 30, 140)),
        ((-10, 70), [(BUY, 5, 6)], (30, 0, 140)),
    ],
)
def test_what_an_order_ties_up(
    held: tuple[int, int], working: list[tuple[Side, int, int]], expected: tuple[int, int, int]
) -> None:
    position = Position("intc", shares=held[0], cost=held[1], cash=0)
    orders = [Working("intc", side, quantity, price) for side, quantity, price in working]
    assert portfolio.tied_up({"intc": position}, orders, {}) == expected


def test_of_what_amends_on_their_way_may_come_to_the_dearest_counts() -> None:
    buy, sell = Working("intc", BUY, 10, 5), Working("intc", SELL, 10, 50)
    held = {"intc": Position("intc", shares=4, cost=4, cash=-4)}
    assert portfolio.tied_up(held, [buy.amend(4, 6).amend(6, 9)], {}) == (54, 0, 0)
    assert portfolio.tied_up({}, [sell.amend(5, 60)], {}) == (0, 500, 0)
    assert portfolio.tied_up(held, [sell.amend(10, 60)], {}) == (0, 360, 0)
    filled = Working("intc", BUY, 3, 5, filled=7)
    assert portfolio.tied_up({}, [filled.amend(20, 5)], {}) == (65, 0, 0), "20 in all, 13 open"
    assert portfolio.tied_up({}, [filled.amend(6, 9)], {}) == (15, 0, 0), "its end"


def test_amends_of_many_sells_count_as_no_combination_of_them_exceeds() -> None:
    dice = random.Random(17)
    for _ in range(300):
        held = {"intc": Position("intc", shares=dice.randrange(12), cost=0, cash=0)}
        sells = []
        for _ in range(dice.randrange(1, 9)):
            sell = Working("intc", SELL, dice.randrange(1, 9), dice.randrange(1, 9))
            for _ in range(dice.randrange(3)):
                sell = sell.amend(dice.randrange(9), dice.randrange(1, 9))
            sells.append(sell)
        possible = [((sell.quantity, sell.price), *sell.amended) for sell in sells]
        dearest = max(
            portfolio.tied_up(held, [Working("intc", SELL, *terms) for terms in combination], {})[1]
            for combination in itertools.product(*possible)
        )
        counted = portfolio.tied_up(held, sells, {})[1]
        tried = math.prod(len(sell.outcomes) for sell in sells) <= portfolio.MOST_COMBINATIONS
        assert counted == dearest if tried else counted >= dearest


def test_shares_of_one_product_do_not_cover_sells_of_another() -> None:
    held = {"gs": Position("gs", shares=10, cost=50, cash=0)}
    assert portfolio.tied_up(held, [Working("intc", SELL, 5, 6)], {}) == (0, 30, 0)


@pytest.mark.parametrize(
    ("rate", "fee"), [(0, 0), (10**6, 10), (-(10**6), 0), (40_000, 0), (50_000, 1)]
)
def test_a_buy_reserves_the_taker_fee_only_if_it_is_positive(rate: int, fee: int) -> None:
    buys, _, _ = portfolio.tied_up({}, [Working("intc", BUY, 10, 100)], {"intc": rate})
    assert buys == 1000 + fee


def test_cash_says_what_ties_it_up(db: DAL) -> None:
    user = add_user(db, "alice", cash="1000")
    other = add_user(db, "bob", cash="5")
    with transaction(db, write=True):
        _follow(db)
        _follow(db, "gs", lineage="b")
        _order(db, user.id, "buy 10@5 partially_filled", filled=4)
        _order(db, user.id, "buy 3@0/10 pending_stop")  # its stop and 5 %
        _order(db, user.id, "buy 2@9/10 pending_stop")
        _order(db, user.id, "buy 99@9 filled", filled=99)
        _order(db, user.id, "buy 99@9 canceled")
        _order(db, user.id, "sell 7@8 open")
        _order(db, user.id, "sell 7@0/7 pending_stop")
        _order(db, user.id, "sell 2@1/9 pending_stop")  # brings in 9 when its stop is reached
        _order(db, user.id, "sell 1@6/9 open")  # it was, and now rests at its limit
        _order(db, other.id, "buy 99@9 open")
        insert(db, "position", ticker="intc", lineage="a", owner=user.id, shares=10, cost=1)
        insert(db, "position", ticker="gs", lineage="b", owner=user.id, shares=-2, cost=300_000)
    with transaction(db):
        cash = portfolio.cash(db, user.id)
    assert cash == Cash(
        actual=10_000_000,
        open_buys=6 * 50_000 + 3 * 105_000 + 2 * 90_000,
        short_orders=5 * 80_000 + 2 * 90_000,
        short_positions=2 * 300_000,
        intents=0,
    )
    assert cash.available == 10_000_000 - 795_000 - 580_000 - 600_000


def test_an_owner_without_an_account_has_no_cash_and_no_error(db: DAL) -> None:
    with transaction(db):
        assert portfolio.cash(db, 77) == Cash(0, 0, 0, 0, 0)
        assert portfolio.position(db, 77, "intc") == Position("intc", 0, 0, 0)


def test_what_belongs_to_a_closed_journal_ties_nothing_up(db: DAL) -> None:
    user = add_user(db, "alice", cash="10")
    with transaction(db, write=True):
        insert(db, "log_position", ticker="intc", lineage="a", h="", closed=True)
        _follow(db, lineage="b", seq=3)
        _order(db, user.id, "buy 1@5 open")
        insert(db, "position", ticker="intc", lineage="a", owner=user.id, shares=-5, cost=9)
    with transaction(db):
        assert portfolio.cash(db, user.id).available == 100_000
        assert portfolio.positions(db, user.id) == []
        assert portfolio.open_orders(db, user.id) == []
        assert portfolio.as_of(db, "intc") == 3


def test_open_orders_are_the_owners_that_still_work(db: DAL) -> None:
    with transaction(db, write=True):
        _follow(db)
        _follow(db, "gs", lineage="b")
        terms = {"tif": "day", "post": "T", "peak": 2}
        _order(db, 7, "sell 10@5 partially_filled", filled=4, client_id="a1", created_on=9, **terms)
        _order(db, 7, "sell 10@5 filled", filled=10)
        _order(db, 8, "sell 10@5 open")
        _order(db, 7, "buy 1@0/6 pending_stop", ticker="gs", lineage="b")
    with transaction(db):
        found = portfolio.open_orders(db, 7)
        assert portfolio.open_orders(db, 7, "intc") == found[1:]
    assert found == [
        OpenOrder("gs", 4, "", "buy", 1, 0, 0, 60_000, "gtc", 0, "pending_stop", 0, False),
        OpenOrder("intc", 1, "a1", "sell", 10, 4, 50_000, 0, "day", 2, "partially_filled", 9, True),
    ]


def _match(db: DAL, seq: int, buyer: int, seller: int, quantity: int, price: int) -> None:
    fields = {"buy_oid": 1, "sell_oid": 2, "taker": "buy", "match_time": 1000 + seq, "tid": seq}
    parties = {"buyer": buyer, "seller": seller, "quantity": quantity, "price": price}
    insert(db, "match", ticker="intc", lineage="a", seq=seq, **fields, **parties)


def test_the_pandl_page_lists_the_owners_trades_with_shares_and_balance_after_each(
    db: DAL,
) -> None:
    user = add_user(db, "alice", cash="1000")
    with transaction(db, write=True):
        _follow(db, seq=50)
        _match(db, 3, user.id, 9, 10, 100)
        _match(db, 4, 8, 9, 99, 1)
        _match(db, 5, 9, user.id, 4, 120)
        _match(db, 6, user.id, user.id, 5, 110)  # with himself: nothing moves
        _match(db, 7, 9, user.id, 8, 130)
        cash = -1000 + 480 + 1040
        insert(
            db,
            "position",
            ticker="intc",
            lineage="a",
            owner=user.id,
            shares=-2,
            cost=260,
            cash=cash,
        )
    with transaction(db):
        page = portfolio.pandl(db, user.id, PRODUCT, last=125)
        newest = portfolio.pandl(db, user.id, PRODUCT, last=125, limit=2)
    assert page.rows == [
        TradeRow(1003, 10, 0, 100, 10, -1000),
        TradeRow(1005, 0, 4, 120, 6, -520),
        TradeRow(1006, 5, 5, 110, 6, -520),
        TradeRow(1007, 0, 8, 130, -2, 520),
    ]
    assert newest.rows == page.rows[2:], "the newest are listed, with the same shares and balance"
    assert page.now == TradeRow(None, 2, 0, 125, 0, 520 - 250)
    assert (page.as_of, page.shares, page.amount_spent) == (50, -2, -520)
    assert (page.realised, page.unrealised) == (260, 10)
    assert page.equity == page.cash.actual - 250
    assert page.cash.short_positions == 520


def test_the_balances_of_the_pandl_page_have_the_fees_in_them(db: DAL) -> None:
    user = add_user(db, "alice", cash="1000")
    with transaction(db, write=True):
        _follow(db, seq=50)
        for seq, buyer, seller in ((3, user.id, 9), (4, 9, user.id), (5, user.id, user.id)):
            _match(db, seq, buyer, seller, 10, 100)
        execute(db, 'UPDATE "match" SET buyer_fee = 7, seller_fee = -2')
        key = {"ticker": "intc", "lineage": "a", "owner": user.id}
        insert(db, "position", **key, shares=0, cost=0, cash=-1000 - 7 + 1000 + 2 - 7 + 2)
    with transaction(db):
        page = portfolio.pandl(db, user.id, PRODUCT, last=100)
    assert [row.balance for row in page.rows] == [-1007, -5, -10]
    assert page.realised == -10


def test_equity_counts_other_products_at_their_last_trade(db: DAL) -> None:
    user = add_user(db, "alice", cash="1")
    with transaction(db, write=True):
        _follow(db)
        _follow(db, "gs", lineage="b")
        _match(db, 3, 8, 9, 1, 70)
        _match(db, 4, 8, 9, 1, 80)
        insert(db, "position", ticker="intc", lineage="a", owner=user.id, shares=5, cost=1)
        insert(db, "position", ticker="gs", lineage="b", owner=user.id, shares=3, cost=1)
    with transaction(db):
        gs = Product(**{f: getattr(PRODUCT, f) for f in PRODUCT.__struct_fields__} | {"name": "gs"})
        assert portfolio.pandl(db, user.id, gs, last=10).equity == 10_000 + 3 * 10 + 5 * 80


def test_an_account_is_cash_and_every_product_at_its_last_price(db: DAL) -> None:
    user = add_user(db, "alice", cash="1")
    with transaction(db, write=True):
        for ticker, lineage, seq in (("intc", "a", 50), ("gs", "b", 60), ("none", "c", 70)):
            _follow(db, ticker, lineage=lineage, seq=seq)
        _match(db, 3, 8, 9, 1, 80)
        key = {"lineage": "a", "owner": user.id}
        insert(db, "position", ticker="intc", **key, shares=3, cost=200, cash=-150)
        key["lineage"] = "b"
        insert(db, "position", ticker="gs", **key, shares=-2, cost=101, cash=101)
    with transaction(db):
        account = portfolio.account(db, user.id, {"gs": 60})
        nobody = portfolio.account(db, 77, {"gs": 60})
    shown = [
        (h.ticker, h.average_price, h.last, h.value, h.realised, h.unrealised, h.profit, h.as_of)
        for h in account.holdings
    ]
    assert shown == [
        ("gs", 51, 60, -120, 0, -19, -19, 60),
        ("intc", 67, 80, 240, 50, 40, 90, 50),
    ]
    assert account.cash == Cash(10_000, 0, 0, 202, 0)
    assert account.equity == 10_000 - 120 + 240
    assert (account.value, account.realised, account.unrealised) == (120, 50, 21)
    assert (nobody.holdings, nobody.equity) == ([], 0)


def test_who_sold_everything_has_a_profit_and_no_average_price() -> None:
    holding = portfolio.Holding(Position("intc", shares=0, cost=0, cash=70), last=80, as_of=1)
    assert holding.average_price is None
    assert (holding.value, holding.realised, holding.unrealised) == (0, 70, 0)


def test_before_the_first_trade_the_page_is_empty_and_adds_up(db: DAL) -> None:
    user = add_user(db, "alice", cash="1")
    with transaction(db):
        page = portfolio.pandl(db, user.id, PRODUCT, last=125)
    assert page.rows == []
    assert page.now == TradeRow(None, 0, 0, 125, 0, 0)
    assert (page.as_of, page.realised, page.unrealised, page.equity) == (0, 0, 0, 10_000)


@only_sqlite
@pytest.mark.parametrize(
    ("question", "index"),
    [
        (
            lambda db: portfolio.working_orders(db, 7),
            {"order_working", "order_client", "amend_owner"},
        ),
        (lambda db: portfolio.positions(db, 7), {"position_of"}),
        (lambda db: portfolio.pandl(db, 7, PRODUCT, last=1), {"match_buyer", "match_seller"}),
        (lambda db: portfolio.last_price(db, "intc"), {"match_seq"}),
    ],
)
def test_what_a_trader_asks_for_is_found_by_an_index(
    db: DAL,
    monkeypatch: pytest.MonkeyPatch,
    question: Callable[[DAL], object],
    index: set[str],
) -> None:
    plans: list[str] = []

    def explain(database: DAL, sql: str, *values: object) -> list[tuple[object, ...]]:
        plans.extend(row[3] for row in rows(database, f"EXPLAIN QUERY PLAN {sql}", *values))
        return rows(database, sql, *values)

    monkeypatch.setattr(portfolio, "rows", explain)
    with transaction(db):
        question(db)
    text = "\n".join(plans)
    assert all(name in text for name in index), text
    assert "SCAN o" not in text
    assert "SCAN m" not in text
    assert "SCAN p" not in text
