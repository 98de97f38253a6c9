"""Order intents: what R17 lets through, what it takes, and what becomes of an unanswered one."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from app.models import intents, portfolio
from app.models.db import DAL, close, execute, insert, open_database, rows, transaction
from app.models.intents import Intent, Refused, Request, State
from app.models.products import Product
from matching.config import Var
from matching.order import Side, TimeInForce, format_price, parse_price
from tests.app.models.intc import PRODUCT, levels, terms
from tests.database import add_user, command, only_postgres, uri_of
from tests.waiting import wait_until

TS = 1_700_000_000_000
SENT = TS * 1000


def _request(text: str, client_id: str = "web-1", **options: object) -> Request:
    """`buy 100@50.25/49.90`, as the order form would have it."""
    side, quantity, price, stop = terms(text)
    return Request(
        side=side,
        quantity=quantity,
        price=price,
        stop=stop,
        client_id=client_id,
        **options,  # type: ignore[arg-type]
    )


def _reserve(
    db: DAL,
    owner: int,
    request: Request,
    *,
    bids: str = "",
    asks: str = "",
    last: str = "100",
    product: Product = PRODUCT,
    ts: int = TS,
) -> Intent:
    with transaction(db, write=True):
        return intents.reserve(
            db,
            owner,
            product,
            request,
            bids=levels(bids),
            asks=levels(asks),
            last=parse_price(last),
            ts=ts,
            at=SENT,
        )


def _available(db: DAL, owner: int) -> str:
    with transaction(db):
        return format_price(portfolio.cash(db, owner).available)


def _hold(db: DAL, owner: int, shares: int, cost: str) -> None:
    with transaction(db, write=True):
        insert(
            db,
            "position",
            ticker="intc",
            lineage="a",
            owner=owner,
            shares=shares,
            cost=parse_price(cost),
        )


def _journal(db: DAL, owner: int, client_id: str, *, oid: int = 1, status: str = "open") -> None:
    """log2db has written the order's row."""
    with transaction(db, write=True):
        insert(
            db,
            "buy_sell_order",
            ticker="intc",
            lineage="a",
            oid=oid,
            created_by=owner,
            client_id=client_id,
            buy_sell="buy",
            quantity=2,
            price=parse_price("50"),
            status=status,
            tif="gtc",
            stp="taker",
        )


def test_a_buy_reserves_quantity_times_limit(db: DAL, alice: int) -> None:
    intent = _reserve(db, alice, _request("buy 4@50.25"))
    assert intent.fresh
    assert intent.state is State.RESERVED
    assert format_price(intent.reserved) == "201.00"
    assert (intent.command.price, intent.command.tif) == (502_500, TimeInForce.GTC)
    assert (intent.command.ts, intent.command.client_id) == (TS, "web-1")
    assert _available(db, alice) == "799.00"
    with transaction(db):
        assert portfolio.cash(db, alice).intents == intent.reserved


@pytest.mark.parametrize(
    ("text", "last_affordable"),
    [("buy 10@100", True), ("buy 10@100.0001", False), ("buy 11@100", False)],
)
def test_an_order_may_take_all_that_is_available_and_no_ten_thousandth_more(
    db: DAL, alice: int, text: str, last_affordable: bool
) -> None:
    if last_affordable:
        assert _reserve(db, alice, _request(text)).fresh
        return
    with pytest.raises(Refused) as refused:
        _reserve(db, alice, _request(text))
    assert (refused.value.code, refused.value.rule) == ("insufficient_cash", "R17")
    assert "; 1,000.00 is available" in str(refused.value)
    assert _available(db, alice) == "1000.00"
    with transaction(db):
        assert intents.get(db, alice, "intc", "web-1") is None


@pytest.mark.parametrize(
    ("text", "asks", "sent"),
    [
        # The shown book's cost and 5 %, a share, down to the tick.
        ("buy 2", "5@100", "2@105.00/0.00 ioc"),
        ("buy 4", "2@100 2@101", "4@105.52/0.00 ioc"),
        ("buy 4@0/0", "2@100 2@101", "4@105.52/0.00 ioc"),
        # What is not shown counts at the last shown price, an empty book at the last price.
        ("buy 4", "2@100", "4@105.00/0.00 ioc"),
        ("buy 4", "", "4@105.00/0.00 ioc"),
        # Never below the worst price of what is shown: the order is to fill.
        ("buy 3", "2@10 1@300", "3@300.00/0.00 ioc"),
        # A stop-market buy: its stop and 5 %.
        ("buy 2@0/110", "5@100", "2@115.50/110.00 ioc"),
        # Limits and stop-limits go as they are.
        ("buy 2@100", "5@100", "2@100.00/0.00 gtc"),
        ("buy 2@112/110", "5@100", "2@112.00/110.00 gtc"),
    ],
)
def test_a_buy_without_a_limit_is_sent_with_the_worst_price_that_its_cash_covers(
    db: DAL, alice: int, text: str, asks: str, sent: str
) -> None:
    intent = _reserve(db, alice, _request(text), asks=asks)
    command = intent.command
    prices = f"{format_price(command.price)}/{format_price(command.stop)}"
    assert f"{command.quantity}@{prices} {command.tif}" == sent
    assert intent.reserved == command.quantity * command.price


def test_a_market_buy_that_must_fill_whole_stays_so(db: DAL, alice: int) -> None:
    request = _request("buy 2", tif=TimeInForce.FOK)
    assert _reserve(db, alice, request, asks="5@100").command.tif is TimeInForce.FOK


def test_the_worst_price_lies_on_the_products_grid(db: DAL, alice: int) -> None:
    product = msgspec.structs.replace(PRODUCT, tick=2_500)
    intent = _reserve(db, alice, _request("buy 3"), asks="3@100.50", product=product)
    assert format_price(intent.command.price) == "105.50"  # 105.525, down to the quarter
    # Down to the grid must not leave 0: that would be a market order, with no bound at all.
    intent = _reserve(db, alice, _request("buy 3@0/0.10", "web-2"), product=product)
    assert format_price(intent.command.price) == "0.25"


@pytest.mark.parametrize(
    ("held", "text", "bids", "tied_up"),
    [
        (10, "sell 10@60", "", "0.00"),
        (10, "sell 12@60", "", "120.00"),
        (0, "sell 12@60", "", "720.00"),
        (0, "sell 2", "5@99 5@98", "198.00"),
        (0, "sell 2", "", "200.00"),
        # A low limit ties up what the order brings in, not what it would be content with.
        (0, "sell 2@1", "5@99", "198.00"),
        (0, "sell 2@100", "5@99", "200.00"),
        (0, "sell 2@0/90", "5@99", "180.00"),
        (0, "sell 2@85/90", "5@99", "180.00"),
    ],
)
def test_a_sell_ties_up_the_shares_held_and_beyond_them_its_value(
    db: DAL, alice: int, held: int, text: str, bids: str, tied_up: str
) -> None:
    _hold(db, alice, held, "100")
    intent = _reserve(db, alice, _request(text), bids=bids)
    assert format_price(intent.reserved) == tied_up
    with transaction(db):
        assert portfolio.cash(db, alice).intents == intent.reserved
    # Sells go as they were asked for: a market order's price is not bounded from below.
    assert intent.command.price == _request(text).price


def test_the_same_shares_do_not_cover_two_sells(db: DAL, alice: int) -> None:
    _hold(db, alice, 10, "100")
    assert _reserve(db, alice, _request("sell 6@50", "web-1")).reserved == 0
    assert format_price(_reserve(db, alice, _request("sell 6@50", "web-2")).reserved) == "100.00"


def test_a_product_that_may_not_be_sold_short_is_sold_as_far_as_shares_are_held(
    db: DAL, alice: int
) -> None:
    product = msgspec.structs.replace(PRODUCT, allow_short=False)
    _hold(db, alice, 10, "100")
    assert _reserve(db, alice, _request("sell 10@50"), product=product).fresh
    with pytest.raises(Refused) as refused:
        _reserve(db, alice, _request("sell 1@50", "web-2"), product=product)
    assert (refused.value.code, refused.value.rule) == ("short_not_allowed", "R17")


def test_who_has_tied_everything_up_by_a_short_position_can_still_buy_it_back(
    db: DAL, alice: int
) -> None:
    # 20 sold at 100: 2,000 of proceeds on top of 1,000, and twice the proceeds tied up.
    _hold(db, alice, -20, "2000")
    with transaction(db, write=True):
        execute(db, "UPDATE auth_user SET actual_cash = 30000000 WHERE id = ?", alice)
    assert _available(db, alice) == "-1000.00"
    with pytest.raises(Refused, match="ties up"):
        _reserve(db, alice, _request("sell 1@1"))
    with pytest.raises(Refused, match="ties up"):
        _reserve(db, alice, _request("buy 21@200"))
    assert _reserve(db, alice, _request("buy 15@200", "web-2")).fresh
    assert _reserve(db, alice, _request("buy 5@200", "web-3")).fresh
    with pytest.raises(Refused, match="ties up"):
        _reserve(db, alice, _request("buy 1@1", "web-4"))


@pytest.mark.parametrize(
    "request_",
    [
        Request(side=Side.BUY, quantity=0, price=1, client_id="web-1"),
        Request(side=Side.BUY, quantity=-1, price=1, client_id="web-1"),
        Request(side=Side.BUY, quantity=1, price=-1, client_id="web-1"),
        Request(side=Side.BUY, quantity=10**12, price=10**13, client_id="web-1"),
        Request(side=Side.SELL, quantity=10**12, stop=10**13, client_id="web-1"),
        Request(side=Side.BUY, quantity=1, price=1, client_id=""),
        Request(side=Side.BUY, quantity=1, price=1, client_id="a b"),
        Request(side=Side.BUY, quantity=1, price=1, client_id="x" * 37),
    ],
)
def test_nonsense_is_refused_before_it_is_stored(db: DAL, alice: int, request_: Request) -> None:
    with pytest.raises(Refused) as refused:
        _reserve(db, alice, request_)
    assert refused.value.code == "invalid_order"
    with transaction(db):
        assert rows(db, "SELECT COUNT(*) FROM order_intent") == [(0,)]


def test_twenty_who_reserve_at_once_never_take_more_than_there_is(db: DAL, alice: int) -> None:
    start = threading.Barrier(20)

    def attempt(number: int) -> int:
        start.wait()
        try:
            return _reserve(db, alice, _request("buy 1@170", f"web-{number}")).reserved
        except Refused:
            return 0
        finally:
            close(db)

    with ThreadPoolExecutor(20) as pool:
        taken = sum(pool.map(attempt, range(20)))
    assert format_price(taken) == "850.00", "five times 170 fit into 1000"
    assert _available(db, alice) == "150.00"


def test_of_twenty_clicks_with_one_id_one_is_sent(db: DAL, alice: int) -> None:
    start = threading.Barrier(20)

    def attempt(_: int) -> bool:
        start.wait()
        try:
            return _reserve(db, alice, _request("buy 1@170")).fresh
        finally:
            close(db)

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(attempt, range(20))) == [False] * 19 + [True]
    assert _available(db, alice) == "830.00"


def test_the_same_request_again_is_what_it_was_whatever_the_book_says_now(
    db: DAL, alice: int
) -> None:
    first = _reserve(db, alice, _request("buy 2"), asks="5@100")
    again = _reserve(db, alice, _request("buy 2"), asks="5@120")
    assert not again.fresh
    assert (again.id, again.command) == (first.id, first.command)
    with pytest.raises(Refused) as refused:
        _reserve(db, alice, _request("buy 3"), asks="5@100")
    assert (refused.value.code, refused.value.rule) == ("duplicate_id", "R14")


def test_ids_are_the_owners_own(db: DAL, alice: int) -> None:
    bob = add_user(db, "bob", cash="1000").id
    assert _reserve(db, alice, _request("buy 1@1")).fresh
    assert _reserve(db, bob, _request("buy 2@2")).fresh


def test_a_rejected_order_frees_its_cash_and_uses_no_id_up(db: DAL, alice: int) -> None:
    intent = _reserve(db, alice, _request("buy 10@100"))
    with transaction(db, write=True):
        intents.rejected(db, intent.id, code="bad_lot", message="100 is no lot", at=SENT)
    assert _available(db, alice) == "1000.00"
    with transaction(db):
        stored = intents.get(db, alice, "intc", "web-1")
    assert stored is not None
    assert (stored.state, stored.code, stored.message) == (
        State.REJECTED,
        "bad_lot",
        "100 is no lot",
    )
    again = _reserve(db, alice, _request("buy 5@100"))
    assert again.fresh
    assert (again.state, again.code) == (State.RESERVED, "")
    assert _available(db, alice) == "500.00"


def test_an_accepted_order_counts_once_before_and_after_the_database_has_its_row(
    db: DAL, alice: int
) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    with transaction(db, write=True):
        intents.accepted(db, intent.id, oid=1, at=SENT)
    assert _available(db, alice) == "900.00"
    _journal(db, alice, "web-1")
    assert _available(db, alice) == "900.00"
    with transaction(db):
        assert portfolio.cash(db, alice).intents == 0
        assert portfolio.cash(db, alice).open_buys == 1_000_000
    # The next order puts it away; a late answer does not bring it back.
    _reserve(db, alice, _request("buy 1@1", "web-2"))
    with transaction(db, write=True):
        intents.accepted(db, intent.id, oid=1, at=SENT)
        stored = intents.get(db, alice, "intc", "web-1")
    assert stored is not None
    assert (stored.state, stored.oid) == (State.JOURNALED, 1)


def test_an_order_without_an_answer_keeps_its_cash_until_it_is_resolved(
    db: DAL, alice: int
) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    crashed = _reserve(db, alice, _request("buy 1@50", "web-2"))
    answered = _reserve(db, alice, _request("buy 1@50", "web-3"))
    with transaction(db, write=True):
        intents.unknown(db, intent.id, at=SENT)
        intents.accepted(db, answered.id, oid=3, at=SENT)
    assert _available(db, alice) == "800.00"
    with transaction(db):
        found = intents.unresolved(db)
        assert [each.id for each in found] == [intent.id, crashed.id]


@pytest.mark.parametrize(
    ("found_oid", "reply_seq", "asked_after", "row", "state", "available"),
    [
        # The matching server knows it.
        (7, 12, 1.0, None, State.ACCEPTED, "900.00"),
        # The database has its row, whatever the server says.
        (7, 12, 1.0, "open", State.JOURNALED, "900.00"),
        (None, 10, 9.0, "open", State.JOURNALED, "900.00"),
        (None, 10, 9.0, "canceled", State.JOURNALED, "1000.00"),
        # Not found, asked while the command could still arrive: nothing is certain.
        (None, 10, 1.0, None, State.UNKNOWN, "900.00"),
        (None, 10, 5.0, None, State.UNKNOWN, "900.00"),
        # Not found past ts + 5 s, but log2db has not come as far as the reply.
        (None, 11, 9.0, None, State.UNKNOWN, "900.00"),
        # Not found, past that, log2db there, no row: never.
        (None, 10, 5.000001, None, State.NEVER, "1000.00"),
        (None, 3, 9.0, None, State.NEVER, "1000.00"),
    ],
)
def test_what_find_and_the_database_together_make_of_an_unknown_order(
    db: DAL,
    alice: int,
    found_oid: int | None,
    reply_seq: int,
    asked_after: float,
    row: str | None,
    state: State,
    available: str,
) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    if row is not None:
        _journal(db, alice, "web-1", oid=7, status=row)
    with transaction(db, write=True):
        intents.unknown(db, intent.id, at=SENT)
        asked_at = SENT + round(asked_after * 1_000_000)
        resolved = intents.resolve(
            db,
            intent,
            found_oid=found_oid,
            seq=reply_seq,
            lineage="a",
            asked_at=asked_at,
            at=asked_at,
        )
        stored = intents.get(db, alice, "intc", "web-1")
    assert stored is not None
    assert resolved is stored.state is state
    assert stored.oid == (7 if state in (State.ACCEPTED, State.JOURNALED) else None)
    assert _available(db, alice) == available


@only_postgres
def test_a_row_that_comes_while_its_order_is_looked_for_is_not_missed(
    db: DAL, var: Var, alice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every moment at which log2db's row may appear: before each of resolve's statements."""
    other, real, answers = open_database(uri_of(var)), intents.rows, []
    asked_at = SENT + 9_000_000
    for moment in range(5):
        client_id = f"web-{moment}"
        intent = _reserve(db, alice, _request("buy 2@50", client_id))
        countdown = iter(range(moment, -1, -1))

        def settle_at_last(
            database: DAL,
            sql: str,
            *values: object,
            left: Iterator[int] = countdown,
            client_id: str = client_id,
            oid: int = moment + 1,
        ) -> list[Any]:
            if next(left, -1) == 0:
                _journal(other, alice, client_id, oid=oid)
                with transaction(other, write=True):
                    execute(other, "UPDATE log_position SET seq = seq + 1")
            return real(database, sql, *values)

        with monkeypatch.context() as patched, transaction(db, write=True):
            seq = portfolio.as_of(db, "intc") + 1
            for module in (intents, portfolio):
                patched.setattr(module, "rows", settle_at_last)
            answers.append(
                intents.resolve(
                    db, intent, found_oid=None, seq=seq, lineage="a", asked_at=asked_at, at=asked_at
                )
            )
    close(other)
    assert State.NEVER not in answers
    assert State.JOURNALED in answers


@only_postgres
def test_an_answer_that_comes_while_the_order_is_looked_for_is_not_overwritten(
    db: DAL, var: Var, alice: int
) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    asked_at = SENT + 9_000_000
    other = open_database(uri_of(var))

    def look() -> State:
        with transaction(other, write=True):
            state = intents.resolve(
                other, intent, found_oid=None, seq=10, lineage="a", asked_at=asked_at, at=asked_at
            )
        close(other)
        return state

    with ThreadPoolExecutor(1) as pool:
        with transaction(db, write=True):
            intents.rejected(db, intent.id, code="busy", message="", at=SENT)
            looking = pool.submit(look)
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM"
            waiting += " pg_stat_activity WHERE datname = current_database())"
            wait_until(lambda: command(uri_of(var), waiting), "the other one to wait")
        assert looking.result() is State.REJECTED


def test_an_outcome_of_an_earlier_sending_says_nothing_of_a_later_one(db: DAL, alice: int) -> None:
    earlier = _reserve(db, alice, _request("buy 2@50"))
    with transaction(db, write=True):
        intents.rejected(db, earlier.id, code="busy", message="", at=SENT)
    later = _reserve(db, alice, _request("buy 2@50"), ts=TS + 60_000)
    with transaction(db, write=True):
        asked_at = SENT + 30_000_000  # past the earlier one's deadline, and before the later one
        state = intents.resolve(
            db, earlier, found_oid=None, seq=10, lineage="a", asked_at=asked_at, at=asked_at
        )
    assert later.fresh
    assert state is State.RESERVED
    assert _available(db, alice) == "900.00"


def test_a_server_with_another_journal_than_the_databases_proves_nothing(
    db: DAL, alice: int
) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    later = SENT + 9_000_000
    for lineage, state in (("b", State.UNKNOWN), ("a", State.NEVER)):
        with transaction(db, write=True):
            found = intents.resolve(
                db, intent, found_oid=None, seq=3, lineage=lineage, asked_at=later, at=later
            )
        assert found is state


def test_an_order_that_never_got_there_may_be_sent_again(db: DAL, alice: int) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    with transaction(db, write=True):
        intents.resolve(
            db, intent, found_oid=None, seq=10, lineage="a", asked_at=SENT + 9_000_000, at=SENT
        )
    assert _reserve(db, alice, _request("buy 2@50")).fresh


def test_an_accepted_order_without_a_row_is_asked_about_now_and_then(db: DAL, alice: int) -> None:
    accepted = _reserve(db, alice, _request("buy 1@50"))
    _reserve(db, alice, _request("buy 1@50", "web-2"))
    with transaction(db, write=True):
        intents.accepted(db, accepted.id, oid=1, at=SENT)

    def unseen(*tickers: str, older_than: int = SENT + 1) -> list[int]:
        with transaction(db):
            found = intents.unseen(db, tickers, older_than=older_than)
        return [intent.id for intent in found]

    assert unseen("gs", "intc") == [accepted.id]
    assert unseen("gs") == unseen() == []
    assert unseen("intc", older_than=SENT) == []
    with transaction(db, write=True):
        known = intents.get(db, alice, "intc", "web-1")
        assert known is not None
        intents.resolve(db, known, found_oid=1, seq=9, lineage="a", asked_at=SENT + 9, at=SENT + 9)
    assert unseen("intc") == [], "it has just been asked about"


def test_an_accepted_order_whose_journal_is_lost_frees_its_cash(db: DAL, alice: int) -> None:
    intent = _reserve(db, alice, _request("buy 2@50"))
    later = SENT + 60_000_000

    def resolve(known: Intent, seq: int) -> State:
        with transaction(db, write=True):
            return intents.resolve(
                db, known, found_oid=None, seq=seq, lineage="a", asked_at=later, at=later
            )

    with transaction(db, write=True):
        intents.accepted(db, intent.id, oid=1, at=SENT)
        accepted = intents.get(db, alice, "intc", "web-1")
    assert accepted is not None
    assert resolve(intent, 10) is State.ACCEPTED, "the answer came after `find` was asked"
    assert resolve(accepted, 11) is State.UNKNOWN, "log2db has not come so far"
    assert _available(db, alice) == "900.00"
    with transaction(db, write=True):
        execute(db, "UPDATE log_position SET seq = 11")
    assert resolve(accepted, 11) is State.NEVER
    assert _available(db, alice) == "1000.00"
